"""The search of programs: every interleaving of threads that synchronise, of page traffic, of waits and of deaths.

In every state at most as many threads are inside as may be; wherever nothing can happen any more, every thread of a
living kernel has ended and nothing is queued; from every state such an end can be reached without a death; and, unless
somebody died, memory holds what it must. What programs themselves find wrong is a violation, too.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from time import perf_counter
from typing import NamedTuple

from guest.protocol.engine import Engine
from guest.protocol.futex import FutexEngine
from guest.protocol.voting import VotingEngine
from orchestrator.checker.machine import Numbering
from orchestrator.checker.network import InOrder, Net, Network, Reordered
from orchestrator.checker.program_machine import PAGE_BYTES, WORD_BYTES, Kernel, Local, Outcome
from orchestrator.checker.programs import Program
from orchestrator.checker.scenario import Links
from orchestrator.checker.step import NONE, POISONED, Violation
from orchestrator.checker.trace import describe

DEAD = -1
RARELY = 0.02
"""How often a walk may let a kernel die."""
MOVES_A_WALK = 20_000
"""Far more than any of them needs."""


@dataclass(frozen=True)
class Programs:
    """What is searched."""

    name: str
    kernels: tuple[tuple[Program, ...], ...]
    """For each kernel, the programs of its threads."""
    links: Links = Links.IN_ORDER
    pages: int = 1
    limit: int = 1
    """How many threads may be inside at the same moment."""
    finally_: Mapping[int, int] = field(default_factory=dict)
    """What words hold at the end, by address."""
    deaths: int = 0
    engine: Callable[[int, range, int], Engine] = VotingEngine

    def __str__(self) -> str:
        threads = "+".join(str(len(programs)) for programs in self.kernels)
        deaths = f", {self.deaths} deaths" if self.deaths else ""
        return f"{self.name}, {threads} threads, {self.pages} page(s), {self.links.value} links{deaths}"


class World(NamedTuple):
    """A state of the whole system."""

    locals: tuple[int, ...]
    net: Net = ()
    notices: tuple[tuple[int, int], ...] = ()
    """(dead, survivor that has not heard of it yet)."""
    deaths: int = 0


class Move(NamedTuple):
    """One step of the system."""

    says: str
    after: World
    spontaneous: bool = False


@dataclass
class Found:
    """What came of a search."""

    programs: Programs
    states: int = 0
    complete: bool = True
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    def __str__(self) -> str:
        verdict = self.violation or ("no violation" if self.complete else "no violation so far")
        head = f"{self.programs}: {self.states:,} states, {self.duration_s:.1f} s: {verdict}"
        return "\n".join([head, *(f"{number:4} {says}" for number, says in enumerate(self.trace, 1))])


def explore_programs(programs: Programs, *, limit: int = 2_000_000) -> Found:
    """Search all states, at most `limit` of them, up to the first violation."""
    begun = perf_counter()
    found = Found(programs)
    _Search(programs, found).run(limit)
    found.duration_s = perf_counter() - begun
    return found


def wander_programs(programs: Programs, seed: int, walks: int) -> Found:
    """Go through the programs `walks` times, choosing among all possible moves at random, up to the first violation:
    for systems that are too large to search. `states` counts moves. The same seed walks the same way."""
    begun = perf_counter()
    found = Found(programs, complete=False)
    _Search(programs, found).wander(Random(seed), walks)
    found.duration_s = perf_counter() - begun
    return found


class _Search:
    def __init__(self, programs: Programs, found: Found) -> None:
        self._programs = programs
        self._found = found
        self._parcels = Numbering()
        kernels = range(len(programs.kernels))
        self._kernels = [
            Kernel(
                number,
                programs.engine(number, kernels, programs.pages),
                FutexEngine(number, kernels),
                programs.kernels[number],
                self._parcels,
            )
            for number in kernels
        ]
        self._network: Network = InOrder() if programs.links is Links.IN_ORDER else Reordered()
        self._numbers: dict[World, int] = {}
        self._worlds: list[World] = []
        self._parents = array("l")
        self._edges = array("l")
        self._resting: list[int] = []

    def run(self, limit: int) -> None:
        """Visit everything."""
        found, worlds = self._found, self._worlds
        index = 0
        try:
            self._enter(self._start(), -1)
            while index < len(worlds):
                if len(worlds) >= limit:
                    found.complete = False
                    return
                self._visit(index)
                index += 1
            index = self._restless()
            if index >= 0:
                raise Violation("from here it never comes to an end")
        except Violation as violation:
            found.violation, found.complete = str(violation), False
            found.trace = self._trace(index) if worlds else []
        finally:
            found.states = len(worlds)

    def wander(self, choose: Random, walks: int) -> None:
        """From the start to an end, `walks` times."""
        found = self._found
        for _ in range(walks):
            world = self._start()
            found.trace = []
            try:
                while moves := list(self._moves(world)):
                    likely = [move for move in moves if not move.spontaneous] or moves
                    move = choose.choice(moves if choose.random() < RARELY else likely)
                    found.states += 1
                    found.trace.append(move.says)
                    if len(found.trace) > MOVES_A_WALK:
                        raise Violation(f"{MOVES_A_WALK} moves, and still no end")
                    world = move.after
                    self._check(world)
                self._check_end(world)
            except Violation as violation:
                found.violation = str(violation)
                return

    def _start(self) -> World:
        return World(tuple(kernel.begin(self._programs.pages) for kernel in self._kernels))

    def _visit(self, index: int) -> None:
        world = self._worlds[index]
        resting = True
        for move in self._moves(world):
            number = self._numbers.get(move.after)
            if number is None:
                number = self._enter(move.after, index)
            if not move.spontaneous:
                resting = False
                self._edges.append(index)
                self._edges.append(number)
        if resting:
            self._resting.append(index)
            self._check_end(world)

    def _enter(self, world: World, parent: int) -> int:
        number = self._numbers[world] = len(self._worlds)
        self._worlds.append(world)
        self._parents.append(parent)
        self._check(world)
        return number

    def _check(self, world: World) -> None:
        living = [(kernel, local) for kernel, local in zip(self._kernels, world.locals, strict=True) if local != DEAD]
        inside = sum(kernel.inside(local) for kernel, local in living)
        if inside > self._programs.limit:
            raise Violation(f"{inside} threads are inside, at most {self._programs.limit} may be")

    def _moves(self, world: World) -> Iterator[Move]:
        for (sender, to, parcel), rest in self._network.deliveries(world.net):
            outcome = self._kernels[to].deliver(world.locals[to], sender, parcel)
            what = describe(self._parcels.values[parcel].message)
            yield Move(f"kernel {to} receives {what} from {sender}", self._after(world, to, outcome, rest))
        for kernel, local in zip(self._kernels, world.locals, strict=True):
            for says, outcome in kernel.moves(local) if local != DEAD else ():
                after = self._after(world, kernel.kernel, outcome, world.net)
                yield Move(f"kernel {kernel.kernel}: {says}", after)
        for dead, survivor in world.notices:
            outcome = self._kernels[survivor].bury(world.locals[survivor], dead)
            net = tuple(flight for flight in world.net if flight[:2] != (dead, survivor))
            notices = tuple(notice for notice in world.notices if notice != (dead, survivor))
            after = self._after(world._replace(notices=notices), survivor, outcome, net)
            yield Move(f"kernel {survivor} hears that kernel {dead} died", after)
        if world.deaths < self._programs.deaths:
            yield from self._deaths(world)

    def _deaths(self, world: World) -> Iterator[Move]:
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for dead in living if len(living) > 1 else ():
            heard = [(dead, survivor) for survivor in living if survivor != dead]
            after = World(
                tuple(DEAD if kernel == dead else local for kernel, local in enumerate(world.locals)),
                tuple(flight for flight in world.net if flight[1] != dead),
                tuple(sorted([notice for notice in world.notices if notice[1] != dead] + heard)),
                world.deaths + 1,
            )
            yield Move(f"kernel {dead} dies", after, True)

    def _after(self, world: World, kernel: int, outcome: Outcome, net: Net) -> World:
        locals_ = (*world.locals[:kernel], outcome.local, *world.locals[kernel + 1 :])
        sends = tuple(send for send in outcome.sends if world.locals[send[0]] != DEAD)
        return World(locals_, self._network.add(net, kernel, sends), *world[2:])

    def _check_end(self, world: World) -> None:
        held: dict[int, int] = {}
        for kernel, number in zip(self._kernels, world.locals, strict=True):
            if number == DEAD:
                continue
            local: Local = kernel.locals.values[number]
            for index, thread in enumerate(local.threads):
                if not thread.ended:
                    who = f"thread {index} of kernel {kernel.kernel}"
                    raise Violation(
                        f"nothing can happen any more, but {who} waits: it {kernel.place(thread).operation}"
                    )
            futex = kernel.futex.thaw(local.futex)
            if futex.waits or futex.queue:
                raise Violation(f"all have ended, but kernel {kernel.kernel} keeps {futex.waits or futex.queue}")
            held |= {
                address: frame.words[address % PAGE_BYTES // WORD_BYTES]
                for address in self._programs.finally_
                if (frame := local.memory[address // PAGE_BYTES]).access not in (NONE, POISONED)
            }
        if not world.deaths and held != dict(self._programs.finally_):
            raise Violation(f"at the end words are {held}, expected {dict(self._programs.finally_)}")

    def _restless(self) -> int:
        """A state from which no end can be reached; -1 if there is none."""
        calm = bytearray(len(self._worlds))
        for number in self._resting:
            calm[number] = 1
        edges: tuple[Iterable[int], Iterable[int]] = self._edges[-2::-2], self._edges[::-2]
        known = 0
        while (count := calm.count(1)) != known:
            known = count
            for before, after in zip(*edges, strict=True):
                if calm[after]:
                    calm[before] = 1
        return calm.find(0)

    def _trace(self, index: int) -> list[str]:
        path = [index]
        while self._parents[path[-1]] >= 0:
            path.append(self._parents[path[-1]])
        path.reverse()
        worlds = [self._worlds[number] for number in path]
        return [
            next(move.says for move in self._moves(before) if move.after == after) for before, after in pairwise(worlds)
        ]
