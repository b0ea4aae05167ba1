"""The search: breadth first over all states of a scenario, so that the first counterexample is a shortest one."""

import gc
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter, process_time
from typing import Any

from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.step import Violation
from orchestrator.checker.systems import AnyScenario, Searchable, system_of

NEVER_AT_REST = "invariant 5: from here the system never comes to rest"


@dataclass
class Report:
    """What a search found."""

    scenario: AnyScenario
    states: int = 0
    depth: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time: what `duration_s` would be on an idle machine."""
    complete: bool = True
    """Whether every state was visited; false when `limit` was reached or something was found."""
    violation: str | None = None
    trace: list[Move] = field(default_factory=list)
    start: Any = None
    """The first world."""
    parcels: Numbering = field(default_factory=Numbering)

    @property
    def states_per_s(self) -> float:
        """Speed of the search."""
        return self.states / self.duration_s if self.duration_s else 0.0

    def __str__(self) -> str:
        verdict = self.violation or ("no violation" if self.complete else "no violation so far")
        return (
            f"{self.scenario}: {self.states:,} states, depth {self.depth}, {self.duration_s:.1f} s "
            f"({self.states_per_s:,.0f}/s): {verdict}"
        )


def explore(scenario: AnyScenario, *, limit: int = 5_000_000) -> Report:
    """Search all states of the scenario, at most `limit` of them, up to the first violation."""
    report = Report(scenario)
    begun, cpu_begun_s = perf_counter(), process_time()
    search = _Search(scenario, report)
    collecting = gc.isenabled()
    gc.disable()  # millions of tuples, none of them garbage: the collector would go through all of them again and again
    try:
        search.run(limit)
    finally:
        if collecting:
            gc.enable()
        report.duration_s, report.cpu_s = perf_counter() - begun, process_time() - cpu_begun_s
    return report


def comes_to_rest(system: Searchable, world: Any) -> bool:
    """Whether deliveries alone can lead from this world to one where nothing is left to deliver."""
    seen, queue = {world}, [world]
    while queue:
        following = [move.after for move in system.moves(queue.pop()) if not move.spontaneous]
        if not following:
            return True
        queue += [after for after in dict.fromkeys(following) if after not in seen]
        seen.update(following)
    return False


class _Search:
    """Breadth first, with what is needed to tell how a state was reached."""

    def __init__(self, scenario: AnyScenario, report: Report) -> None:
        self._system = system_of(scenario, report.parcels)
        self._report = report
        self._numbers: dict[Any, int] = {}
        self._worlds: list[Any] = []
        self._parents = array("l")
        self._edges = array("l")
        """Deliveries, as pairs (before, after)."""
        self._resting: list[int] = []

    def run(self, limit: int) -> None:
        """Visit everything."""
        report, worlds = self._report, self._worlds
        level_end, index = 1, 0
        last: list[Move] = []
        try:
            report.start = self._system.start()
            self._enter(report.start, -1)
            while index < len(worlds):
                if index == level_end:
                    report.depth += 1
                    level_end = len(worlds)
                if len(worlds) >= limit:
                    report.complete = False
                    break
                self._visit(index)
                index += 1
            else:
                index = -1
                self._check_progress()
        except _Found as found:
            index = found.number
            report.violation = str(found)
        except BrokenMove as broken_off:
            report.violation = str(broken_off)
            last = [broken_off.move]
        except Violation as violation:
            report.violation = str(violation)
        report.states = len(worlds)
        if report.violation:
            report.complete = False
            report.trace = [*self._trace(index), *last] if worlds else []

    def _visit(self, index: int) -> None:
        world = self._worlds[index]
        numbers, edges = self._numbers, self._edges
        resting = True
        for move in self._system.moves(world):
            number = numbers.get(move.after)
            if number is None:
                number = self._enter(move.after, index)
            if not move.spontaneous:
                resting = False
                edges.append(index)
                edges.append(number)
        if resting:
            self._resting.append(index)
            problem = self._system.stuck(world)
            if problem:
                raise _Found(index, problem)

    def _enter(self, world: Any, parent: int) -> int:
        number = self._numbers[world] = len(self._worlds)
        self._worlds.append(world)
        self._parents.append(parent)
        problem = self._system.broken(world)
        if problem:
            raise _Found(number, problem)
        return number

    def _check_progress(self) -> None:
        """Every state can come to rest without anybody starting anything."""
        calm = bytearray(len(self._worlds))
        for number in self._resting:
            calm[number] = 1
        # From the end: most deliveries lead to states found later, so that one pass settles nearly all.
        edges = self._edges[-2::-2], self._edges[::-2]
        known = 0
        while (count := calm.count(1)) != known:
            known = count
            for before, after in zip(*edges, strict=True):
                if calm[after]:
                    calm[before] = 1
        restless = calm.find(0)
        if restless >= 0:
            raise _Found(restless, NEVER_AT_REST)

    def _trace(self, index: int) -> list[Move]:
        path = [index]
        while self._parents[path[-1]] >= 0:
            path.append(self._parents[path[-1]])
        path.reverse()
        moves = []
        for number, following in pairwise(path):
            wanted = self._worlds[following]
            moves.append(next(move for move in self._system.moves(self._worlds[number]) if move.after == wanted))
        return moves


class _Found(Exception):
    """A state in which an invariant does not hold."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number
