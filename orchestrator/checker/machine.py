"""One kernel of the model: the production engine, the memory it rules, and the threads that use it.

A page's contents are reduced to one bit: *fresh*, the value last stored by anyone, or not. That is all that the
invariants ask about, and it keeps the number of states small. A store makes every other copy stale, also those in
messages in flight and those laid aside.

States of a machine are values, numbered as they turn up. What a machine does in a state on an event never changes, so
it is computed once: the search mostly looks up.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from guest.protocol.address_space import Access, Operation
from guest.protocol.engine import Engine
from guest.protocol.space import SpaceEngine
from guest.protocol.table import State
from orchestrator.checker.step import (
    NONE,
    POISONED,
    READABLE,
    WRITABLE,
    Frame,
    Local,
    Parcel,
    Step,
    Thread,
    Violation,
)

NO_EPOCH = 1 << 32
"""Of a kernel outside the set: no operation has to wait for it."""


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
    unmapped: tuple[int, ...] = ()
    moved: tuple[tuple[int, int], ...] = ()
    copied: tuple[tuple[int, int], ...] = ()
    done: int = 0
    """The epoch that every kernel has reached, by the word that a thread got of its operation on the address space."""
    entered: bool = False
    """Whether the kernel has got into the kernel set."""


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
    epoch: int
    orphaned: bool
    """Whether it ends, as nobody can tell it what the address space is."""


class Machine:
    """One kernel."""

    def __init__(self, kernel: int, engine: Engine, parcels: Numbering, space: tuple[Operation, ...] = ()) -> None:
        self.kernel = kernel
        self.space = space
        self.locals = Numbering()
        self.summaries: list[Summary] = []
        self.engine = engine
        self._unused = engine.freeze()
        self.parcels = parcels
        self._give_ups: dict[int, tuple[tuple[str, Outcome], ...]] = {}
        self._steps: dict[tuple[int, int, int], Outcome] = {}
        self._moves: dict[int, tuple[tuple[str, Outcome, bool], ...]] = {}
        self._aged: dict[tuple[int, int], int] = {}

    def begin(self, pages: int, threads: int, operations: int) -> int:
        """The number of the first state."""
        allowed = self.engine.space.pages if isinstance(self.engine, SpaceEngine) else ()
        return self.number(Local(self.engine.freeze(), (Frame(),) * pages, (Thread(operations),) * threads, allowed))

    def rearm(self, local: int, threads: int, operations: int) -> int:
        """The same state, but with these operations to come."""
        return self.number(self.locals.values[local]._replace(threads=(Thread(operations),) * threads))

    def begin_again(self, dead: Iterable[int], threads: int, operations: int) -> int:
        """The number of the state in which it comes back while `dead` are dead."""
        engine = self.engine.thaw(self._unused)
        for kernel in dead:
            engine.peer_down(kernel)
        engine.peer_up(self.kernel)
        pages = len(self.locals.values[0].memory)
        return self.number(Local(engine.freeze(), (Frame(),) * pages, (Thread(operations),) * threads))

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
            step = self._step(local)
            step.event(lambda engine: engine.peer_down(kernel))
            outcome = self._steps[key] = self._outcome(step)
        return outcome

    def welcome(self, local: int, kernel: int) -> Outcome:
        """The news arrives that a kernel is back."""
        key = (local, kernel, -2)
        outcome = self._steps.get(key)
        if outcome is None:
            step = self._step(local)
            step.event(lambda engine: engine.peer_up(kernel))
            outcome = self._steps[key] = self._outcome(step)
        return outcome

    def take_over(self, local: int, page: int) -> Outcome:
        """It reads the page, though no thread of its own wants it."""
        key = (local, page, -3)
        outcome = self._steps.get(key)
        if outcome is None:
            step = self._step(local)
            step.event(lambda engine: engine.fault(page, False))
            outcome = self._steps[key] = self._outcome(step)
        return outcome

    def moves(self, local: int) -> tuple[tuple[str, Outcome, bool], ...]:
        """All that its threads may do now, each under a name of its own: start an operation, or try again; and whether
        that is of their own accord, as only the former is."""
        found = self._moves.get(local)
        if found is None:
            awake = self.summaries[local].awake
            found = tuple(
                (says, outcome, not (awake and says.startswith("tries"))) for says, outcome in self._find_moves(local)
            )
            self._moves[local] = found
        return found

    def give_ups(self, local: int) -> tuple[tuple[str, Outcome], ...]:
        """The process that waits for a page dies."""
        found = self._give_ups.get(local)
        if found is None:
            threads: tuple[Thread, ...] = self.locals.values[local].threads
            pages = sorted({thread.page for thread in threads if thread.asleep and thread.page >= 0})
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
        orphaned, epoch = False, engine.epoch
        if isinstance(engine, SpaceEngine):
            orphaned = engine.orphaned
            epoch = engine.epoch if engine.joined else NO_EPOCH
            if state.allowed != engine.space.pages:
                raise Violation(f"kernel {self.kernel}: its memory allows something else than its address space")
        asleep = any(thread.asleep for thread in state.threads)
        awake = any(thread.page >= 0 and not thread.asleep for thread in state.threads)
        return Summary(readable, writable, stale, alone, present, asleep, awake, pending, epoch, orphaned)

    def _agree(self, state: State, frame: Frame, page: int) -> None:
        expected = {State.N: WRITABLE, State.M: WRITABLE, State.S: READABLE}.get(state, NONE)
        if frame.access != expected and not (expected == NONE and frame.access == POISONED):
            raise Violation(f"kernel {self.kernel}: page {page} is {state.name}, but its memory allows {frame.access}")

    def _step(self, local: int, parcel: Parcel | None = None) -> Step:
        return Step(self.kernel, self.engine, self.locals.values[local], parcel)

    def _outcome(self, step: Step) -> Outcome:
        return Outcome(
            self.number(step.state()),
            tuple((to, self.parcels.number(parcel)) for to, parcel in step.sends),
            tuple(step.stored),
            tuple(step.zeroed),
            tuple(step.poisoned),
            tuple(step.unmapped),
            tuple(step.moved),
            tuple(step.copied),
            step.done,
            step.entered,
        )

    def _deliver(self, local: int, sender: int, number: int) -> Outcome:
        parcel: Parcel = self.parcels.values[number]
        step = self._step(local, parcel)
        step.event(lambda engine: engine.receive(sender, parcel.message))
        return self._outcome(step)

    def _give_up(self, local: int, page: int) -> Outcome:
        step = self._step(local)
        step.threads = [Thread(0) if thread.asleep and thread.page == page else thread for thread in step.threads]
        step.event(lambda engine: engine.abandon(page))
        return self._outcome(step)

    def _find_moves(self, local: int) -> Iterable[tuple[str, Outcome]]:
        state: Local = self.locals.values[local]
        engine = self.engine.thaw(state.engine)
        if isinstance(engine, SpaceEngine) and not engine.joined:
            if engine.may_join and any(thread.remaining for thread in state.threads):
                yield "asks to be let in", self._join(local)
            return
        for index, thread in enumerate(state.threads):
            if index and thread == state.threads[index - 1]:
                continue
            which = f" on thread {index}" if len(state.threads) > 1 else ""
            if thread.page >= 0:
                if not thread.asleep:
                    yield (
                        f"tries page {thread.page} again{which}",
                        self._access(local, index, thread.page, thread.write),
                    )
            elif thread.remaining and not thread.asking:
                for operation in self.space:
                    yield f"asks to {operation}{which}", self._operate(local, index, operation)
                for page, frame in enumerate(state.memory):
                    if frame.access == NONE or (state.allowed and state.allowed[page] == Access.NONE):
                        yield f"reads page {page}{which}", self._access(local, index, page, False)
                    if frame.access != POISONED:
                        yield f"writes page {page}{which}", self._access(local, index, page, True)

    def _join(self, local: int) -> Outcome:
        step = self._step(local)
        step.event(lambda engine: engine.join())  # type: ignore[attr-defined]
        return self._outcome(step)

    def _operate(self, local: int, index: int, operation: Operation) -> Outcome:
        step = self._step(local)
        asked = self.engine.thaw(self.locals.values[local].engine)
        assert isinstance(asked, SpaceEngine)
        request = asked.requests + 1
        step.threads[index] = Thread(step.threads[index].remaining, asleep=True, asking=request)
        step.event(lambda engine: engine.operate(operation))  # type: ignore[attr-defined]
        return self._outcome(step)

    def _access(self, local: int, index: int, page: int, write: bool) -> Outcome:
        step = self._step(local)
        thread = step.threads[index]
        if step.memory[page].access == POISONED:
            step.threads[index] = Thread(0)
        elif not step.try_access(index, page, write):
            step.threads[index] = Thread(thread.remaining, page, write, asleep=True)
            step.event(lambda engine: engine.fault(page, write))
        return self._outcome(step)


def _with(memory: tuple[Frame, ...], page: int, frame: Frame) -> tuple[Frame, ...]:
    return (*memory[:page], frame, *memory[page + 1 :])
