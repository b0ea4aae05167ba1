"""One kernel of the model: the production engine, the memory it rules, and the threads that use it.

A page's contents are reduced to one bit: *fresh*, the value last stored by anyone, or not. That is all that the
invariants ask about, and it keeps the number of states small. A store makes every other copy stale, also those in
messages in flight and those laid aside.

States of a machine are values, numbered as they turn up. What a machine does in a state on an event never changes, so
it is computed once: the search mostly looks up.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from guest.protocol import effects as fx
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.table import State

NONE, READABLE, WRITABLE, POISONED = range(4)
"""What the memory lets a thread do with a page."""


class Violation(Exception):
    """The protocol did what it must not do."""


class Frame(NamedTuple):
    """A page in the memory of one kernel."""

    access: int = NONE
    fresh: bool = False
    kept: bool | None = None
    """Freshness of the payload laid aside, if there is one."""


class Thread(NamedTuple):
    """A thread, and what it still may do."""

    remaining: int
    page: int = -1
    """The page it could not access; -1 when it is not in a fault."""
    write: bool = False
    asleep: bool = False
    """Whether it waits to be woken; awake, it will try again."""


class Local(NamedTuple):
    """The whole state of one machine."""

    engine: Any
    memory: tuple[Frame, ...]
    threads: tuple[Thread, ...]


class Parcel(NamedTuple):
    """A message with what it carries."""

    message: Message
    fresh: bool = False


class Outcome(NamedTuple):
    """What a step of a machine leads to."""

    local: int
    sends: tuple[tuple[int, int], ...] = ()
    """(receiver, number of the parcel)."""
    stored: tuple[int, ...] = ()
    """Pages that a thread stored to: every copy elsewhere is stale now."""
    zeroed: tuple[int, ...] = ()
    """Pages that became pages of zeros."""
    poisoned: tuple[int, ...] = ()
    """Pages given up as lost."""


class Numbering:
    """Numbers for values, and values for numbers."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        """The value's number, a new one if it is new."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found


class Summary(NamedTuple):
    """What the invariants ask about a machine's state. Masks of pages."""

    readable: int
    writable: int
    stale: int
    """Readable, but not the latest value."""
    alone: int
    """In state N."""
    present: int
    """In state N, M or S."""
    asleep: bool
    awake: bool
    pending: bool


