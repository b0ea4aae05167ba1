"""One step of a system, whatever the system is about."""

from typing import Any, NamedTuple, Protocol

from orchestrator.checker.step import Violation


class Outcome(Protocol):
    """What a reader of a trace wants to know of what a step led to."""

    @property
    def sends(self) -> tuple[tuple[int, int], ...]:
        """(receiver, number of the parcel)."""
        ...


class Move(NamedTuple):
    """One step of the system, with what a reader of a trace wants to know."""

    kernel: int
    says: str
    outcome: Outcome | None
    after: Any
    """The world it leads to."""
    flight: tuple[int, int, int] | None = None
    """What arrives: sender, receiver, number of the parcel."""
    spontaneous: bool = False
    """Whether the system did it of its own accord: a thread's operation, a death. The others must happen in the end."""
    rare: bool = False
    """Whether it is a process or a kernel that dies."""


class BrokenMove(Violation):
    """A violation in the middle of a move: there is no world after it."""

    def __init__(self, move: Move, violation: Violation) -> None:
        super().__init__(str(violation))
        self.move = move
