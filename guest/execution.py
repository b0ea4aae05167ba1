"""Command lines of the workload `command`: run one after the other, in a folder of their own, until one fails.

They share nothing with the daemon. What they say and how they end goes into the agent's answer; files they leave are
fetched afterwards, and the folder goes with the next execution or with the agent.
"""

import os
import signal
from collections.abc import Collection
from pathlib import Path
from time import monotonic_ns
from typing import Any, NoReturn

from guest.errors import GuestFailure
from guest.runs.launcher import die_with
from guest.runs.strays import MARK, end_strays

OUTPUT_KEPT = 1 << 16
"""Bytes of what the commands say that are kept, the last ones."""
_SAID_LINES = 15
_COPY_BYTES = 1 << 20


class ExecutionFailed(GuestFailure):
    """A command did not end well, or not in time."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
        """`check`: it ended with another status than 0; `deadline`; `aborted`; `command`: there is no such program."""


class Execution:
    """Some command lines, and their folder. `poll` it when `pidfd` is readable, or time passes."""

    def __init__(
        self,
        commands: list[list[str]],
        files: dict[str, int],
        environment: dict[str, str],
        deadline_ns: int | None,
        spared: Collection[int] = (),
    ) -> None:
        """`files` are descriptors of what is to lie in the folder, by name; `spared` are children of this process that
        no command has started."""
        self._spared = spared
        self.folder = Path(os.environ.get("TMPDIR") or "/tmp") / f"testbed-{os.getpid()}-{monotonic_ns()}"
        self._commands = list(commands)
        inherited = {name: os.environ[name] for name in ("PATH", MARK) if name in os.environ}
        self._environment = {"PATH": os.defpath, **inherited, "HOME": str(self.folder), **environment}
        self._deadline_ns = deadline_ns
        self._begun_ns = monotonic_ns()
        self._output_fd = os.memfd_create("output", os.MFD_CLOEXEC)
        self._pid = 0
        self.pidfd = -1
        self.folder.mkdir(0o700)
        for name, fd in files.items():
            _copy(fd, self.folder / name)
        self._next()

    @property
    def running(self) -> bool:
        """Whether a command runs."""
        return self._pid != 0

    def poll(self) -> dict[str, Any] | None:
        """The answer once all commands have ended, None while one runs. Raises ExecutionFailed."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            if self._deadline_ns is not None and monotonic_ns() > self._deadline_ns:
                self.kill()
                raise ExecutionFailed("deadline", f"`{self._shown}` is not over in time{self._said()}")
            return None
        self._reaped()
        code = os.waitstatus_to_exitcode(status)
        if code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ExecutionFailed("check", f"`{self._shown}` ended: {how}{self._said()}")
        if self._commands:
            self._next()
            return None
        duration_s = round((monotonic_ns() - self._begun_ns) / 1e9, 6)
        return {"event": "executed", "op": "execute", "output": self.output, "duration_s": duration_s}

    def remaining_ms(self) -> int | None:
        """How long a wait for the command may last."""
        if self._deadline_ns is None:
            return None
        return max(0, (self._deadline_ns - monotonic_ns()) // 1_000_000 + 1)

    def kill(self) -> None:
        """End the command and all that it started."""
        if self._pid:
            try:
                os.killpg(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has not become a leader of its group yet, or is gone
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._reaped()

    def close(self) -> None:
        """End it, and all that commands have left behind, and remove its folder."""
        self.kill()
        end_strays(self._spared)
        os.close(self._output_fd)
        for place, folders, names in os.walk(self.folder, topdown=False):
            for path in (Path(place, name) for name in [*names, *folders]):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.folder.rmdir()

    def read(self, name: str, offset: int, size: int) -> tuple[bytes, int]:
        """A piece of a file that lies in the folder, and the file's size. Raises ExecutionFailed."""
        if name.startswith("/") or ".." in name.split("/"):
            raise ExecutionFailed("command", f"file {name!r}, expected one in the commands' folder")
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(offset)
                return file.read(size), os.fstat(file.fileno()).st_size
        except OSError as error:
            there = ", ".join(sorted(path.name for path in self.folder.iterdir())) or "nothing"
            raise ExecutionFailed("check", f"file {name!r}: {error.strerror}; there is: {there}") from error

    def _next(self) -> None:
        argv = self._commands.pop(0)
        self._shown = " ".join(argv)
        agent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._become(argv, agent)
        self.pidfd = os.pidfd_open(self._pid)

    def _become(self, argv: list[str], agent: int) -> NoReturn:
        try:
            die_with(agent)
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(self.folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(self._output_fd, 1)
            os.dup2(self._output_fd, 2)
            os.execvpe(argv[0], argv, self._environment)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)  # as shells say that there is no such program

    def _reaped(self) -> None:
        os.close(self.pidfd)
        self._pid, self.pidfd = 0, -1

    @property
    def output(self) -> list[str]:
        """What the commands have said so far, the end of it. Before `close`."""
        size = os.fstat(self._output_fd).st_size
        text = os.pread(self._output_fd, OUTPUT_KEPT, max(0, size - OUTPUT_KEPT)).decode(errors="replace")
        return [text] if text else []

    def _said(self) -> str:
        last = "".join(self.output).strip().splitlines()[-_SAID_LINES:]
        return "".join(f"\n    {line}" for line in last)


def _copy(fd: int, path: Path) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    offset = 0
    while data := os.pread(fd, _COPY_BYTES, offset):
        offset += os.write(target, data)
    os.close(target)
