"""One step of one machine: the engine gets an event, a model of memory its effects, and threads wake."""

from collections.abc import Callable
from typing import Any, NamedTuple

from guest.protocol import effects as fx
from guest.protocol.address_space import Access, Refusal
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message, MessageName

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
    frozen: bool = False
    """Whether stores wait for a copy to be made, though the page may be written."""


class Thread(NamedTuple):
    """A thread, and what it still may do."""

    remaining: int
    page: int = -1
    """The page it could not access; -1 when it is not in a fault."""
    write: bool = False
    asleep: bool = False
    """Whether it waits to be woken; awake, it will try again."""
    asking: int = 0
    """Number of the operation on the address space that it waits for."""
    made: bool = False
    """Whether that is a copy, and has been made on its own kernel."""


class Local(NamedTuple):
    """The whole state of one machine."""

    engine: Any
    memory: tuple[Frame, ...]
    threads: tuple[Thread, ...]
    allowed: tuple[Access, ...] = ()
    """By page, what threads may do, whatever the memory has; with address spaces only."""


class Parcel(NamedTuple):
    """A message with what it carries."""

    message: Message
    fresh: bool = False


class Step:
    """One step of one machine: an event, its effects in order, and what the threads do meanwhile."""

    def __init__(self, kernel: int, engine: Engine, state: Local, parcel: Parcel | None = None) -> None:
        self._kernel = kernel
        self._engine = engine
        self._frozen = state.engine
        self.memory = list(state.memory)
        self.allowed = list(state.allowed)
        self.threads = list(state.threads)
        self._parcel = parcel
        self.sends: list[tuple[int, Parcel]] = []
        """(receiver, what is sent)."""
        self._sent_before = 0
        """Of these, what was sent by earlier events."""
        self.stored: list[int] = []
        """Pages that a thread stored to."""
        self.zeroed: list[int] = []
        self.poisoned: list[int] = []
        self.unmapped: list[int] = []
        self.moved: list[tuple[int, int]] = []
        """(old number, new number)."""
        self.copied: list[tuple[int, int]] = []
        """(number, number of the copy)."""
        self.entered = False
        """Whether the kernel has got into the kernel set."""
        self.done = 0
        """The epoch that every kernel has reached, by the word that a thread got of its operation."""

    def event(self, call: Callable[[Engine], list[fx.Effect]]) -> None:
        """Let the engine have an event, and carry out what it wants."""
        engine = self._engine.thaw(self._frozen)
        try:
            effects = call(engine)
        except ProtocolError as error:
            raise Violation(error.message) from error
        except Exception as error:  # a defect like any other, and here with the trace that leads to it
            raise Violation(f"kernel {self._kernel}: the engine raised {type(error).__name__}: {error}") from error
        self._frozen = engine.freeze()
        self._sent_before = len(self.sends)
        for effect in effects:
            self._carry_out(effect)

    def state(self) -> Local:
        """The state it led to."""
        return Local(self._frozen, tuple(self.memory), tuple(self.threads), tuple(self.allowed))

    def try_access(self, index: int, page: int, write: bool) -> bool:
        """Whether the memory lets the thread do it; if so, it is done."""
        access = self.memory[page].access
        forbidden = bool(self.allowed) and self.allowed[page] < (Access.WRITE if write else Access.READ)
        if access == POISONED or forbidden:
            self.threads[index] = Thread(0)  # a signal ends it
            return True
        if access == NONE or (write and (access != WRITABLE or self.memory[page].frozen)):
            return False
        self.threads[index] = Thread(self.threads[index].remaining - 1)
        if write:
            self.memory[page] = self.memory[page]._replace(fresh=True)
            self.stored.append(page)
            self.sends = [
                (to, parcel._replace(fresh=False) if parcel.message.page == page else parcel)
                for to, parcel in self.sends
            ]
        return True

    def _wake(self, page: int) -> None:
        for index, thread in enumerate(self.threads):
            if thread.page == page and not self.try_access(index, page, thread.write):
                self.threads[index] = thread._replace(asleep=False)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                self._send(effect)
            case fx.Allow(first, count, access):
                self._allow(range(first, first + count), access)
            case fx.Relocate(first, count, to):
                self._relocate(range(first, first + count), to)
            case fx.Freeze(first, count):
                for page in range(first, first + count):
                    self.memory[page] = self.memory[page]._replace(frozen=True)
            case fx.Duplicate(first, count, to, asker):
                self._duplicate(range(first, first + count), to)
                if asker == self._kernel:
                    self._note_copy()
            case fx.Joined(refusal):
                self.entered = refusal is Refusal.NONE
            case fx.SpaceDone():
                self._end_operation(effect)
            case _:
                self._carry_out_page(effect)

    def _allow(self, pages: range, access: Access) -> None:
        for page in pages:
            self.allowed[page] = access
            if access == Access.NONE:
                self.memory[page] = Frame()
                self.unmapped.append(page)

    def _relocate(self, pages: range, to: int) -> None:
        for page, number in zip(pages, range(to, to + len(pages)), strict=True):
            self._expect(self.memory[number] == Frame(), f"page {page} moved to {number}, where there is one")
            self.memory[number], self.memory[page] = self.memory[page], Frame()
            self.allowed[number], self.allowed[page] = self.allowed[page], Access.NONE
            self.moved.append((page, number))

    def _duplicate(self, pages: range, to: int) -> None:
        for page, number in zip(pages, range(to, to + len(pages)), strict=True):
            frame = self.memory[page]
            self._expect(frame.frozen and frame.kept is None, f"page {page} copied while it changes")
            self._expect(self.memory[number] == Frame(), f"page {page} copied to {number}, where there is one")
            self.memory[page] = self.memory[number] = frame._replace(frozen=False)
            self.allowed[number] = self.allowed[page]
            self.copied.append((page, number))

    def _note_copy(self) -> None:
        """Operations are carried out in the order in which they were asked for."""
        _, index = min((thread.asking, index) for index, thread in enumerate(self.threads) if thread.asking)
        self.threads[index] = self.threads[index]._replace(made=True)

    def _end_operation(self, done: fx.SpaceDone) -> None:
        for index, thread in enumerate(self.threads):
            if thread.asking == done.request:
                made = thread.made and done.refusal is not Refusal.NONE
                self._expect(not made, f"copy {done.request} is refused, but was made where it was asked for")
                self.threads[index] = Thread(thread.remaining - 1)
                self.done = done.epoch
                return
        self._expect(False, f"operation {done.request} ends, which nobody waits for")

    def _carry_out_page(self, effect: fx.PageEffect) -> None:
        assert not isinstance(effect, fx.Send)
        page = effect.page
        frame = self.memory[page]
        wakes = isinstance(effect, fx.Grant | fx.Zero | fx.Wake | fx.Poison)
        match effect:
            case fx.Install(_, writable, wake, kept):
                self._expect(frame.access == NONE, f"page {page} installed over a present one")
                fresh = frame.kept if kept else self._payload(page)
                self._expect(fresh is not None, f"page {page} installed without a payload")
                access = WRITABLE if writable else READABLE
                frame = frame._replace(access=access, fresh=bool(fresh), kept=None if kept else frame.kept)
                wakes = wake
            case fx.Keep():
                frame = frame._replace(kept=self._payload(page))
            case fx.Forget():
                self._expect(frame.kept is not None, f"no payload of page {page} to forget")
                frame = frame._replace(kept=None)
            case fx.Zero(_, writable):
                self._expect(frame.access == NONE and frame.kept is None, f"page {page} zeroed while there is one")
                frame = frame._replace(access=WRITABLE if writable else READABLE, fresh=True)
                self.zeroed.append(page)
            case fx.Grant():
                self._expect(frame.access == READABLE, f"page {page} granted while not write-protected")
                frame = frame._replace(access=WRITABLE)
            case fx.Protect():
                self._expect(not self._told(page), f"page {page} write-protected behind a message about it")
                self._expect(frame.access == WRITABLE, f"page {page} write-protected while not writable")
                frame = frame._replace(access=READABLE)
            case fx.Discard():
                self._expect(not self._told(page), f"page {page} discarded behind a message about it")
                self._drop(page)
                return
            case fx.Poison():
                self._expect(frame.access in (NONE, POISONED), f"page {page} poisoned while present")
                frame = frame._replace(access=POISONED)
                self.poisoned.append(page)
        self.memory[page] = frame
        if wakes:
            self._wake(page)

    def _drop(self, page: int) -> None:
        frame = self.memory[page]
        self._expect(frame.access != NONE, f"page {page} discarded while not present")
        self.memory[page] = frame._replace(access=NONE, fresh=False)

    def _told(self, page: int) -> bool:
        """Whether this event has told others about the page: they act upon it, whatever else is still to be done."""
        return any(parcel.message.page == page for _, parcel in self.sends[self._sent_before :])

    def _send(self, effect: fx.Send) -> None:
        message = effect.message
        fresh = False
        if message.name == MessageName.PAGE_DATA:
            frame = self.memory[message.page]
            self._expect(frame.access == READABLE, f"page {message.page} sent while not write-protected")
            fresh = frame.fresh
        if effect.discard:
            self._drop(message.page)
        self.sends.append((effect.to, Parcel(message, fresh)))

    def _payload(self, page: int) -> bool:
        parcel = self._parcel
        carries = parcel is not None and parcel.message.name == MessageName.PAGE_DATA and parcel.message.page == page
        self._expect(carries, f"page {page} taken from a message that does not carry it")
        return parcel is not None and parcel.fresh

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Violation(f"kernel {self._kernel}: {otherwise}")
