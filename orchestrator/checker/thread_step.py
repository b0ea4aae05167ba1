"""One step of one kernel's threads: the engine gets an event, a model of the surroundings carries out its effects.

The surroundings are strict: an effect that a daemon could not carry out is a violation. A thread's state is reduced to
its *age*, how often the thread was let run: a state that is not the latest must never be run.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from guest.protocol import thread_effects as fx
from guest.protocol.effects import Send
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.threads import ThreadsEngine
from orchestrator.checker.machine import Numbering
from orchestrator.checker.step import Violation


class Here(NamedTuple):
    """A thread that is on the kernel."""

    age: int
    waits: bool = False
    """Whether it wants to leave, and waits for what comes of it."""


class Process(IntEnum):
    """How far the surroundings have come with a thread that arrives."""

    NONE = 0
    """Its state is laid aside, nothing was asked for."""
    WANTED = 1
    READY = 2


class Coming(NamedTuple):
    """A thread that arrives."""

    age: int
    process: Process = Process.NONE
    placement: fx.Placement = fx.Placement.REFUSED


class Surroundings(NamedTuple):
    """The whole state of one kernel. Tables are tuples of (thread, value), sorted."""

    engine: Any
    here: tuple[tuple[int, Here], ...] = ()
    coming: tuple[tuple[int, Coming], ...] = ()
    placeholders: tuple[int, ...] = ()
    there: bool = False
    """Whether the process is here."""
    joining: bool = False
    """Whether it is being created."""
    ended: bool = False
    """Whether the engine takes the group for ended."""

    @property
    def empty(self) -> bool:
        """Whether nothing of the process is here."""
        return not (self.here or self.coming or self.placeholders or self.there or self.joining)


class ThreadParcel(NamedTuple):
    """A message with what it carries."""

    message: Message
    age: int = 0
    """THREAD_MIGRATE: of the state."""


class ThreadOutcome(NamedTuple):
    """What a step leads to."""

    local: int
    """Number of the state."""
    sends: tuple[tuple[int, int], ...] = ()
    """(receiver, number of the parcel)."""
    resumed: tuple[tuple[int, int], ...] = ()
    """(thread, age of the state that goes on)."""
    parked: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()
    """Threads that ended here; not those that waited to leave, as they may run elsewhere by now."""
    lost: tuple[int, ...] = ()
    """Threads that are said to be lost."""
    lives: tuple[tuple[int, fx.Life], ...] = ()
    """(thread, what is said of it to those who asked)."""
    closed: bool = False
    """Whether the group is said to have ended everywhere."""


class ThreadStep:
    """An event, its effects in order."""

    def __init__(self, kernel: int, engine: ThreadsEngine, local: Surroundings, parcel: ThreadParcel | None) -> None:
        self._kernel = kernel
        self._engine = engine.thaw(local.engine)
        self._parcel = parcel
        self.here = dict(local.here)
        self.coming = dict(local.coming)
        self._placeholders = set(local.placeholders)
        self._there, self.joining = local.there, local.joining
        self._sends: list[tuple[int, ThreadParcel]] = []
        self._resumed: list[tuple[int, int]] = []
        self._parked: list[int] = []
        self.ended: list[int] = []
        self._lost: list[int] = []
        self._lives: list[tuple[int, fx.Life]] = []
        self._closed = False

    def event(self, call: Callable[[ThreadsEngine], list[fx.ThreadEffect]]) -> "ThreadStep":
        """Let the engine have the event, and carry out what it wants."""
        try:
            effects = call(self._engine)
        except ProtocolError as error:
            raise Violation(error.message) from error
        except Exception as error:  # a defect like any other, and here with the trace that leads to it
            raise Violation(f"kernel {self._kernel}: the engine raised {type(error).__name__}: {error}") from error
        for effect in effects:
            self._carry_out(effect)
        return self

    def outcome(self, locals_: Numbering, parcels: Numbering) -> ThreadOutcome:
        """What it led to, with numbers for the state and for what is sent."""
        local = Surroundings(
            self._engine.freeze(),
            tuple(sorted(self.here.items())),
            tuple(sorted(self.coming.items())),
            tuple(sorted(self._placeholders)),
            self._there,
            self.joining,
            self._engine.ended,
        )
        self._expect(set(self._engine.threads) == self.here.keys(), "the engine has other threads than there are")
        self._expect(set(self._engine.placeholders) == self._placeholders, "the engine has other placeholders")
        return ThreadOutcome(
            locals_.number(local),
            tuple((to, parcels.number(parcel)) for to, parcel in self._sends),
            tuple(self._resumed),
            tuple(self._parked),
            tuple(self.ended),
            tuple(self._lost),
            tuple(self._lives),
            self._closed,
        )

    def _carry_out(self, effect: fx.ThreadEffect) -> None:
        match effect:
            case Send(to, message):
                self._send(to, message)
            case fx.Run(thread):
                self._run(thread)
            case fx.Stay(thread):
                here = self.here.get(thread)
                self._expect(here is not None and here.waits, f"thread {thread} stays, which did not want to leave")
                self._resume(thread, self.here[thread].age)
            case fx.Park(thread):
                self._expect(thread in self.here and self.here[thread].waits, f"thread {thread} parked while it runs")
                del self.here[thread]
                self._placeholders.add(thread)
                self._parked.append(thread)
            case fx.EndThread(thread):
                self._expect(thread in self.here, f"thread {thread} ended where it is not")
                if not self.here.pop(thread).waits:
                    self.ended.append(thread)
            case fx.EndPlaceholder(thread):
                self._expect(thread in self._placeholders, f"thread {thread} has no placeholder to end")
                self._placeholders.discard(thread)
            case fx.Lost(thread):
                self._lost.append(thread)
            case fx.Fate(thread, life):
                self._lives.append((thread, life))
            case _:
                self._prepare(effect)

    def _prepare(self, effect: fx.ThreadEffect) -> None:
        """The effects that get a kernel ready for a thread, and the last ones."""
        match effect:
            case fx.TakeState(thread):
                parcel = self._parcel
                carries = parcel and parcel.message.name == MessageName.THREAD_MIGRATE and parcel.message.page == thread
                self._expect(bool(carries), f"the state of thread {thread} taken from a message that does not carry it")
                self._expect(thread not in self.coming, f"a second state of thread {thread} laid aside")
                self.coming[thread] = Coming(parcel.age if parcel else 0)
            case fx.DropState(thread):
                self._expect(thread in self.coming, f"the state of thread {thread} dropped, which did not come")
                self._expect(self.coming[thread].process is Process.NONE, f"thread {thread} dropped for its process")
                del self.coming[thread]
            case fx.Create():
                self._expect(not (self._there or self.joining), "the process created twice")
                self.joining = True
            case fx.Place(thread, placement):
                self._expect(thread in self.coming and self._there, f"thread {thread} placed without state or process")
                back = placement is fx.Placement.BACK
                self._expect(back == (thread in self._placeholders), f"thread {thread} placed {placement.name}")
                self.coming[thread] = self.coming[thread]._replace(process=Process.WANTED, placement=placement)
            case fx.Drop(thread):
                self._expect(thread in self.coming, f"thread {thread} dropped, which did not arrive")
                del self.coming[thread]
            case fx.Dissolve():
                self._expect(self._there or self.joining, "the process dissolved where it is not")
                self._expect(not (self.here or self.coming or self._placeholders), "dissolved while something is left")
                self._there = self.joining = False
            case fx.GroupEnded():
                self._closed = True

    def _run(self, thread: int) -> None:
        coming = self.coming.pop(thread, None)
        if coming is None:  # it begins here
            self._expect(thread not in self.here and self._there, f"thread {thread} begins where it is already")
            self._resume(thread, 0)
            return
        self._expect(coming.process is Process.READY, f"thread {thread} runs without a process")
        self._placeholders.discard(thread)
        self._resume(thread, coming.age)

    def _resume(self, thread: int, age: int) -> None:
        self.here[thread] = Here(age + 1)
        self._resumed.append((thread, age))

    def _send(self, to: int, message: Message) -> None:
        age = 0
        if message.name == MessageName.THREAD_MIGRATE:
            here = self.here.get(message.page)
            self._expect(here is not None and here.waits, f"the state of thread {message.page} sent while it runs")
            age = self.here[message.page].age
        self._sends.append((to, ThreadParcel(message, age)))

    def finish_creating(self) -> None:
        """The process is here."""
        self.joining, self._there = False, True

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(f"kernel {self._kernel}: {otherwise}")
