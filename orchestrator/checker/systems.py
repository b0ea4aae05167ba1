"""What can be searched: systems of several kinds, behind one interface."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from orchestrator.checker import invariants, view
from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import Move
from orchestrator.checker.program_system import ProgramScenario, ProgramSystem
from orchestrator.checker.scenario import Scenario
from orchestrator.checker.system import System
from orchestrator.checker.thread_system import ThreadScenario, ThreadSystem

AnyScenario = Scenario | ThreadScenario | ProgramScenario


class Searchable(Protocol):
    """All that a search asks of a system. Worlds are values: equal ones behave equally."""

    def start(self) -> Any:
        """The first world. May raise Violation."""
        ...

    def moves(self, world: Any) -> Iterator[Move]:
        """Everything that may happen next. Raises BrokenMove where one of them cannot be carried out."""
        ...

    def broken(self, world: Any) -> str | None:
        """Which invariant does not hold in this world."""
        ...

    def stuck(self, world: Any) -> str | None:
        """What is wrong in a world where nothing is left to be delivered."""
        ...

    def view(self, world: Any) -> Sequence["Viewed"]:
        """All kernels for people, in order."""
        ...


class Viewed(Protocol):
    """One kernel for people; as text, in some words."""

    @property
    def letters(self) -> str:
        """Its state in as few letters as possible."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        ...


class PageSystem(System):
    """Kernels that share pages."""

    view = view.view

    broken = invariants.broken
    stuck = invariants.stuck


def system_of(scenario: AnyScenario, parcels: Numbering) -> Searchable:
    """The system that the scenario is about, not yet started."""
    if isinstance(scenario, ThreadScenario):
        return ThreadSystem(scenario, parcels)
    if isinstance(scenario, ProgramScenario):
        return ProgramSystem(scenario, parcels)
    return PageSystem(scenario, parcels)
