"""Running the host's programs: what they print is kept, and shown when they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from images.errors import HostError

# Which Debian and Ubuntu package has a program that a build calls.
PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "tar": "tar",
    "depmod": "kmod",
    "mkfs.erofs": "erofs-utils",
    "zstd": "zstd",
}
LAST_LINES = 15


def missing(program: str) -> HostError:
    """The error for a program that is not installed."""
    package = PACKAGES.get(program, program)
    return HostError(f"the program {program} is not installed", f"sudo apt-get install {package}")


def failed(program: str, code: int, output: bytes, hint: str = "") -> HostError:
    """The error for a program that ended with `code` after printing `output`."""
    lines = output.decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    shown = "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"
    return HostError(f"{program} ended with code {code}:\n{shown}", hint)


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Runs a program to its end and returns its standard output. Raises HostError when it is missing or fails."""
    program = Path(argv[0]).name
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, env=environment, check=False)
    except FileNotFoundError as error:
        raise missing(program) from error
    if done.returncode:
        raise failed(program, done.returncode, done.stderr or done.stdout)
    return done.stdout