class Machine:
    """One kernel."""

    def __init__(self, kernel: int, engine: Engine, parcels: Numbering) -> None:
        self.kernel = kernel
        self.locals = Numbering()
        self.summaries: list[Summary] = []
        self.engine = engine
        self.parcels = parcels
        self._give_ups: dict[int, tuple[tuple[str, Outcome], ...]] = {}
        self._steps: dict[tuple[int, int, int], Outcome] = {}
        self._moves: dict[int, tuple[tuple[str, Outcome], ...]] = {}
        self._aged: dict[tuple[int, int], int] = {}

    def begin(self, pages: int, threads: int, operations: int) -> int:
        """The number of the first state."""
        return self.number(Local(self.engine.freeze(), (Frame(),) * pages, (Thread(operations),) * threads))

    def rearm(self, local: int, threads: int, operations: int) -> int:
        """The same state, but with these operations to come."""
        return self.number(self.locals.values[local]._replace(threads=(Thread(operations),) * threads))

    def deliver(self, local: int, sender: int, parcel: int) -> Outcome:
        """A message arrives."""
        key = (local, sender, parcel)
        outcome = self._steps.get(key)
        if outcome is None:
            outcome = self._steps[key] = self._deliver(local, sender, parcel)
        return outcome

    def bury(self, local: int, kernel: int) -> Outcome:
        """The news of a death arrives."""
        key = (local, kernel, -1)
        outcome = self._steps.get(key)
        if outcome is None:
            step = _Step(self, local)
            step.event(lambda engine: engine.peer_down(kernel))
            outcome = self._steps[key] = step.outcome()
        return outcome

    def moves(self, local: int) -> tuple[tuple[str, Outcome], ...]:
        """All that its threads may do now: start an operation, or try again."""
        found = self._moves.get(local)
        if found is None:
            found = self._moves[local] = tuple(self._find_moves(local))
        return found

    def give_ups(self, local: int) -> tuple[tuple[str, Outcome], ...]:
        """The process that waits for a page dies."""
        found = self._give_ups.get(local)
        if found is None:
            threads: tuple[Thread, ...] = self.locals.values[local].threads
            pages = sorted({thread.page for thread in threads if thread.asleep})
            found = tuple((f"stops waiting for page {page}", self._give_up(local, page)) for page in pages)
            self._give_ups[local] = found
        return found

    def age(self, local: int, page: int) -> int:
        """The same state after someone else stored to the page."""
        key = (local, page)
        aged = self._aged.get(key)
        if aged is None:
            state: Local = self.locals.values[local]
            frame = state.memory[page]
            frame = frame._replace(fresh=False, kept=None if frame.kept is None else False)
            aged = self._aged[key] = self.number(state._replace(memory=_with(state.memory, page, frame)))
        return aged

    def number(self, state: Local) -> int:
        """The number of a state; threads are alike, so their order does not count."""
        state = state._replace(threads=tuple(sorted(state.threads)))
        number = self.locals.number(state)
        if number == len(self.summaries):
            self.summaries.append(self._summarize(state))
        return number

    def _summarize(self, state: Local) -> Summary:
        engine = self.engine.thaw(state.engine)
        readable = writable = stale = alone = present = 0
        pending = False
        for page, frame in enumerate(state.memory):
            bit = 1 << page
            protocol_state = engine.state(page)
            self._agree(protocol_state, frame, page)
            pending |= engine.pending(page)
            if protocol_state is State.N:
                alone |= bit
            if frame.access in (READABLE, WRITABLE):
                readable |= bit
                present |= bit
                writable |= bit if frame.access == WRITABLE else 0
                stale |= 0 if frame.fresh else bit
        asleep = any(thread.asleep for thread in state.threads)
        awake = any(thread.page >= 0 and not thread.asleep for thread in state.threads)
        return Summary(readable, writable, stale, alone, present, asleep, awake, pending)

    def _agree(self, state: State, frame: Frame, page: int) -> None:
        expected = {State.N: WRITABLE, State.M: WRITABLE, State.S: READABLE}.get(state, NONE)
        if frame.access != expected and not (expected == NONE and frame.access == POISONED):
            raise Violation(f"kernel {self.kernel}: page {page} is {state.name}, but its memory allows {frame.access}")

    def _deliver(self, local: int, sender: int, number: int) -> Outcome:
        parcel: Parcel = self.parcels.values[number]
        step = _Step(self, local, parcel)
        step.event(lambda engine: engine.receive(sender, parcel.message))
        return step.outcome()

    def _give_up(self, local: int, page: int) -> Outcome:
        step = _Step(self, local)
        step.threads = [Thread(0) if thread.asleep and thread.page == page else thread for thread in step.threads]
        step.event(lambda engine: engine.abandon(page))
        return step.outcome()

    def _find_moves(self, local: int) -> Iterable[tuple[str, Outcome]]:
        state: Local = self.locals.values[local]
        for index, thread in enumerate(state.threads):
            if index and thread == state.threads[index - 1]:
                continue
            if thread.page >= 0:
                if not thread.asleep:
                    yield f"tries page {thread.page} again", self._access(local, index, thread.page, thread.write)
            elif thread.remaining:
                for page, frame in enumerate(state.memory):
                    if frame.access == NONE:
                        yield f"reads page {page}", self._access(local, index, page, False)
                    if frame.access != POISONED:
                        yield f"writes page {page}", self._access(local, index, page, True)

    def _access(self, local: int, index: int, page: int, write: bool) -> Outcome:
        step = _Step(self, local)
        thread = step.threads[index]
        if step.memory[page].access == POISONED:
            step.threads[index] = Thread(0)
        elif not step.try_access(index, page, write):
            step.threads[index] = Thread(thread.remaining, page, write, asleep=True)
            step.event(lambda engine: engine.fault(page, write))
        return step.outcome()


