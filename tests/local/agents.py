"""Agents of a few kernels as processes of this host, over a memfd and eventfds, for the tests."""

import json
import mmap
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from guest.link.segment import Segment, format_segment

SEGMENT_BYTES = 8 << 20
ANSWER_DEADLINE_S = 30.0
PATIENCE_S = 25.0
Answer = dict[str, Any]


class AgentProcess:
    """One agent, spoken to in JSON lines."""

    def __init__(self, kernel: int, inherited: list[int], module: str) -> None:
        self.kernel = kernel
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited
        )
        self._rest = b""

    def send(self, **command: Any) -> None:
        self.send_line(json.dumps(command).encode())

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Answer:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_DEADLINE_S
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            assert left > 0, f"kernel {self.kernel} did not answer within {ANSWER_DEADLINE_S} s"
            if select.select([descriptor], [], [], left)[0]:
                data = os.read(descriptor, 1 << 20)
                assert data, f"the agent of kernel {self.kernel} ended with {self.process.wait()}"
                self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        answer: Answer = json.loads(line)
        return answer

    def ask(self, **command: Any) -> Answer:
        self.send(**command)
        return self.answer()


class Agents:
    """`kernels` agents and the segment between them."""

    def __init__(
        self, kernels: int, segment_bytes: int = SEGMENT_BYTES, more: Sequence[int] = (), module: str = "guest.agent"
    ) -> None:
        self.kernels = kernels
        self._memory_fd = os.memfd_create("segment")
        os.ftruncate(self._memory_fd, segment_bytes)
        self._mapping = mmap.mmap(self._memory_fd, segment_bytes)
        self.memory = memoryview(self._mapping)
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(kernels)]
        inherited = [self._memory_fd, *self._bells, *more]
        self.agents = [AgentProcess(kernel, inherited, module) for kernel in range(kernels)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self.agents:
            assert agent.process.stdin is not None
            assert agent.process.stdout is not None
            agent.process.stdin.close()
            try:
                agent.process.wait(ANSWER_DEADLINE_S)
            finally:
                agent.process.kill()
                agent.process.wait()
                agent.process.stdout.close()
        for descriptor in (self._memory_fd, *self._bells):
            os.close(descriptor)

    def link(self) -> dict[str, Any]:
        return {"kind": "host", "memory_fd": self._memory_fd, "doorbell_fds": [[bell] for bell in self._bells]}

    def link_of(self, _kernel: int) -> dict[str, Any]:
        """As that kernel sees it."""
        return self.link()

    def format(self) -> Segment:
        return format_segment(self.memory, self.kernels)

    def segment(self) -> Segment:
        """The segment as the host sees it while agents have it open."""
        return Segment.open(self.memory)

    def open(self, notify: str = "adaptive", pages: int = 64, **more: Any) -> None:
        """Nobody is taken for dead in a hurry, unless the test asks for it: this machine may have much else to do."""
        self.format()
        common = {"kernels": self.kernels, "notify": notify, "pages": pages, "failure_deadline_s": PATIENCE_S, **more}
        for agent in self.agents:
            agent.send(op="open", kernel=agent.kernel, link=self.link_of(agent.kernel), **common)
        for agent in self.agents:
            answer = agent.answer()
            assert answer["event"] == "opened", answer

    def start(self, roles: list[list[str]], deadline_s: float = 25, **workload: Any) -> None:
        described = {"kind": "shared-array", "stride": 64, **workload}
        for agent in self.agents:
            agent.send(op="run", workload=described, roles=roles[agent.kernel], all_roles=roles, deadline_s=deadline_s)

    def run(self, roles: list[list[str]], **workload: Any) -> list[Answer]:
        self.start(roles, **workload)
        return [agent.answer() for agent in self.agents]

    def close(self) -> None:
        for agent in self.agents:
            answer = agent.ask(op="close")
            assert answer["event"] == "closed", answer
