"""Threads that synchronise: every interleaving of them, of page traffic, of waits and of deaths.

In every state at most as many threads are inside as may be; wherever nothing can happen any more, every thread of a
living kernel has ended and nothing is queued; and, unless somebody died, memory holds what it must. What programs
themselves find wrong is a violation, too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from guest.protocol.engine import Engine
from guest.protocol.futex import FutexEngine
from guest.protocol.voting import VotingEngine
from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.network import Flight, InOrder, Net, Network, Reordered
from orchestrator.checker.program_machine import PAGE_BYTES, WORD_BYTES, Kernel, Local, ProgramOutcome
from orchestrator.checker.programs import Program
from orchestrator.checker.scenario import Links
from orchestrator.checker.step import NONE, POISONED, Violation
from orchestrator.checker.system import DEAD


@dataclass(frozen=True)
class ProgramScenario:
    """A bounded system of threads that run programs."""

    name: str
    programs: tuple[tuple[Program, ...], ...]
    """For each kernel, those of its threads."""
    links: Links = Links.IN_ORDER
    pages: int = 1
    limit: int = 1
    """How many threads may be inside at the same moment."""
    finally_: Mapping[int, int] = field(default_factory=dict)
    """What words hold at the end, by address."""
    deaths: int = 0
    engine: Callable[[int, range, int], Engine] = VotingEngine

    @property
    def kernels(self) -> int:
        """How many kernels there are."""
        return len(self.programs)

    @property
    def threads(self) -> str:
        """How many threads every kernel has."""
        return "+".join(str(len(programs)) for programs in self.programs)

    def __str__(self) -> str:
        deaths = f", {self.deaths} deaths" if self.deaths else ""
        return f"{self.name}, {self.threads} threads, {self.pages} page(s), {self.links.value} links{deaths}"


class ProgramWorld(NamedTuple):
    """A state of the whole system."""

    locals: tuple[int, ...]
    net: Net = ()
    notices: tuple[tuple[int, int], ...] = ()
    """(dead, survivor that has not heard of it yet)."""
    deaths: int = 0


class ProgramView(NamedTuple):
    """One kernel for people; dead, it has nothing."""

    letters: str
    """Of all pages, as in `State`; `x` of a dead kernel."""
    threads: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"alive": self.letters != "x", "pages": self.letters, "threads": list(self.threads)}

    def __str__(self) -> str:
        return "dead" if self.letters == "x" else "; ".join([self.letters, *self.threads])


class ProgramSystem:
    """The kernels and the links: what may happen next."""

    def __init__(self, scenario: ProgramScenario, parcels: Numbering) -> None:
        self.scenario = scenario
        kernels = range(scenario.kernels)
        self.kernels = [
            Kernel(
                number,
                scenario.engine(number, kernels, scenario.pages),
                FutexEngine(number, kernels),
                scenario.programs[number],
                parcels,
            )
            for number in kernels
        ]
        self._network: Network = InOrder() if scenario.links is Links.IN_ORDER else Reordered()
        self._trying: tuple[int, str, Flight | None] = (0, "", None)

    def start(self) -> ProgramWorld:
        """Nobody has done anything."""
        return ProgramWorld(tuple(kernel.begin(self.scenario.pages) for kernel in self.kernels))

    def moves(self, world: ProgramWorld) -> Iterator[Move]:
        """Everything that may happen next. Raises BrokenMove where one of them cannot be carried out."""
        try:
            yield from self._moves(world)
        except Violation as violation:
            kernel, says, flight = self._trying
            raise BrokenMove(Move(kernel, says, None, world, flight), violation) from None

    def _moves(self, world: ProgramWorld) -> Iterator[Move]:
        for flight, rest in self._network.deliveries(world.net):
            sender, to, parcel = flight
            self._trying = to, "receives", flight
            outcome = self.kernels[to].deliver(world.locals[to], sender, parcel)
            yield Move(to, "receives", outcome, self._after(world, to, outcome, rest), flight)
        for number, local in enumerate(world.locals):
            if local == DEAD:
                continue
            self._trying = number, "lets a thread go on", None
            for says, outcome in self.kernels[number].moves(local):
                yield Move(number, says, outcome, self._after(world, number, outcome, world.net))
        for dead, survivor in world.notices:
            self._trying = survivor, f"hears that kernel {dead} died", None
            outcome = self.kernels[survivor].bury(world.locals[survivor], dead)
            net = tuple(flight for flight in world.net if flight[:2] != (dead, survivor))
            notices = tuple(notice for notice in world.notices if notice != (dead, survivor))
            after = self._after(world._replace(notices=notices), survivor, outcome, net)
            yield Move(survivor, f"hears that kernel {dead} died", outcome, after)
        if world.deaths < self.scenario.deaths:
            yield from self._deaths(world)

    def _deaths(self, world: ProgramWorld) -> Iterator[Move]:
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for dead in living if len(living) > 1 else ():
            heard = [(dead, survivor) for survivor in living if survivor != dead]
            after = ProgramWorld(
                tuple(DEAD if kernel == dead else local for kernel, local in enumerate(world.locals)),
                tuple(flight for flight in world.net if flight[1] != dead),
                tuple(sorted([notice for notice in world.notices if notice[1] != dead] + heard)),
                world.deaths + 1,
            )
            yield Move(dead, "dies", None, after, None, True, True)

    def _after(self, world: ProgramWorld, kernel: int, outcome: ProgramOutcome, net: Net) -> ProgramWorld:
        locals_ = (*world.locals[:kernel], outcome.local, *world.locals[kernel + 1 :])
        sends = tuple(send for send in outcome.sends if world.locals[send[0]] != DEAD)
        return ProgramWorld(locals_, self._network.add(net, kernel, sends), *world[2:])

    # What must hold ---------------------------------------------------------------------------------------------------

    def broken(self, world: ProgramWorld) -> str | None:
        """Whether too many are inside."""
        inside = sum(kernel.inside(local) for kernel, local in self._living(world))
        limit = self.scenario.limit
        return f"{inside} threads are inside, at most {limit} may be" if inside > limit else None

    def stuck(self, world: ProgramWorld) -> str | None:
        """What is wrong in a state where nothing can happen any more."""
        held: dict[int, int] = {}
        for kernel, number in self._living(world):
            local: Local = kernel.locals.values[number]
            for index, thread in enumerate(local.threads):
                if not thread.ended:
                    who = f"thread {index} of kernel {kernel.kernel}"
                    return f"nothing can happen any more, but {who} waits: it {kernel.place(thread).operation}"
            futex = kernel.futex.thaw(local.futex)
            if futex.waits or futex.queue:
                return f"all have ended, but kernel {kernel.kernel} keeps {futex.waits or futex.queue}"
            held |= {
                address: frame.words[address % PAGE_BYTES // WORD_BYTES]
                for address in self.scenario.finally_
                if (frame := local.memory[address // PAGE_BYTES]).access not in (NONE, POISONED)
            }
        if not world.deaths and held != dict(self.scenario.finally_):
            return f"at the end words are {held}, expected {dict(self.scenario.finally_)}"
        return None

    def view(self, world: ProgramWorld) -> list[ProgramView]:
        """All kernels for people, in order."""
        return [
            ProgramView("x") if local == DEAD else self._view(kernel, kernel.locals.values[local])
            for kernel, local in zip(self.kernels, world.locals, strict=True)
        ]

    def _view(self, kernel: Kernel, local: Local) -> ProgramView:
        pages = kernel.pages.thaw(local.pages)
        letters = "".join(pages.state(page).name for page in range(self.scenario.pages))
        threads = (
            f"thread {index} {'has ended' if thread.ended else kernel.place(thread).operation}"
            for index, thread in enumerate(local.threads)
        )
        return ProgramView(letters, tuple(threads))

    def _living(self, world: ProgramWorld) -> Iterator[tuple[Kernel, int]]:
        for kernel, local in zip(self.kernels, world.locals, strict=True):
            if local != DEAD:
                yield kernel, local