class _Step:
    """One step of one machine: an event, its effects in order, and what the threads do meanwhile."""

    def __init__(self, machine: Machine, local: int, parcel: Parcel | None = None) -> None:
        state: Local = machine.locals.values[local]
        self._machine = machine
        self._frozen = state.engine
        self.memory = list(state.memory)
        self.threads = list(state.threads)
        self._parcel = parcel
        self._sends: list[tuple[int, Parcel]] = []
        self._stored: list[int] = []
        self._zeroed: list[int] = []
        self._poisoned: list[int] = []

    def event(self, call: Callable[[Engine], list[fx.Effect]]) -> None:
        """Let the engine have an event, and carry out what it wants."""
        engine = self._machine.engine.thaw(self._frozen)
        try:
            effects = call(engine)
        except ProtocolError as error:
            raise Violation(error.message) from error
        self._frozen = engine.freeze()
        for effect in effects:
            self._carry_out(effect)

    def outcome(self) -> Outcome:
        """What came of it."""
        machine = self._machine
        return Outcome(
            machine.number(Local(self._frozen, tuple(self.memory), tuple(self.threads))),
            tuple((to, machine.parcels.number(parcel)) for to, parcel in self._sends),
            tuple(self._stored),
            tuple(self._zeroed),
            tuple(self._poisoned),
        )

    def try_access(self, index: int, page: int, write: bool) -> bool:
        """Whether the memory lets the thread do it; if so, it is done."""
        access = self.memory[page].access
        if access == POISONED:
            self.threads[index] = Thread(0)
            return True
        if access == NONE or (write and access != WRITABLE):
            return False
        self.threads[index] = Thread(self.threads[index].remaining - 1)
        if write:
            self.memory[page] = self.memory[page]._replace(fresh=True)
            self._stored.append(page)
            self._sends = [
                (to, parcel._replace(fresh=False) if parcel.message.page == page else parcel)
                for to, parcel in self._sends
            ]
        return True

    def _wake(self, page: int) -> None:
        for index, thread in enumerate(self.threads):
            if thread.page == page and not self.try_access(index, page, thread.write):
                self.threads[index] = thread._replace(asleep=False)

    def _carry_out(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Send):
            self._send(effect)
            return
        page = effect.page
        frame = self.memory[page]
        wakes = isinstance(effect, fx.Grant | fx.Zero | fx.Wake | fx.Poison)
        match effect:
            case fx.Install(_, writable, wake, kept):
                self._expect(frame.access == NONE, f"page {page} installed over a present one")
                fresh = frame.kept if kept else self._payload(page)
                self._expect(fresh is not None, f"page {page} installed without a payload")
                frame = Frame(WRITABLE if writable else READABLE, bool(fresh), None if kept else frame.kept)
                wakes = wake
            case fx.Keep():
                frame = frame._replace(kept=self._payload(page))
            case fx.Forget():
                self._expect(frame.kept is not None, f"no payload of page {page} to forget")
                frame = frame._replace(kept=None)
            case fx.Zero(_, writable):
                self._expect(frame.access == NONE and frame.kept is None, f"page {page} zeroed while there is one")
                frame = Frame(WRITABLE if writable else READABLE, fresh=True)
                self._zeroed.append(page)
            case fx.Grant():
                self._expect(frame.access == READABLE, f"page {page} granted while not write-protected")
                frame = frame._replace(access=WRITABLE)
            case fx.Protect():
                self._expect(frame.access == WRITABLE, f"page {page} write-protected while not writable")
                frame = frame._replace(access=READABLE)
            case fx.Discard():
                self._expect(frame.access != NONE, f"page {page} discarded while not present")
                frame = frame._replace(access=NONE, fresh=False)
            case fx.Poison():
                self._expect(frame.access in (NONE, POISONED), f"page {page} poisoned while present")
                frame = frame._replace(access=POISONED)
                self._poisoned.append(page)
        self.memory[page] = frame
        if wakes:
            self._wake(page)

    def _send(self, effect: fx.Send) -> None:
        message = effect.message
        fresh = False
        if message.name == MessageName.PAGE_DATA:
            frame = self.memory[message.page]
            self._expect(frame.access == READABLE, f"page {message.page} sent while not write-protected")
            fresh = frame.fresh
        self._sends.append((effect.to, Parcel(message, fresh)))

    def _payload(self, page: int) -> bool:
        parcel = self._parcel
        carries = parcel is not None and parcel.message.name == MessageName.PAGE_DATA and parcel.message.page == page
        self._expect(carries, f"page {page} taken from a message that does not carry it")
        return parcel is not None and parcel.fresh

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(f"kernel {self._machine.kernel}: {otherwise}")


def _with(memory: tuple[Frame, ...], page: int, frame: Frame) -> tuple[Frame, ...]:
    return (*memory[:page], frame, *memory[page + 1 :])
