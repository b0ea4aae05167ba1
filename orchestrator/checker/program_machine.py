"""One kernel where threads run programs: the production engines of pages and of waits, and memory with real values.

States are values, and what a step does is computed once, as in `orchestrator.checker.machine`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from guest.protocol import effects as fx
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Message, MessageName
from orchestrator.checker.machine import Numbering
from orchestrator.checker.programs import (
    ACCESSES,
    BROKEN,
    CANCEL,
    LOAD,
    QUEUE,
    SLEEP,
    WAKE,
    Next,
    Operation,
    Program,
    Result,
    follow,
)
from orchestrator.checker.step import NONE, POISONED, READABLE, WRITABLE, Violation

PAGE_BYTES = 4096
WORD_BYTES = 8
WORDS_A_PAGE = 8
"""Of each page, the first ones are modelled."""
ZEROS = (0,) * WORDS_A_PAGE
_FUTEX = (MessageName.FUTEX_WAIT, MessageName.FUTEX_WAKE, MessageName.FUTEX_ANSWER)

Words = tuple[int, ...]
_Effect = TypeVar("_Effect")


class Frame(NamedTuple):
    """A page in the memory of one kernel."""

    access: int = NONE
    words: Words = ZEROS
    kept: Words | None = None


class ThreadState(NamedTuple):
    """A thread: what it has done so far, and what it waits for."""

    program: int
    history: tuple[Result, ...] = ()
    faulting: bool = False
    """Whether it sleeps in a page fault."""
    request: int = 0
    """The wait that it has asked for."""
    answer: Result = 0
    """What has become of that wait since it was queued; 0: nothing."""
    ended: bool = False


class Local(NamedTuple):
    """The whole state of one kernel."""

    pages: Any
    futex: Any
    memory: tuple[Frame, ...]
    threads: tuple[ThreadState, ...]


class ProgramParcel(NamedTuple):
    """A message with the page that it carries."""

    message: Message
    words: Words | None = None


class ProgramOutcome(NamedTuple):
    """What a step leads to."""

    local: int
    sends: tuple[tuple[int, int], ...]
    """(receiver, number of the parcel)."""


class Kernel:
    """One kernel, its threads and their programs."""

    def __init__(
        self, kernel: int, pages: Engine, futex: FutexEngine, programs: Sequence[Program], parcels: Numbering
    ) -> None:
        self.kernel = kernel
        self.pages = pages
        self.futex = futex
        self.programs = programs
        self.parcels = parcels
        self.locals = Numbering()
        self._unused = pages.freeze(), futex.freeze()
        self._places: dict[tuple[int, tuple[Result, ...]], Next] = {}
        self._outcomes: dict[tuple[int, int, int], ProgramOutcome] = {}
        self._moves: dict[int, tuple[tuple[str, ProgramOutcome], ...]] = {}
        self._inside: dict[int, int] = {}

    def begin(self, pages: int) -> int:
        """The number of the first state."""
        threads = tuple(ThreadState(number) for number in range(len(self.programs)))
        return self.locals.number(Local(*self._unused, (Frame(),) * pages, threads))

    def place(self, thread: ThreadState) -> Next:
        """Where the thread is in its program."""
        key = thread.program, thread.history
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = follow(self.programs[thread.program], thread.history)
        return found

    def inside(self, local: int) -> int:
        """How many threads are where only so many may be."""
        found = self._inside.get(local)
        if found is None:
            threads = self.locals.values[local].threads
            found = sum(self.place(thread).inside for thread in threads if not thread.ended)
            self._inside[local] = found
        return found

    def deliver(self, local: int, sender: int, parcel: int) -> ProgramOutcome:
        """A message arrives."""
        return self._once((local, sender, parcel), lambda: self._deliver(local, sender, parcel))

    def bury(self, local: int, dead: int) -> ProgramOutcome:
        """The news of a death arrives."""
        return self._once((local, dead, -1), lambda: self._bury(local, dead))

    def moves(self, local: int) -> tuple[tuple[str, ProgramOutcome], ...]:
        """What its threads may do now."""
        found = self._moves.get(local)
        if found is None:
            threads = self.locals.values[local].threads
            steps = []
            for index, thread in enumerate(threads):
                operation = self.place(thread).operation
                if operation is None or not _can_move(thread, operation):
                    continue
                step = _Step(self, local)
                step.operate(index, operation)
                steps.append((f"thread {index} {operation}", self._outcome(step)))
            found = self._moves[local] = tuple(steps)
        return found

    def _once(self, key: tuple[int, int, int], compute: Callable[[], ProgramOutcome]) -> ProgramOutcome:
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = compute()
        return outcome

    def _deliver(self, local: int, sender: int, number: int) -> ProgramOutcome:
        parcel: ProgramParcel = self.parcels.values[number]
        step = _Step(self, local, parcel)
        if parcel.message.name in _FUTEX:
            step.futex_event(lambda engine: engine.receive(sender, parcel.message))
        else:
            step.page_event(lambda engine: engine.receive(sender, parcel.message))
        return self._outcome(step)

    def _bury(self, local: int, dead: int) -> ProgramOutcome:
        step = _Step(self, local)
        step.page_event(lambda engine: engine.peer_down(dead))
        step.futex_event(lambda engine: engine.peer_down(dead))
        return self._outcome(step)

    def _outcome(self, step: "_Step") -> ProgramOutcome:
        sends = tuple((to, self.parcels.number(parcel)) for to, parcel in step.sends)
        return ProgramOutcome(self.locals.number(step.state()), sends)


def _can_move(thread: ThreadState, operation: Operation) -> bool:
    if thread.ended or thread.faulting or (operation.kind == QUEUE and thread.request):
        return False
    return operation.kind != SLEEP or thread.answer != 0


def _calculate(operation: Operation, found: int) -> tuple[Result, int]:
    """What the access returns, and what the word is afterwards."""
    match operation.kind:
        case "load":
            return found, found
        case "store":
            return None, operation.value
        case "add":
            return found, found + operation.value
        case _:
            wanted = found == operation.value
            return int(wanted), operation.new if wanted else found


class _Step:
    """One step: an event, its effects in order, and what the threads do meanwhile."""

    def __init__(self, kernel: Kernel, local: int, parcel: ProgramParcel | None = None) -> None:
        state: Local = kernel.locals.values[local]
        self._kernel = kernel
        self._pages, self._futex = state.pages, state.futex
        self._parcel = parcel
        self.memory = list(state.memory)
        self.threads = list(state.threads)
        self.sends: list[tuple[int, ProgramParcel]] = []

    def state(self) -> Local:
        """The state it led to."""
        return Local(self._pages, self._futex, tuple(self.memory), tuple(self.threads))

    def operate(self, index: int, operation: Operation) -> None:
        """The thread does what it is about to do, or begins to."""
        thread = self.threads[index]
        if operation.kind in ACCESSES:
            if not self._access(index, operation):
                self.threads[index] = thread._replace(faulting=True)
                page = operation.address // PAGE_BYTES
                self.page_event(lambda engine: engine.fault(page, operation.kind != LOAD))
        elif operation.kind == QUEUE:
            self.threads[index] = thread._replace(request=self._kernel.futex.thaw(self._futex).requests + 1)
            self.futex_event(lambda engine: engine.wait(operation.address, operation.value))
        elif operation.kind == SLEEP:
            self._go_on(index, BROKEN if thread.answer == BROKEN else None)
            self.threads[index] = self.threads[index]._replace(request=0, answer=0)
        elif operation.kind == CANCEL:
            self._go_on(index, None)
            self.threads[index] = self.threads[index]._replace(request=0, answer=0)
            self.futex_event(lambda engine: engine.cancel(thread.request))
        else:
            assert operation.kind == WAKE
            self._go_on(index, None)
            self.futex_event(lambda engine: engine.wake(operation.address, operation.value))

    def page_event(self, call: Callable[[Engine], list[fx.Effect]]) -> None:
        """Let the engine of pages have an event, and carry out what it wants."""
        engine = self._kernel.pages.thaw(self._pages)
        effects = self._ask(lambda: call(engine))
        self._pages = engine.freeze()
        for effect in effects:
            if isinstance(effect, fx.Send):
                self._send(effect)
            else:
                assert not isinstance(effect, fx.SpaceEffect)
                self._carry_out(effect)

    def futex_event(self, call: Callable[[FutexEngine], list[fx.FutexEffect]]) -> None:
        """Let the engine of waits have an event, and carry out what it wants."""
        engine = self._kernel.futex.thaw(self._futex)
        effects = self._ask(lambda: call(engine))
        self._futex = engine.freeze()
        for effect in effects:
            if isinstance(effect, fx.Send):
                self.sends.append((effect.to, ProgramParcel(effect.message)))
            else:
                self._tell(effect)

    def _ask(self, call: Callable[[], list[_Effect]]) -> list[_Effect]:
        try:
            return call()
        except ProtocolError as error:
            raise Violation(error.message) from error
        except Exception as error:
            raise Violation(f"kernel {self._kernel.kernel}: {type(error).__name__}: {error}") from error

    def _tell(self, effect: fx.Queued | fx.Woken | fx.WaitLost) -> None:
        for index, thread in enumerate(self.threads):
            if thread.request != effect.request or thread.ended:
                continue
            operation = self._kernel.place(thread).operation
            asking = operation is not None and operation.kind == QUEUE
            if isinstance(effect, fx.Queued):
                self._expect(asking, f"wait {effect.request} is queued twice")
                self._go_on(index, None)
            elif asking:  # a wake-up has overtaken the word that it is queued, and says as much
                lost = isinstance(effect, fx.WaitLost)
                self._go_on(index, BROKEN if lost else None)
                self.threads[index] = self.threads[index]._replace(answer=BROKEN if lost else 1)
            else:
                self.threads[index] = thread._replace(answer=BROKEN if isinstance(effect, fx.WaitLost) else 1)
            return
        self._expect(False, f"wait {effect.request} goes on, which nobody waits for")

    def _go_on(self, index: int, result: Result) -> None:
        thread = self.threads[index]
        thread = thread._replace(history=(*thread.history, result), faulting=False)
        self.threads[index] = thread._replace(ended=self._kernel.place(thread).operation is None)

    def _access(self, index: int, operation: Operation) -> bool:
        """Whether the memory lets the thread do it; if so, it is done."""
        page, offset = divmod(operation.address, PAGE_BYTES)
        frame, number = self.memory[page], offset // WORD_BYTES
        if frame.access == POISONED:
            self._kill(index)
            return True
        if frame.access == NONE or (operation.kind != LOAD and frame.access != WRITABLE):
            return False
        result, new = _calculate(operation, frame.words[number])
        self.memory[page] = frame._replace(words=(*frame.words[:number], new, *frame.words[number + 1 :]))
        self._go_on(index, result)
        return True

    def _kill(self, index: int) -> None:
        """A signal ends the thread, and its daemon lets go of what it waited for."""
        thread = self.threads[index]
        self.threads[index] = thread._replace(faulting=False, request=0, ended=True)
        if thread.request:
            self.futex_event(lambda engine: engine.cancel(thread.request))

    def _wake(self, page: int) -> None:
        for index, thread in enumerate(self.threads):
            operation = self._kernel.place(thread).operation if thread.faulting else None
            if operation is None or operation.address // PAGE_BYTES != page:
                continue
            if not self._access(index, operation):
                self.threads[index] = thread._replace(faulting=False)

    def _send(self, effect: fx.Send) -> None:
        page = effect.message.page
        words = self.memory[page].words if effect.message.name == MessageName.PAGE_DATA else None
        if effect.discard:
            self.memory[page] = self.memory[page]._replace(access=NONE, words=ZEROS)
        self.sends.append((effect.to, ProgramParcel(effect.message, words)))

    def _carry_out(self, effect: fx.PageEffect) -> None:
        assert not isinstance(effect, fx.Send)
        page = effect.page
        frame = self.memory[page]
        wakes = isinstance(effect, fx.Grant | fx.Zero | fx.Wake | fx.Poison)
        match effect:
            case fx.Install(_, writable, wake, kept):
                words = frame.kept if kept else self._payload()
                assert words is not None
                frame = Frame(WRITABLE if writable else READABLE, words, None if kept else frame.kept)
                wakes = wake
            case fx.Keep():
                frame = frame._replace(kept=self._payload())
            case fx.Forget():
                frame = frame._replace(kept=None)
            case fx.Zero(_, writable):
                frame = Frame(WRITABLE if writable else READABLE)
            case fx.Grant():
                frame = frame._replace(access=WRITABLE)
            case fx.Protect():
                frame = frame._replace(access=READABLE)
            case fx.Discard():
                frame = frame._replace(access=NONE, words=ZEROS)
            case fx.Poison():
                frame = frame._replace(access=POISONED)
        self.memory[page] = frame
        if wakes:
            self._wake(page)

    def _payload(self) -> Words:
        assert self._parcel is not None
        assert self._parcel.words is not None
        return self._parcel.words

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(f"kernel {self._kernel.kernel}: {otherwise}")
