"""Threads of one process on several kernels: everything that may happen next, and what must hold.

Threads begin at home; each may end at any time, wants to migrate to any other kernel, or ends the group. Invariants:

(T1) a thread runs on one kernel at most, and never goes on from a state that is not its latest;
(T2) a thread ends when it says so, or with the group; it is lost only with the kernel that had it;
(T3) a thread is named as lost only if it is;
(T4) the group ends once all threads have, or one says so, and not before; then nothing is left on any living kernel;
(T5) nobody waits for ever, and where nothing is in flight any more, placeholders are where they ought to be;
(T6) who asks after a thread hears that it is no more if that is so, and only then, or that nobody can know.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from guest.protocol.messages import MessageName
from guest.protocol.thread_effects import Life, ThreadEffect
from guest.protocol.threads import ThreadsEngine
from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.network import InOrder, Net
from orchestrator.checker.step import Violation
from orchestrator.checker.system import DEAD
from orchestrator.checker.thread_step import Process, Surroundings, ThreadOutcome, ThreadParcel, ThreadStep
from orchestrator.checker.thread_view import ThreadsView, view_of


@dataclass(frozen=True)
class ThreadScenario:
    """A bounded system of threads. Links are in order, as rings are."""

    kernels: int
    threads: int = 1
    """So many begin at home, kernel 0."""
    migrations: int = 1
    """How many times a thread may want to migrate, all together."""
    later: int = 0
    """So many more threads are started by other threads, wherever those are."""
    refusals: int = 0
    """How many times a kernel may have no process for a thread."""
    group_exits: int = 0
    """How many times a thread may end the group."""
    deaths: int = 0
    """How many kernels may die."""
    watches: int = 0
    """How many times a thread may ask after another one, or itself."""
    engine: type[ThreadsEngine] = ThreadsEngine

    def counts(self) -> list[str]:
        """How much of everything there may be, in words."""
        words = (
            (self.threads, "thread"),
            (self.migrations, "migration"),
            (self.later, "later thread"),
            (self.refusals, "refusal"),
            (self.group_exits, "group exit"),
            (self.deaths, "death"),
            (self.watches, "question"),
        )
        return [f"{count} {word}{'s' if count > 1 else ''}" for count, word in words if count]

    def __str__(self) -> str:
        return ", ".join([f"{self.kernels} kernels", *self.counts()])


class Fate(IntEnum):
    """What has become of a thread."""

    ALIVE = 0
    ENDED = 1
    LOST = 2
    UNBORN = 3


class ThreadWorld(NamedTuple):
    """A state of the whole system."""

    locals: tuple[int, ...]
    """Numbers of the kernels' states; DEAD of a dead one."""
    net: Net
    ages: tuple[int, ...]
    """By thread, how often it was let run."""
    fates: tuple[Fate, ...]
    parked: tuple[int, ...]
    """By thread, a mask of the kernels that it left, and has not come back to."""
    notices: tuple[tuple[int, int], ...] = ()
    """(dead, survivor that has not heard of it yet)."""
    closed: bool = False
    """Whether home has said that the group has ended everywhere."""
    migrations: int = 0
    refusals: int = 0
    group_exits: int = 0
    deaths: int = 0
    watches: int = 0
    began: tuple[int, ...] = ()
    """By thread, where it began; 0 of those that did not."""
    watching: tuple[tuple[int, int], ...] = ()
    """(kernel, thread that it has asked after and that is not known to be no more)."""


_Event = tuple[str, int, int]
"""What happens on a kernel: a word, a thread or kernel, and a kernel or the number of a parcel."""


