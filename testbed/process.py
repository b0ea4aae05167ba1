"""Processes that outlive the command that started them: knowing them again, and ending them and nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
GRACE_S = 3.0
"""Between asking a process to end and killing it. Guests hold nothing that would have to be saved."""
ASIDE = 64
"""Above all numbers that a program is given descriptors at."""
OWN = ("testbed.ivshmem_server", "testbed/ivshmem_server.py", "testbed.launcher")
"""How the programs of this package are named on a command line."""
_FIRST_FIELD = 3
"""Number of the first field of /proc/PID/stat behind the program's name, which may hold blanks itself (man 5 proc)."""
_STATE, _START_TIME = 3, 22


@functools.cache
def boot_id() -> str:
    """Tells one life of this host from the next."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


@dataclass(frozen=True)
class ProcessId:
    """One particular process. A bare pid may be another process's tomorrow; with the other two fields it is not.

    `start_ticks` is its start in clock ticks after the host's boot (field 22 of /proc/PID/stat).
    """

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has this pid now. Raises ProcessLookupError when there is none."""
        try:
            return cls(pid, int(_stat(pid)[_START_TIME - _FIRST_FIELD]), boot_id())
        except (OSError, IndexError) as error:
            raise ProcessLookupError(f"no process {pid}") from error

    def alive(self) -> bool:
        """Whether it still runs (one that has ended and was not yet waited for does not)."""
        if self.boot_id != boot_id():
            return False
        try:
            fields = _stat(self.pid)
        except OSError:
            return False
        return fields[_STATE - _FIRST_FIELD] not in "ZX" and int(fields[_START_TIME - _FIRST_FIELD]) == self.start_ticks

    def resident_bytes(self) -> int:
        """What it takes of the host's memory; 0 when it has ended."""
        try:
            pages = int((PROC / str(self.pid) / "statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") if self.alive() else 0

    def open(self) -> int | None:
        """A pidfd of it, which becomes readable when it ends; None when it has ended. The caller closes it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return None
        # Looked at after the descriptor holds the process: from here on the pid cannot pass to another one.
        if self.alive():
            return descriptor
        os.close(descriptor)
        return None

    def await_end(self, seconds: float) -> None:
        """Returns when it has ended, or after so long."""
        descriptor = self.open()
        if descriptor is not None:
            _await_end({self: descriptor}, seconds)
            os.close(descriptor)


def spawn_detached(argv: list[str], files: Mapping[int, int], log: Path) -> ProcessId:
    """Starts a program that Ctrl-C on the terminal and the end of this process do not reach.

    It is in a session of its own, its output goes to `log`, and of our descriptors it gets those of `files` (number
    there → number here) alone. Raises OSError when it cannot be started.
    """
    # Out of the way first: a number of ours may be another one's number there.
    aside = {there: fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, ASIDE) for there, here in files.items()}
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_DUP2, here, there) for there, here in aside.items()),
        # Whoever waits for the end of a pipe of ours (a shell's substitution, say) must not wait for this process.
        *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() if number > 2 and number not in files),
    ]
    defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    try:
        pid = os.posix_spawn(
            argv[0], argv, os.environ, file_actions=actions, setsid=True, setsigmask=[], setsigdef=defaults
        )
    finally:
        for descriptor in aside.values():
            os.close(descriptor)
    return ProcessId.of(pid)


def _inheritable() -> list[int]:
    found = []
    for name in os.listdir(PROC / "self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            if os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def end(processes: Iterable[ProcessId], grace_s: float = GRACE_S) -> list[ProcessId]:
    """Ends all of them: asks, waits `grace_s`, kills. Returns those that are still there, normally none."""
    return _signalled(processes, (signal.SIGTERM, signal.SIGKILL), grace_s)


def kill(processes: Iterable[ProcessId]) -> list[ProcessId]:
    """Ends all of them without asking. Returns those that are still there, normally none."""
    return _signalled(processes, (signal.SIGKILL,), GRACE_S)


def _signalled(processes: Iterable[ProcessId], numbers: tuple[signal.Signals, ...], grace_s: float) -> list[ProcessId]:
    held = {process: descriptor for process in processes if (descriptor := process.open()) is not None}
    try:
        left = dict(held)
        for number in numbers:
            for descriptor in left.values():
                with contextlib.suppress(OSError):  # it has ended, or is another user's: then it is reported as left
                    signal.pidfd_send_signal(descriptor, number)
            left = _await_end(left, grace_s if number is signal.SIGTERM else GRACE_S)
        return list(left)
    finally:
        for process, descriptor in held.items():
            os.close(descriptor)
            with contextlib.suppress(OSError):  # not our child, then somebody else waits for it
                os.waitpid(process.pid, os.WNOHANG)


def _await_end(held: Mapping[ProcessId, int], wait_s: float) -> dict[ProcessId, int]:
    end_at = time.monotonic() + wait_s
    left = dict(held)
    while left:
        poll = select.poll()
        for descriptor in left.values():
            poll.register(descriptor, select.POLLIN)
        ended = {descriptor for descriptor, _ in poll.poll(max(0.0, end_at - time.monotonic()) * 1000)}
        if not ended:
            break
        left = {process: descriptor for process, descriptor in left.items() if descriptor not in ended}
    return left


def arguments_of(pid: int) -> list[str]:
    """The command line of a process; empty when there is none."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")[:-1]


def naming(text: str) -> list[ProcessId]:
    """This user's QEMU processes and this package's own that have `text` in an argument.

    Needed for those that were started by a command that was killed before it could write their pid down. Other
    programs (an editor, `tail -f`) are left alone, whatever they have open.
    """
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid != os.geteuid():
                continue
            process = ProcessId.of(int(entry.name))
            arguments = arguments_of(process.pid)
            if _is_ours(arguments) and any(text in argument for argument in arguments) and process.alive():
                found.append(process)
    return found


def _is_ours(arguments: list[str]) -> bool:
    if not arguments:
        return False
    return Path(arguments[0]).name.startswith("qemu-system-") or any(word.endswith(OWN) for word in arguments[1:5])


def python() -> str:
    """The interpreter for processes of our own."""
    return sys.executable
