"""The search: breadth first over all states of a scenario, so that the first counterexample is a shortest one.

What is checked, by the numbers of docs/protocol.md: in every state that (1) a writable page is readable nowhere else,
(2) every readable copy holds the value last stored, (3) a page in N is nowhere else, messages included, (4) some living
kernel holds the latest value of every page ever touched; and at the end of the search that (5) no thread waits in a
state without messages, and every state can come to rest by deliveries alone.
"""

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter

from guest.protocol.messages import MessageName
from orchestrator.checker.machine import Numbering
from orchestrator.checker.scenario import Scenario
from orchestrator.checker.step import Violation
from orchestrator.checker.system import DEAD, Move, System, World


@dataclass
class Report:
    """What a search found."""

    scenario: Scenario
    states: int = 0
    depth: int = 0
    duration_s: float = 0.0
    complete: bool = True
    """Whether every state was visited; false when `limit` was reached or something was found."""
    violation: str | None = None
    trace: list[Move] = field(default_factory=list)
    start: World | None = None
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


def explore(scenario: Scenario, *, limit: int = 5_000_000) -> Report:
    """Search all states of the scenario, at most `limit` of them, up to the first violation."""
    report = Report(scenario)
    begun = perf_counter()
    search = _Search(scenario, report)
    try:
        search.run(limit)
    finally:
        report.duration_s = perf_counter() - begun
    return report


class _Search:
    """Breadth first, with what is needed to tell how a state was reached."""

    def __init__(self, scenario: Scenario, report: Report) -> None:
        self._system = System(scenario, report.parcels)
        self._report = report
        self._numbers: dict[World, int] = {}
        self._worlds: list[World] = []
        self._parents = array("l")
        self._edges = array("l")
        """Deliveries, as pairs (before, after)."""
        self._resting: list[int] = []
        self._sound: dict[tuple[int, ...], Violation | None] = {}

    def run(self, limit: int) -> None:
        """Visit everything."""
        report, system, worlds = self._report, self._system, self._worlds
        report.start = system.start()
        self._enter(report.start, -1)
        level_end, index = 1, 0
        try:
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
        except Violation as violation:
            report.violation = str(violation)
        report.states = len(worlds)
        if report.violation:
            report.complete = False
            report.trace = self._trace(index)

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
            self._rest(index, world)

    def _enter(self, world: World, parent: int) -> int:
        number = self._numbers[world] = len(self._worlds)
        self._worlds.append(world)
        self._parents.append(parent)
        problem = self._check(world)
        if problem:
            raise _Found(number, problem)
        return number

    def _rest(self, index: int, world: World) -> None:
        """Nothing is in flight: nobody may wait."""
        self._resting.append(index)
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                summary = self._system.machines[kernel].summaries[local]
                if summary.asleep or summary.pending:
                    what = "a thread waits" if summary.asleep else "a page is in flight"
                    raise _Found(index, f"invariant 5: nothing is in flight, but {what} in kernel {kernel}")

    def _check(self, world: World) -> str | None:
        """What of invariants 1 to 4 does not hold."""
        machines = self._system.machines
        summaries = [machines[kernel].summaries[local] for kernel, local in enumerate(world.locals) if local != DEAD]
        everywhere = current = 0
        for index, one in enumerate(summaries):
            if one.writable or one.alone:
                for other in summaries[:index] + summaries[index + 1 :]:
                    if one.writable & other.readable:
                        return "invariant 1: a page is writable in one kernel and readable in another"
                    if one.alone & other.present:
                        return "invariant 3: a page is in N though it is somewhere else"
            if one.stale:
                return "invariant 2: a kernel can read a stale value"
            everywhere |= one.alone
            current |= one.readable
        if everywhere and self._carried(world, everywhere):
            return "invariant 3: a page is in N though a copy is on its way"
        if not world.deaths:
            for page, kernels in enumerate(world.touched):
                if kernels and not current >> page & 1:
                    return f"invariant 4: no kernel has page {page} any more"
        return None

    def _carried(self, world: World, pages: int) -> bool:
        for sender, _, number in world.net:
            message = self._report.parcels.values[number].message
            if message.name == MessageName.PAGE_DATA and pages >> message.page & 1 and world.locals[sender] != DEAD:
                return True
        return False

    def _check_progress(self) -> None:
        """Every state can come to rest without anybody starting anything."""
        before: list[list[int]] = [[] for _ in self._worlds]
        for edge in range(0, len(self._edges), 2):
            before[self._edges[edge + 1]].append(self._edges[edge])
        calm = bytearray(len(self._worlds))
        queue = list(self._resting)
        for number in queue:
            calm[number] = 1
        while queue:
            for number in before[queue.pop()]:
                if not calm[number]:
                    calm[number] = 1
                    queue.append(number)
        restless = calm.find(0)
        if restless >= 0:
            raise _Found(restless, "invariant 5: from here the system never comes to rest")

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
