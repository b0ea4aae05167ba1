"""Whether a distributed process has ended: home counts its threads, without stopping any of them.

Kernels are asked one by one, in effect, and a thread may overtake the question: it is not yet where home asked first,
and not any more where home asks last. So one round that finds nobody proves nothing. But if a second round finds nobody
either, and no kernel has seen a thread arrive or begin since the first, then nobody was anywhere when the second round
began: two counts that agree show the end of a computation (Mattern, *Algorithms for distributed termination detection*,
Distributed Computing 2, 1987).
"""

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import Any, Self


class Verdict(Enum):
    """What is known after an answer."""

    WAIT = "wait"
    """Others still have to answer."""
    AGAIN = "again"
    """The round is over, and another one is needed."""
    ALIVE = "alive"
    """There were threads: nothing is to be done until something ends again."""
    ENDED = "ended"


class Count:
    """Home's rounds of counting; one at a time."""

    def __init__(self) -> None:
        self.round = 0
        """Number of the round, 0 before the first."""
        self._awaited: tuple[int, ...] = ()
        self._threads = 0
        self._arrivals = 0
        self._before: int | None = None
        """Arrivals that the round before counted, if it found no thread."""
        self._renewed = False
        """Whether something ended since the round began: what it counted may be out of date."""

    @property
    def under_way(self) -> bool:
        """Whether answers are awaited."""
        return bool(self._awaited)

    def renew(self) -> None:
        """Something ended while a round is under way."""
        self._renewed = True

    def begin(self, others: Iterable[int], arrivals: int) -> Verdict:
        """A new round: home itself has no thread, and has seen so many arrive."""
        self.round += 1
        self._awaited = tuple(others)
        self._threads, self._arrivals = 0, arrivals
        self._renewed = False
        return self._verdict()

    def answer(self, kernel: int, number: int, threads: int, arrivals: int) -> Verdict:
        """What the kernel counted for the round of this number."""
        if number != self.round or kernel not in self._awaited:
            return Verdict.WAIT  # of a round that was given up
        self._awaited = tuple(other for other in self._awaited if other != kernel)
        self._threads += threads
        self._arrivals += arrivals
        return self._verdict()

    def give_up(self) -> None:
        """A kernel died: what was counted so far is worth nothing."""
        self._awaited, self._before = (), None

    def _verdict(self) -> Verdict:
        if self._awaited:
            return Verdict.WAIT
        before, self._before = self._before, None
        if self._threads:
            return Verdict.AGAIN if self._renewed else Verdict.ALIVE
        if before == self._arrivals:
            return Verdict.ENDED
        self._before = self._arrivals
        return Verdict.AGAIN

    def freeze(self) -> Hashable:
        """The whole state as a value."""
        return self.round, self._awaited, self._threads, self._arrivals, self._before, self._renewed

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave."""
        self.round, self._awaited, self._threads, self._arrivals, self._before, self._renewed = frozen
        return self
