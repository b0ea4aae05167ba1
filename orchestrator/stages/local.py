"""Stage `local`: the same daemons and workloads as processes of this host.

The segment is a memfd, doorbells are eventfds, page faults come from real userfaultfd; only the machines are missing.
"""

import mmap
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from guest.link.segment import format_segment
from images.errors import HostError
from orchestrator.experiments.experiment import IvshmemLink, Testbed
from orchestrator.results.directories import RunDirectory
from orchestrator.results.summary import NodeSummary
from orchestrator.stages.agents import AgentProcess, Agents
from testbed.deadline import Deadline

SOURCES = Path(__file__).parents[2]
"""The folder that holds the package `guest`."""
AGENT = "guest.agent"
"""The module that is run for each node."""
_MARK = "TESTBED_AGENT"
"""`guest.runs.strays.MARK`."""
LEAVE_S = 2.0
"""How long an agent may take to leave once its input is closed."""


class LocalProcess:
    """An agent as a child process, in a process group of its own so that Ctrl-C reaches this program alone."""

    def __init__(self, name: str, inherited: list[int]) -> None:
        self._errors = tempfile.TemporaryFile(prefix=f"agent-{name}-")  # noqa: SIM115 - closed in close()
        self._mark = f"{_MARK}={os.getpid()}-{name}-{time.monotonic_ns()}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", AGENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=inherited,
            start_new_session=True,
            cwd=SOURCES,
            env=os.environ | dict([self._mark.split("=")]),
        )
        self._final = ""

    @property
    def stdin(self) -> BinaryIO:
        assert self._process.stdin is not None
        return self._process.stdin  # type: ignore[return-value]  # typeshed says IO[bytes]

    @property
    def stdout(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    def said(self) -> str:
        if self._errors.closed:
            return self._final
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")

    def ended(self) -> str:
        try:
            code = self._process.wait(0.2)  # its output may be closed a moment before it is gone
        except subprocess.TimeoutExpired:
            return ""
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def close(self) -> None:
        if self._errors.closed:
            return
        try:
            self.stdin.close()
        except OSError:
            pass  # what was still to be written has no reader any more
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # the group: its applications too
        except ProcessLookupError:
            pass
        if self._process.wait():  # it could not clear up itself
            _end_marked(self._mark)
            for folder in Path(tempfile.gettempdir()).glob(f"testbed-{self._process.pid}-*"):
                shutil.rmtree(folder, ignore_errors=True)
        self.stdout.close()
        self._final = self.said()
        self._errors.close()


def _end_marked(mark: str) -> None:
    """End the processes that have this in their environment, whatever their session and their parent; returns when they
    have ended."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes().split(b"\0"):
                pidfd = os.pidfd_open(int(environment.parent.name))
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], LEAVE_S)
                os.close(pidfd)
        except OSError:
            continue  # it has ended, or is somebody else's


class LocalStage:
    """Implements `orchestrator.stages.stage.Stage`."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._memory: dict[str, tuple[int, mmap.mmap]] = {}
        self._doorbells: dict[str, list[list[int]]] = {}
        self._processes: dict[str, LocalProcess] = {}

    def deadline(self, seconds: float) -> Deadline:
        """Processes of this host run at its speed."""
        return Deadline(seconds)

    def provision(self) -> list[NodeSummary]:
        """One memfd a link, one eventfd a vector of every node on it."""
        try:
            for name, link in self._testbed.links.items():
                if isinstance(link, IvshmemLink):
                    fd = os.memfd_create(f"segment-{name}", os.MFD_CLOEXEC)
                    os.ftruncate(fd, link.size)
                    self._memory[name] = fd, mmap.mmap(fd, link.size)
                    bells = [[os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)] for _ in link.nodes]
                    self._doorbells[name] = bells
        except OSError as error:
            raise HostError(
                f"cannot make the memory of the links: {error.strerror}", "free memory, or take a smaller size"
            ) from None
        arch = platform.machine()
        reason = "a process of this host, no machine"
        return [NodeSummary(name, arch, "none", reason, 0.0) for name in self._testbed.nodes]

    def deploy(self) -> Agents:
        """Start an agent for every node, from this source tree."""
        inherited = [fd for fd, _ in self._memory.values()]
        inherited += [bell for bells in self._doorbells.values() for own in bells for bell in own]
        for name in self._testbed.nodes:
            self._processes[name] = LocalProcess(name, inherited)
        processes: dict[str, AgentProcess] = dict(self._processes)
        return Agents(processes, "what its process has said is in consoles/ of the results")

    def format_segment(self, link: str, kernels: int) -> None:
        format_segment(memoryview(self._memory[link][1]), kernels)

    def link_for(self, link: str, _node: str) -> dict[str, Any]:
        return {"kind": "host", "memory_fd": self._memory[link][0], "doorbell_fds": self._doorbells[link]}

    def taken_down(self) -> bool:
        return False

    def ways_in(self) -> list[str]:
        return []

    def collect(self, directory: RunDirectory) -> None:
        """There is no console: what the agents said on standard error is kept in its place."""
        for name, process in self._processes.items():
            directory.keep_console(name, process.said())

    def teardown(self, *, keep: bool) -> None:
        assert not keep, "processes of this host are not kept"
        for process in self._processes.values():
            process.close()
        for fd, _ in self._memory.values():
            os.close(fd)  # the mapping goes with the last view of it: a signal may have stopped one that was at work
        for bells in self._doorbells.values():
            for own in bells:
                for bell in own:
                    os.close(bell)
        self._memory.clear()
        self._doorbells.clear()
