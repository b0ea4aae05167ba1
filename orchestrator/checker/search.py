"""The search: breadth first over all states of a scenario, so that the first counterexample is a shortest one.

What is checked, by the numbers of docs/protocol.md: in every state that (1) a writable page is readable nowhere else,
(2) every readable copy holds the value last stored, (3) a page in N is nowhere else, messages included, (4) some living
kernel holds the latest value of every page ever touched; and at the end of the search that (5) no thread waits in a
state without messages, and every state can come to rest by deliveries alone.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import NamedTuple

from guest.protocol.messages import MessageName
from orchestrator.checker.machine import Machine, Numbering, Outcome, Violation
from orchestrator.checker.network import InOrder, Net, Network, Reordered
from orchestrator.checker.scenario import Links, Scenario, Start

DEAD = -1
"""Stands for the local state of a dead kernel."""


class World(NamedTuple):
    """A state of the whole system."""

    locals: tuple[int, ...]
    net: Net
    touched: tuple[int, ...]
    """For each page the kernels that ever had it."""
    written: int = 0
    """Mask of pages that were ever written by a kernel."""
    notices: tuple[tuple[int, int], ...] = ()
    """(dead, survivor that has not heard of it yet)."""
    give_ups: int = 0
    deaths: int = 0


class Move(NamedTuple):
    """One step of the system, with what a reader of a trace wants to know."""

    kernel: int
    says: str
    outcome: Outcome | None
    after: World
    flight: tuple[int, int, int] | None = None
    spontaneous: bool = False
    """Whether the system did it of its own accord: a thread's operation, a death. The others must happen in the end."""


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


