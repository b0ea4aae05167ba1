"""What an experiment needs of the place it runs in. `stage_vm` and `stage_local` are the two there are."""

from typing import Any, Protocol

from orchestrator.results.directories import RunDirectory
from orchestrator.results.summary import NodeSummary
from orchestrator.stages.agents import Agents
from testbed.deadline import Deadline


class Stage(Protocol):
    """Machines with memory between them, and agents on them. Made for one testbed; methods are called in this order."""

    def deadline(self, seconds: float) -> Deadline:
        """A deadline `seconds` away for machines with hardware acceleration, later for emulated ones."""

    def provision(self) -> list[NodeSummary]:
        """Bring the machines up, the links between them included."""

    def deploy(self) -> Agents:
        """Put the guest side's code on every node and start its agent."""

    def format_segment(self, link: str, kernels: int) -> None:
        """Make the link's memory an empty segment; no daemon has it open."""

    def link_for(self, link: str, node: str, /) -> dict[str, Any]:
        """How `node` opens the link, in the words of the agent's `open` command."""

    def ways_in(self) -> list[str]:
        """Commands by which a person gets to the machines; none when there are none, or no longer."""

    def taken_down(self) -> bool:
        """Whether somebody takes the machines down while we use them: they are not to be replaced."""

    def collect(self, directory: RunDirectory) -> None:
        """Copy consoles and machine definitions to the results. Works on whatever is there."""

    def teardown(self, *, keep: bool) -> None:
        """Stop and remove everything, or only let go of it. Works after any failure, and twice."""
