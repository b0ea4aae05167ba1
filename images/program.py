"""Running the host's programs: what they print is kept, and shown when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any

from images.errors import HostError

# Which Debian and Ubuntu package has a program that a build calls.
PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "tar": "tar",
    "depmod": "kmod",
    "mkfs.erofs": "erofs-utils",
    "zstd": "zstd",
    "qemu-img": "qemu-utils",
    "xorriso": "xorriso",
}
LAST_LINES = 15
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Where depmod and what mmdebstrap calls are installed; the PATH of an ordinary user of Debian leaves them out."""

_running: set[subprocess.Popen[bytes]] = set()


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
    with started(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment) as process:
        output, messages = process.communicate(stdin)
    if process.returncode:
        raise failed(Path(argv[0]).name, process.returncode, messages or output)
    return output


@contextlib.contextmanager
def started(argv: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs inside this block, has ended after it, and meanwhile is known to `stop_all`.

    `options` are those of subprocess.Popen. Raises HostError when the program is missing.
    """
    environment = dict(options.pop("env", None) or os.environ)
    environment["PATH"] = os.pathsep.join([environment.get("PATH") or os.defpath, *SYSTEM_FOLDERS])
    try:
        # A process group of its own: mmdebstrap, when it is ended, sends SIGHUP to the whole group that it is in.
        process = subprocess.Popen(argv, start_new_session=True, env=environment, **options)
    except FileNotFoundError as error:
        raise missing(Path(argv[0]).name) from error
    _running.add(process)
    try:
        with process:
            yield process
    finally:
        _running.discard(process)


def stop_all() -> None:
    """Ends all running programs of this process, with their children, so that who waits for them goes on."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