class ThreadSystem:
    """The kernels and the links: what may happen next."""

    def __init__(self, scenario: ThreadScenario, parcels: Numbering) -> None:
        self.scenario = scenario
        self.parcels = parcels
        kernels = range(scenario.kernels)
        self.engines = [scenario.engine(kernel, kernels) for kernel in kernels]
        self.locals = Numbering()
        self._network = InOrder()
        self._steps: dict[tuple[int, int, _Event], ThreadOutcome] = {}
        self._trying: tuple[int, str, tuple[int, int, int] | None] = (0, "", None)

    def start(self) -> ThreadWorld:
        """All threads run at home."""
        first, later = self.scenario.threads, self.scenario.later
        home, *others = (
            self.locals.number(Surroundings(engine.freeze(), there=not kernel))
            for kernel, engine in enumerate(self.engines)
        )
        for thread in range(first):
            home = self._have(0, home, ("start", thread, 0)).local
        fates = (Fate.ALIVE,) * first + (Fate.UNBORN,) * later
        nowhere = (0,) * (first + later)
        return ThreadWorld((home, *others), (), (1,) * first + (0,) * later, fates, nowhere, began=nowhere)

    # What may happen --------------------------------------------------------------------------------------------------

    def moves(self, world: ThreadWorld) -> Iterator[Move]:
        """Everything that may happen next. Raises BrokenMove where one of them cannot be carried out."""
        try:
            yield from self._moves(world)
        except Violation as violation:
            kernel, says, flight = self._trying
            raise BrokenMove(Move(kernel, says, None, world, flight), violation) from None

    def _moves(self, world: ThreadWorld) -> Iterator[Move]:
        for flight, rest in self._network.deliveries(world.net):
            sender, kernel, parcel = flight
            yield self._step(world, kernel, ("receive", sender, parcel), rest, flight)
        for dead, kernel in world.notices:
            net = tuple(flight for flight in world.net if flight[:2] != (dead, kernel) or self._settles(flight[2]))
            if net != world.net:
                says = f"does not listen to kernel {dead} any more"
                self._trying = kernel, says, None
                yield Move(kernel, says, None, self._missing(world._replace(net=net), Fate.LOST))
                continue
            if any(flight[:2] == (dead, kernel) for flight in net):
                continue  # its answers are still heard
            notices = tuple(entry for entry in world.notices if entry != (dead, kernel))
            yield self._step(world._replace(notices=notices), kernel, ("bury", dead, 0), net)
        living = self.living(world)
        for kernel, local in living:
            yield from self._answers(world, kernel, local)
            yield from self._wishes(world, kernel, local)
        if world.deaths < self.scenario.deaths and len(living) > 1:
            for dead, _ in living:
                self._trying = dead, "dies", None
                yield Move(dead, "dies", None, self._without(world, dead), None, True, True)

    def _settles(self, parcel: int) -> bool:
        """Whether it is a message that is still heard of the dead."""
        return bool(self.parcels.values[parcel].message.name == MessageName.THREAD_PLACED)

    def living(self, world: ThreadWorld) -> list[tuple[int, Surroundings]]:
        """The living kernels and their states."""
        values = self.locals.values
        return [(kernel, values[local]) for kernel, local in enumerate(world.locals) if local != DEAD]

    def _answers(self, world: ThreadWorld, kernel: int, local: Surroundings) -> Iterator[Move]:
        """What the surroundings were asked to do, and do."""
        if local.joining:
            sure = world.locals[0] != DEAD  # home may have died before it answered, or just after
            yield self._step(world, kernel, ("created", 0, 0), world.net, spontaneous=not sure)
        for thread, coming in local.coming:
            if coming.process is Process.WANTED:
                yield self._step(world, kernel, ("placed", thread, 0), world.net)
            if world.refusals < self.scenario.refusals and (local.joining or coming.process is Process.WANTED):
                after = world._replace(refusals=world.refusals + 1)
                yield self._step(after, kernel, ("refused", thread, 0), world.net)

    def _wishes(self, world: ThreadWorld, kernel: int, local: Surroundings) -> Iterator[Move]:
        """What threads do of their own accord."""
        for thread, here in local.here:
            if here.waits:
                continue
            yield self._step(world, kernel, ("exit", thread, 0), world.net, spontaneous=True)
            if Fate.UNBORN in world.fates:
                yield self._step(
                    world, kernel, ("start", world.fates.index(Fate.UNBORN), 0), world.net, spontaneous=True
                )
            if world.migrations < self.scenario.migrations:
                after = world._replace(migrations=world.migrations + 1)
                for to in range(self.scenario.kernels):
                    if to != kernel:
                        yield self._step(after, kernel, ("migrate", thread, to), world.net, spontaneous=True)
            if world.group_exits < self.scenario.group_exits:
                after = world._replace(group_exits=world.group_exits + 1)
                yield self._step(after, kernel, ("exit group", thread, 0), world.net, spontaneous=True)
        if world.watches < self.scenario.watches and any(not here.waits for _, here in local.here):
            for thread, fate in enumerate(world.fates):
                if fate is not Fate.UNBORN:
                    watching = tuple(sorted({*world.watching, (kernel, thread)}))
                    after = world._replace(watches=world.watches + 1, watching=watching)
                    asks = "watch", thread, world.began[thread]
                    yield self._step(after, kernel, asks, world.net, spontaneous=True)

    def _without(self, world: ThreadWorld, gone: int) -> ThreadWorld:
        """The kernel is no more, and nobody has heard of it yet."""
        survivors = [kernel for kernel, _ in self.living(world) if kernel != gone]
        notices = [entry for entry in world.notices if entry[1] != gone] + [(gone, kernel) for kernel in survivors]
        after = world._replace(
            locals=(*world.locals[:gone], DEAD, *world.locals[gone + 1 :]),
            net=tuple(flight for flight in world.net if flight[1] != gone),
            notices=tuple(sorted(notices)),
            deaths=world.deaths + 1,
            watching=tuple(entry for entry in world.watching if entry[0] != gone),
        )
        return self._missing(after, Fate.LOST)

    def _step(
        self,
        world: ThreadWorld,
        kernel: int,
        event: _Event,
        net: Net,
        flight: tuple[int, int, int] | None = None,
        *,
        spontaneous: bool = False,
    ) -> Move:
        """One kernel has an event; `net` is what is in flight without the step's own messages."""
        says = _SAYS[event[0]].format(*event)
        self._trying = kernel, says, flight
        key = kernel, world.locals[kernel], event
        outcome = self._steps.get(key)
        if outcome is None:
            outcome = self._steps[key] = self._have(*key)
        sends = [(to, number) for to, number in outcome.sends if world.locals[to] != DEAD]
        locals_ = (*world.locals[:kernel], outcome.local, *world.locals[kernel + 1 :])
        after = world._replace(locals=locals_, net=self._network.add(net, kernel, sends))
        after = self._consequences(world, after, kernel, outcome, event)
        return Move(kernel, says, outcome, after, flight, spontaneous)

    def _have(self, kernel: int, local: int, event: _Event) -> ThreadOutcome:
        what, one, two = event
        parcel = self.parcels.values[two] if what == "receive" else None
        step = ThreadStep(kernel, self.engines[kernel], self.locals.values[local], parcel)
        if what == "created":
            step.finish_creating()
        elif what == "placed":
            step.coming[one] = step.coming[one]._replace(process=Process.READY)
        elif what == "refused":
            del step.coming[one]
        elif what == "migrate":
            step.here[one] = step.here[one]._replace(waits=True)
        elif what == "exit":
            del step.here[one]
            step.ended.append(one)
        step.event(lambda engine: self._call(engine, event))
        return step.outcome(self.locals, self.parcels)

    def _call(self, engine: ThreadsEngine, event: _Event) -> list[ThreadEffect]:
        match event:
            case "receive", sender, number:
                return engine.receive(sender, self.parcels.values[number].message)
            case "bury", kernel, _:
                return engine.peer_down(kernel)
            case "start", thread, _:
                return engine.start(thread)
            case "created", _, _:
                return engine.created()
            case "placed", thread, _:
                return engine.placed(thread)
            case "refused", thread, _:
                return engine.refused(thread)
            case "migrate", thread, to:
                return engine.migrate(thread, to)
            case "exit", thread, _:
                return engine.exit(thread)
            case "watch", thread, began:
                return engine.watch(thread, began)
            case _:
                return engine.exit_group()

    # What must hold ---------------------------------------------------------------------------------------------------

    def _consequences(
        self, before: ThreadWorld, after: ThreadWorld, kernel: int, outcome: ThreadOutcome, event: _Event
    ) -> ThreadWorld:
        """The world with what a step means for threads; whatever a step must not do is a violation."""
        ages, fates, parked = list(after.ages), list(after.fates), list(after.parked)
        for thread, age in outcome.resumed:
            if event[0] == "start":
                fates[thread] = Fate.ALIVE
                after = after._replace(began=(*after.began[:thread], kernel, *after.began[thread + 1 :]))
            if age != ages[thread]:
                raise Violation(f"T1: thread {thread} goes on from an old state")
            if fates[thread] is not Fate.ALIVE:
                raise Violation(f"T2: thread {thread} goes on though it is {fates[thread].name.lower()}")
            ages[thread] += 1
            parked[thread] &= ~(1 << kernel)
        for thread in outcome.parked:
            parked[thread] |= 1 << kernel
        for thread in outcome.ended:
            fates[thread] = Fate.ENDED
        after = after._replace(ages=tuple(ages), fates=tuple(fates), parked=tuple(parked))
        states = self.locals.values
        ends = states[outcome.local].ended and not states[before.locals[kernel]].ended
        counted = ends and not self._told(event)
        after = self._missing(after, self._reason(after, outcome, event, counted))
        if counted and (Fate.ALIVE in after.fates or outcome.ended not in ((), (event[1],))):
            raise Violation("T4: the group ends though a thread lives")
        for thread in outcome.lost:
            if after.fates[thread] is Fate.ALIVE:
                raise Violation(f"T3: thread {thread} is said to be lost, and lives")
        after = after._replace(watching=self._watching(after, kernel, outcome))
        if outcome.closed:
            if not all(local.empty for _, local in self.living(after)):
                raise Violation("T4: the group is said to have ended, and something is left")
            after = after._replace(closed=True)
        return after

    def _watching(self, world: ThreadWorld, kernel: int, outcome: ThreadOutcome) -> tuple[tuple[int, int], ...]:
        """What is still asked once the kernel has said what it knows."""
        watching = set(world.watching)
        for thread, life in outcome.lives:
            if (kernel, thread) not in watching:
                raise Violation(f"T6: something is said of thread {thread}, and nobody has asked")
            if life is Life.GONE and world.fates[thread] is Fate.ALIVE:
                raise Violation(f"T6: thread {thread} is said to be no more, and lives")
            if life is Life.UNKNOWN and world.locals[world.began[thread]] != DEAD:
                raise Violation(f"T6: what has become of thread {thread} is said to be unknown, and a kernel knows")
            if life is not Life.ALIVE:
                watching.discard((kernel, thread))
        return tuple(sorted(watching))

    def _told(self, event: _Event) -> bool:
        """Whether a kernel that takes the group for ended after this event has been told so."""
        if event[0] != "receive":
            return event[0] == "exit group"
        return bool(self.parcels.values[event[2]].message.name == MessageName.GROUP_EXIT)

    def _reason(self, world: ThreadWorld, outcome: ThreadOutcome, event: _Event, counted: bool) -> Fate:
        """What a thread has become that is nowhere after this step; ALIVE if there is no excuse for it."""
        if self.locals.values[outcome.local].ended and not counted:
            return Fate.ENDED
        if event[0] in ("receive", "refused"):  # it may have been refused, and its source cannot take it back
            if any(local.ended for _, local in self.living(world)):
                return Fate.ENDED
            return Fate.LOST if world.deaths else Fate.ALIVE
        return Fate.LOST if event[0] == "bury" else Fate.ALIVE

    def _missing(self, world: ThreadWorld, reason: Fate) -> ThreadWorld:
        """Threads that live are somewhere: their latest state is on a kernel, or on its way to one."""
        fates = list(world.fates)
        somewhere = {(parcel.message.page, parcel.age) for parcel in self._on_the_way(world)}
        for _, local in self.living(world):
            somewhere.update((thread, here.age) for thread, here in local.here)
            somewhere.update((thread, coming.age) for thread, coming in local.coming)
        for thread, fate in enumerate(fates):
            if fate is Fate.ALIVE and (thread, world.ages[thread]) not in somewhere:
                if reason is Fate.ALIVE:
                    raise Violation(f"T2: thread {thread} is nowhere, though nothing that had it died")
                fates[thread] = reason
        return world._replace(fates=tuple(fates))

    def _on_the_way(self, world: ThreadWorld) -> Iterator[ThreadParcel]:
        for _, _, number in world.net:
            parcel: ThreadParcel = self.parcels.values[number]
            if parcel.message.name == MessageName.THREAD_MIGRATE:
                yield parcel

    def view(self, world: ThreadWorld) -> list[ThreadsView]:
        """All kernels for people, in order."""
        states, threads = self.locals.values, len(world.fates)
        return [ThreadsView("x") if local == DEAD else view_of(states[local], threads) for local in world.locals]

    def broken(self, _: ThreadWorld) -> str | None:
        """Nothing: what is wrong shows in the step that does it."""
        return None

    def stuck(self, world: ThreadWorld) -> str | None:
        """What is wrong in a state where nothing is in flight."""
        living = self.living(world)
        over = any(local.ended for _, local in living)
        home_lives = world.locals[0] != DEAD
        if home_lives and not over and Fate.ALIVE not in world.fates:
            return "T4: all threads have ended, and the group has not"
        if over and home_lives and not world.closed:
            return "T4: the group has ended, and home does not know"
        for kernel, local in living:
            if over and not local.empty:
                return f"T4: the group has ended, and something is left on kernel {kernel}"
            if over and not local.ended:
                return f"T4: the group has ended, and kernel {kernel} does not know"
            problem = self._unsettled(world, kernel, local)
            if problem:
                return problem
            waited = [thread for asker, thread in world.watching if asker == kernel and not local.ended]
            if any(
                world.fates[thread] is not Fate.ALIVE or world.locals[world.began[thread]] == DEAD for thread in waited
            ):
                return f"T6: kernel {kernel} does not hear that a thread is no more, or that nobody knows"
            if not home_lives and local.there and not local.here and not local.placeholders:
                return f"T5: home is dead, nothing is left on kernel {kernel}, and its part stays"
        return None

    @staticmethod
    def _unsettled(world: ThreadWorld, kernel: int, local: Surroundings) -> str | None:
        if local.joining or local.coming or any(here.waits for _, here in local.here):
            return f"T5: nothing is in flight, but a thread waits on kernel {kernel}"
        for thread, fate in enumerate(world.fates):
            ought = fate is Fate.ALIVE and bool(world.parked[thread] >> kernel & 1) and not local.ended
            if ought != (thread in local.placeholders):
                return f"T5: a placeholder of thread {thread} is {'not ' if ought else ''}on kernel {kernel}"
        return None


_SAYS = {
    "receive": "receives",
    "bury": "hears that kernel {1} died",
    "start": "starts thread {1}",
    "created": "has created the process",
    "placed": "has a process for thread {1}",
    "refused": "has no process for thread {1}",
    "migrate": "sends thread {1} to kernel {2}",
    "exit": "ends thread {1}",
    "exit group": "ends the group",
    "watch": "asks after thread {1}",
}
"""The moves in words, by event."""