class _System:
    """The machines and the links: what may happen next."""

    def __init__(self, scenario: Scenario, parcels: Numbering) -> None:
        self.scenario = scenario
        self.parcels = parcels
        kernels = range(scenario.kernels)
        self.machines = [
            Machine(kernel, scenario.engine(kernel, kernels, scenario.pages), parcels) for kernel in kernels
        ]
        self.network: Network = InOrder() if scenario.links is Links.IN_ORDER else Reordered()
        self._last = (None, None)

    def start(self) -> World:
        """The world as the scenario has it, brought there by the engines themselves."""
        scenario = self.scenario
        machines = self.machines
        world = World(tuple(machine.begin(scenario.pages, 1, 8) for machine in machines), (), (0,) * scenario.pages)
        if scenario.start is not Start.UNMAPPED:
            for page in range(scenario.pages):
                for kernel in reversed(range(scenario.kernels)):
                    world = self._settle(self._operation(world, kernel, f"reads page {page}"))
                if scenario.start is Start.MODIFIED:
                    world = self._settle(self._operation(world, 0, f"writes page {page}"))
        return world._replace(
            locals=tuple(
                machine.rearm(local, scenario.threads, operations)
                for machine, local, operations in zip(machines, world.locals, scenario.operations, strict=True)
            )
        )

    def _operation(self, world: World, kernel: int, says: str) -> World:
        for what, outcome in self.machines[kernel].moves(world.locals[kernel]):
            if what == says:
                return self.apply(world, kernel, outcome, world.net)
        return world

    def _settle(self, world: World) -> World:
        while True:
            move = next((move for move in self.moves(world) if not move.spontaneous), None)
            if move is None:
                return world
            world = move.after

    def moves(self, world: World) -> Iterator[Move]:
        """Everything that may happen next."""
        locals_, net = world.locals, world.net
        for flight, rest in self.network.deliveries(net):
            sender, kernel, parcel = flight
            outcome = self.machines[kernel].deliver(locals_[kernel], sender, parcel)
            yield Move(kernel, "receives", outcome, self.apply(world, kernel, outcome, rest), flight)
        for kernel, local in enumerate(locals_):
            if local == DEAD:
                continue
            machine = self.machines[kernel]
            awake = machine.summaries[local].awake
            for says, outcome in machine.moves(local):
                after = self.apply(world, kernel, outcome, net)
                yield Move(kernel, says, outcome, after, None, not (awake and says.startswith("tries")))
        if world.notices:
            yield from self._notices(world)
        if world.give_ups < self.scenario.give_ups:
            yield from self._give_ups(world)
        if world.deaths < self.scenario.deaths:
            yield from self._deaths(world)

    def _give_ups(self, world: World) -> Iterator[Move]:
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                for says, outcome in self.machines[kernel].give_ups(local):
                    after = self.apply(world, kernel, outcome, world.net)._replace(give_ups=world.give_ups + 1)
                    yield Move(kernel, says, outcome, after, None, True)

    def _deaths(self, world: World) -> Iterator[Move]:
        """What the dead had sent may arrive, until its receiver hears of the death; what was sent to it never does."""
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for dead in living:
            locals_ = tuple(DEAD if kernel == dead else local for kernel, local in enumerate(world.locals))
            net = tuple(flight for flight in world.net if flight[1] != dead)
            notices = tuple(
                sorted(
                    [entry for entry in world.notices if entry[1] != dead]
                    + [(dead, kernel) for kernel in living if kernel != dead]
                )
            )
            after = world._replace(locals=locals_, net=net, notices=notices, deaths=world.deaths + 1)
            yield Move(dead, "dies", None, after, None, True)

    def _notices(self, world: World) -> Iterator[Move]:
        for notice in world.notices:
            dead, kernel = notice
            outcome = self.machines[kernel].bury(world.locals[kernel], dead)
            net = tuple(flight for flight in world.net if flight[0] != dead or flight[1] != kernel)
            notices = tuple(entry for entry in world.notices if entry != notice)
            after = self.apply(world._replace(notices=notices), kernel, outcome, net)
            yield Move(kernel, f"hears that kernel {dead} died", outcome, after)

    def apply(self, world: World, kernel: int, outcome: Outcome, net: Net) -> World:
        """The world after a step of one machine; `net` is what is in flight without the step's own messages."""
        locals_, sends = list(world.locals), outcome.sends
        locals_[kernel] = outcome.local
        touched, written = world.touched, world.written
        for page in outcome.poisoned:
            self._check_poison(world, page)
        for page in outcome.zeroed:
            net = self._zero(world, page, net, locals_, kernel)
            if not touched[page] & self._living(world):
                touched = _put(touched, page, 0)
                written &= ~(1 << page)
        for page in outcome.stored:
            written |= 1 << page
            net = self._age(page, net, locals_, kernel)
        present = self.machines[kernel].summaries[outcome.local].present
        for page, mask in enumerate(touched):
            if present >> page & 1 and not mask >> kernel & 1:
                touched = _put(touched, page, mask | 1 << kernel)
        if sends:
            if world.deaths:
                sends = tuple(send for send in sends if locals_[send[0]] != DEAD)
            net = self.network.add(net, kernel, sends)
        return World(tuple(locals_), net, touched, written, world.notices, world.give_ups, world.deaths)

    def _age(self, page: int, net: Net, locals_: list[int], writer: int) -> Net:
        """A store makes all other copies stale, in memories and in messages."""
        for kernel, local in enumerate(locals_):
            if kernel != writer and local != DEAD:
                locals_[kernel] = self.machines[kernel].age(local, page)
        values = self.parcels.values
        if any(values[parcel].fresh and values[parcel].message.page == page for _, _, parcel in net):
            aged = [(sender, to, self._stale(parcel, page)) for sender, to, parcel in net]
            net = tuple(aged) if self.scenario.links is Links.IN_ORDER else tuple(sorted(aged))
        return net

    def _stale(self, parcel: int, page: int) -> int:
        value = self.parcels.values[parcel]
        if value.fresh and value.message.page == page:
            return self.parcels.number(value._replace(fresh=False))
        return parcel

    def _zero(self, world: World, page: int, net: Net, locals_: list[int], kernel: int) -> Net:
        """Zeros are the latest value of a page never written, or only ever touched by kernels that are dead."""
        if not world.written >> page & 1:
            return net
        holders = world.touched[page] & self._living(world)
        if holders:
            raise Violation(
                f"invariant 4: page {page} becomes zeros though it was written, kernels {holders:#b} know it"
            )
        return self._age(page, net, locals_, kernel)

    def _living(self, world: World) -> int:
        return sum(1 << kernel for kernel, local in enumerate(world.locals) if local != DEAD)

    def _check_poison(self, world: World, page: int) -> None:
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                summary = self.machines[kernel].summaries[local]
                if summary.readable & ~summary.stale & 1 << page:
                    raise Violation(f"invariant 4: page {page} given up as lost while kernel {kernel} has it")


class _Search:
    """Breadth first, with what is needed to tell how a state was reached."""

    def __init__(self, scenario: Scenario, report: Report) -> None:
        self._system = _System(scenario, report.parcels)
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


def _put(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])
