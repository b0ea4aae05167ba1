"""The C reference of the benchmark, compiled for the guests' ISAs."""

from pathlib import Path

from images.errors import HostError
from orchestrator.stages.compilers import CompilerSaysNo, compiled

SOURCE = Path(__file__).parents[2] / "guest" / "native" / "fault_reference.c"
FLAGS = ("-std=c17", "-O2", "-static", "-Wall", "-Wextra", "-Werror")
"""Static: a guest's image holds no C library of ours."""


def compile_reference(arch: str) -> bytes:
    """A static executable of `fault_reference.c` for `arch`. Raises HostError with what the compiler said."""
    try:
        return compiled(SOURCE, arch, FLAGS)
    except CompilerSaysNo as error:
        hint = "are the C library's headers for that ISA installed? packages.txt names the package"
        raise HostError(str(error), hint) from None
