"""What threads did to a memory and what they saw of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    """When an operation was under way, by one clock. Times of different clocks say nothing about each other."""

    clock: int
    begin: int
    end: int


class Operation(NamedTuple):
    """One load or store of one variable."""

    is_store: bool
    variable: str
    value: int
    """What was stored, or what was found."""
    during: Interval | None = None

    def __str__(self) -> str:
        what = f"{'store' if self.is_store else 'load'} {self.variable}={self.value}"
        return what if self.during is None else f"{what} at {self.during.begin}..{self.during.end}"


def load(variable: str, value: int, during: Interval | None = None) -> Operation:
    """A load that found `value`."""
    return Operation(False, variable, value, during)


def store(variable: str, value: int, during: Interval | None = None) -> Operation:
    """A store of `value`."""
    return Operation(True, variable, value, during)


Threads = tuple[tuple[Operation, ...], ...]


@dataclass(frozen=True)
class History:
    """The operations of each thread in program order; variables are 0 at first."""

    threads: Threads
    final: tuple[tuple[str, int], ...] = ()
    """Variables and what they held when all threads had ended, where that is known."""

    def variables(self) -> list[str]:
        """All that are named, in alphabetical order."""
        return sorted({each.variable for thread in self.threads for each in thread} | {name for name, _ in self.final})

    def of(self, variable: str) -> "History":
        """The part of it that is about one variable."""
        threads = tuple(tuple(each for each in thread if each.variable == variable) for thread in self.threads)
        return History(threads, tuple(held for held in self.final if held[0] == variable))

    def with_ranks(self) -> "History":
        """The same with times that count only the order on each clock: equal for histories that differ in pace."""
        return self._timed(lambda times: {time: rank for rank, time in enumerate(times)})

    def from_zero(self) -> "History":
        """The same with times since the first one of each clock."""
        return self._timed(lambda times: {time: time - times[0] for time in times})

    def _timed(self, changed: Callable[[list[int]], dict[int, int]]) -> "History":
        """The same with other times: `changed` gives them for all those of a clock, in order."""
        times: dict[int, set[int]] = {}
        for during in self._intervals():
            times.setdefault(during.clock, set()).update((during.begin, during.end))
        new = {clock: changed(sorted(each)) for clock, each in times.items()}
        threads = tuple(tuple(_with_times(operation, new) for operation in thread) for thread in self.threads)
        return History(threads, self.final)

    def _intervals(self) -> Iterator[Interval]:
        for thread in self.threads:
            for operation in thread:
                if operation.during is not None:
                    yield operation.during


def _with_times(operation: Operation, times: Mapping[int, Mapping[int, int]]) -> Operation:
    if operation.during is None:
        return operation
    clock, begin, end = operation.during
    return operation._replace(during=Interval(clock, times[clock][begin], times[clock][end]))
