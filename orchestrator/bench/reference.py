"""Compiles the C reference for the guests' ISAs, with the compilers of the distribution."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from images.errors import HostError

SOURCE = Path(__file__).parents[2] / "guest" / "native" / "fault_reference.c"
FLAGS = ("-std=c17", "-O2", "-static", "-Wall", "-Wextra", "-Werror")
"""Static: a guest's image holds no C library of ours."""
COMPILE_S = 60

_TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}


def compiler(arch: str) -> str:
    """The program that compiles for `arch` on this host. Raises HostError when it is not installed."""
    name = "gcc" if arch == platform.machine() else f"{_TRIPLETS[arch]}-gcc"
    if shutil.which(name) is None:
        package = "gcc" if name == "gcc" else f"gcc-{_TRIPLETS[arch].replace('_', '-')}"
        raise HostError(f"there is no {name} to compile {SOURCE.name} for {arch}", f"apt-get install {package}")
    return name


def compile_reference(arch: str) -> bytes:
    """A static executable of `fault_reference.c` for `arch`. Raises HostError with what the compiler said."""
    with tempfile.TemporaryDirectory(prefix="testbed-bench-") as folder:
        binary = Path(folder) / SOURCE.stem
        command = [compiler(arch), *FLAGS, "-o", str(binary), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise HostError(
                f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr.strip()}",
                "are the C library's headers for that ISA installed? packages.txt names the package",
            )
        return binary.read_bytes()
