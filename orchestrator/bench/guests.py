"""The two guests that a bench run measures: one of each ISA, with shared memory and an Ethernet link between them."""

import json
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from guest.link.segment import format_segment
from images import ensure
from orchestrator.experiments.experiment import Arch, EthernetLink, IvshmemLink, Node, Testbed
from orchestrator.progress import Say
from orchestrator.stages.agents import Agents
from orchestrator.stages.deployment import TARGET, archive, start_agent
from testbed import Deadline, GuestError
from testbed import Testbed as RunningTestbed
from testbed.network import ethernet_address

NODES = ("x86", "arm")
"""In the order of their kernel ids."""
SEGMENT, NETWORK = "shm0", "net0"
SHAPE = Testbed(
    nodes={"x86": Node(arch=Arch.X86_64), "arm": Node(arch=Arch.AARCH64)},
    links={
        SEGMENT: IvshmemLink(kind="ivshmem-doorbell", size=64 << 20, nodes=NODES),
        NETWORK: EthernetLink(kind="ethernet", nodes=NODES),
    },
)
DEPLOY_S = 20.0
COMMAND_S = 60.0
"""Longest time one measurement may take with hardware acceleration."""
_RUN = 'cd "$0" && exec python3 -S -m "$@"'


class Guests:
    """Both guests with the guest side's code on them, an agent and a shell each. A context: leaving ends those."""

    def __init__(self, testbed: RunningTestbed, say: Say) -> None:
        self._testbed = testbed
        self._say = say
        self._ends = ExitStack()

    def __enter__(self) -> "Guests":
        with self._ends:
            code = archive(ensure(platform.machine(), self._say), self._say)
            deadline = self.deadline(DEPLOY_S)
            nodes = list(self._testbed.nodes.values())
            with ThreadPoolExecutor(len(nodes), thread_name_prefix="deploy") as pool:
                started = [pool.submit(start_agent, node, code, deadline) for node in nodes]
                opened = [pool.submit(node.shell, deadline) for node in nodes]
            self.agents = Agents({node.name: each.result() for node, each in zip(nodes, started, strict=True)})
            self._ends.callback(self.agents.close)
            self.shells = {node.name: each.result() for node, each in zip(nodes, opened, strict=True)}
            for shell in self.shells.values():
                self._ends.callback(shell.close)
            self._peer = self._ends.enter_context(self._testbed.segment(SEGMENT))
            # An agent answers only when its code is unpacked, which the shells rely on from now on.
            self.ask({node: {"op": "hello"} for node in NODES})
            self._ends = self._ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def deadline(self, seconds: float) -> Deadline:
        """Scaled by the slower accelerator of the two."""
        nodes = self._testbed.nodes.values()
        return max((Deadline.scaled(seconds, node.accelerator) for node in nodes), key=lambda each: each.seconds)

    def address(self, node: str) -> str:
        """The node's IPv4 address on the Ethernet link."""
        spec = self._testbed.spec
        return ethernet_address(spec, next(link for link in spec.links if link.name == NETWORK), node)

    def format_segment(self) -> None:
        """Make the shared memory an empty segment for both kernels; nobody has it open."""
        format_segment(self._peer.memory, len(NODES))

    def ask(self, commands: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Have the agents carry out their commands side by side."""
        return self.agents.ask(commands, self.deadline(COMMAND_S))

    def run(self, node: str, *words: str) -> dict[str, Any]:
        """Run a program on a node that prints one line of JSON. Raises GuestError when it does not."""
        done = self.shells[node].run(words, deadline=self.deadline(COMMAND_S))
        try:
            if done.exit_code == 0:
                return dict(json.loads(done.stdout))
        except ValueError:
            pass
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise GuestError(f"node {node}: {' '.join(words)} ended with exit code {done.exit_code} and said:\n{said}")

    def run_module(self, node: str, module: str, *words: str) -> dict[str, Any]:
        """Run a module of the guest side's code that prints one line of JSON."""
        return self.run(node, *self.module_command(module, *words))

    @staticmethod
    def module_command(module: str, *words: str) -> list[str]:
        """The command line that runs it."""
        return ["sh", "-c", _RUN, TARGET, module, *words]
