"""Stage `vm`: real guests, booted for the run, linked by ivshmem."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from guest.link.segment import format_segment
from orchestrator.experiments.experiment import Accelerator, Testbed
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.summary import NodeSummary
from orchestrator.stages.agents import AgentProcess, Agents
from orchestrator.stages.deployment import archive, start_agent
from orchestrator.stages.machines import Images, bring_up, images_for
from testbed import Deadline
from testbed import Testbed as RunningTestbed
from testbed.domain import SHARED_MEMORY_SLOT
from testbed.ivshmem_client import HostPeer
from testbed.machine import Node
from testbed.spec import SHARED
from testbed.warm import Mode

DEPLOY_S = 20.0
EVIDENCE = "evidence"
"""Folder in the results with the last words of machines that did not come up."""
WAY_IN = "`testbed run … --keep` and `testbed ssh NODE` show the guest as it is"
"""What a person can do whose guest's agent is gone."""


class VmStage:
    """Implements `orchestrator.stages.stage.Stage`."""

    def __init__(
        self,
        name: str,
        shape: Testbed,
        accelerator: Accelerator | None,
        directory: RunDirectory,
        progress: Progress,
        mode: Mode = Mode.AUTO,
        *,
        offline: bool = False,
    ) -> None:
        self._name = name
        self._shape = shape
        self._accelerator = accelerator
        self._directory = directory
        self._progress = progress
        self._mode = mode
        self._offline = offline
        self._running: RunningTestbed | None = None
        self._images: Images | None = None
        self._segments: dict[str, HostPeer] = {}

    def deadline(self, seconds: float) -> Deadline:
        """Scaled by the slowest accelerator there is among the nodes."""
        nodes = self._up().nodes.values()
        return max((Deadline.scaled(seconds, node.accelerator) for node in nodes), key=lambda each: each.seconds)

    def provision(self) -> list[NodeSummary]:
        """Boot all nodes, and join each shared memory as a peer, to format it."""
        Node.prepare_shell()
        self._images = images_for(self._shape, self._progress.say, offline=self._offline)
        self._running = bring_up(
            self._name,
            self._shape,
            self._accelerator,
            self._progress.detail,
            self._directory.path / EVIDENCE,
            self._images,
            kept=False,
            mode=self._mode,
        )
        return self._joined()

    def _joined(self) -> list[NodeSummary]:
        running = self._up()
        for link, settings in self._shape.links.items():
            if settings.kind == "ivshmem-doorbell":
                self._segments[link] = running.segment(link)
        summaries = []
        for node in running.nodes.values():
            boot_s = node.boot_s or 0.0
            reason = node.accelerator_reason
            how = f"{'warm' if node.warm else 'cold'} start in {boot_s:.1f} s"
            self._progress.say(f"{node.name}: {node.arch}, {how}, {node.accelerator} ({reason})")
            stages = dict(node.stages)
            assert self._images is not None, "machines have images"
            image = self._images.nodes[node.name].key
            summaries.append(
                NodeSummary(
                    node.name,
                    node.arch,
                    node.accelerator.value,
                    reason,
                    round(boot_s, 3),
                    stages,
                    node.warm,
                    node.warm_reason,
                    image=image,
                )
            )
        return summaries

    def deploy(self) -> Agents:
        """The same compiled code to all nodes at once."""
        nodes = list(self._up().nodes.values())
        assert self._images is not None, "the stage was not provisioned"
        code = archive(self._images.host, self._progress.say)
        deadline = self.deadline(DEPLOY_S)
        processes: dict[str, AgentProcess] = {}
        with ThreadPoolExecutor(len(nodes), thread_name_prefix="deploy") as pool:
            started = {node.name: pool.submit(start_agent, node, code, deadline) for node in nodes}
        for name, future in started.items():
            processes[name] = future.result()
        return Agents(processes, WAY_IN)

    def format_segment(self, link: str, kernels: int) -> None:
        format_segment(self._segments[link].memory, kernels)

    def link_for(self, link: str, node: str) -> dict[str, Any]:
        """By its PCI address: a node may be on several links of the same size."""
        names = [each.name for each in self._up().spec.links_of(node, *SHARED)]
        return {"kind": "ivshmem", "pci": f"0000:00:{SHARED_MEMORY_SLOT + names.index(link):02x}.0"}

    def ways_in(self) -> list[str]:
        if self._running is None or self._running.is_ending:
            return []
        return [f"testbed ssh {node}.{self._name}" for node in self._shape.nodes]

    def taken_down(self) -> bool:
        return self._running is not None and self._running.is_ending

    def collect(self, directory: RunDirectory) -> None:
        """Consoles and domain XML, of machines that did not come up too."""
        evidence = directory.path / EVIDENCE
        for name in self._shape.nodes:
            node = self._running.nodes[name] if self._running else None
            console = node.console if node else evidence / f"{name}.console"
            if said := _text(console):
                directory.keep_console(name, said)
            xml = node.domain_xml if node else _text(evidence / f"{name}.xml")
            if xml:
                directory.keep_domain(name, xml)

    def teardown(self, *, keep: bool) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        if self._running is None:
            return
        if keep:
            self._running.keep()
            first = next(iter(self._shape.nodes))
            ways = f"`testbed ssh {first} --name {self._name}`, `testbed down {self._name}`"
            self._progress.say(f"kept as {self._name}: {ways}")
        else:
            self._running.down(self._progress.detail)
        self._running = None

    def _up(self) -> RunningTestbed:
        assert self._running is not None, "the stage was not provisioned"
        return self._running


class AttachedStage(VmStage):
    """The same on machines that are up already, and stay up: none is replaced."""

    def __init__(self, running: RunningTestbed, shape: Testbed, *, directory: RunDirectory, progress: Progress) -> None:
        super().__init__(running.name, shape, None, directory, progress)
        self._attached = running

    def provision(self) -> list[NodeSummary]:
        """Join each shared memory. Raises GuestError when a machine has ended."""
        for node in self._attached.nodes.values():
            node.check()
        self._images = images_for(self._shape, self._progress.say, offline=self._offline)
        self._running = self._attached
        return self._joined()

    def teardown(self, *, keep: bool) -> None:
        """Only let go of it."""
        self._running = None
        super().teardown(keep=keep)


def _text(path: Path) -> str:
    """What the file holds; nothing if it is not there, or any more: `testbed down` may be at work beside us."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
