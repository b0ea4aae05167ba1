"""The distribution's C compilers, for this host's ISA and the other one."""

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from images.errors import HostError

COMPILE_S = 60
_TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}


class CompilerSaysNo(Exception):
    """The source does not compile; the text is what the compiler said."""


def compiler(arch: str, source: str) -> str:
    """The program that compiles for `arch` on this host. Raises HostError when it is not installed."""
    name = "gcc" if arch == platform.machine() else f"{_TRIPLETS[arch]}-gcc"
    if shutil.which(name) is None:
        package = "gcc" if name == "gcc" else f"gcc-{_TRIPLETS[arch].replace('_', '-')}"
        raise HostError(f"there is no {name} to compile {source} for {arch}", f"apt-get install {package}")
    return name


def compiled(source: Path, arch: str, flags: Sequence[str], libraries: Sequence[str] = ()) -> bytes:
    """An executable of one C file for `arch`. Raises CompilerSaysNo, or HostError when there is no compiler."""
    with tempfile.TemporaryDirectory(prefix="testbed-compile-") as folder:
        binary = Path(folder) / "program"
        command = [
            compiler(arch, source.name),
            *flags,
            "-o",
            str(binary),
            str(source),
            *(f"-l{each}" for each in libraries),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, stdin=subprocess.DEVNULL)
        if done.returncode != 0 or not binary.exists():
            raise CompilerSaysNo(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr.strip()}")
        return binary.read_bytes()
