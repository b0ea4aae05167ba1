"""The protocol of the address space: one kernel's side of mapping, unmapping, protecting and moving ranges of pages.

Operations are ordered by the *home kernel*, one at a time, in two rounds:

    SPACE_LOCK     somebody → home     asks for an operation; home puts it in its queue
    SPACE_LOCK     home → all          threads that fault on these pages wait from now on
    SPACE_LOCKED   each → home         no fault of ours is in flight for them any more
    SPACE_OP       home → all          carry it out: this is epoch E
    SPACE_DONE     each → home         done; when all are, home tells the one who asked

The *kernel set* grows in the same order: a kernel that is outside asks to be let in, and its threads begin when it is.

    JOIN           outsider → home     lets it wait its turn in the same queue
    JOIN           home → members      this kernel is in the set from now on
    JOINED         each → home         we know it
    JOINED         home → newcomer     who is in the set, the epoch, and what is mapped, a message for each run of pages

Each kernel counts the operations it has carried out, its *epoch*, and puts it into every page message. A request of a
later epoch than one's own waits until that is reached. Messages of an earlier epoch need no care: when an operation is
carried out, nothing that still expects an answer is in flight for its pages, and a writer that gives up is known by its
timestamp, which no other write has.

A *copy* of a range is what its pages held at one moment: from LOCKED on, no thread stores to them on that kernel, and
all have said LOCKED before the first copy is made. Each kernel copies what it has, and what it knows of the pages holds
for the copies too, so no page travels.

What threads may do is enforced beside the states of pages, as memory protection is in hardware: a page that may
only be read is in whatever state the page protocol has it, and stores to it never get that far.

Pure, like the page engine that it has inside and whose events and effects pass through it.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Protocol, Self

from guest.protocol.address_space import Access, AddressSpace, Kind, Operation, Refusal
from guest.protocol.effects import Allow, Duplicate, Effect, Freeze, Joined, Relocate, Send, SpaceDone, Wake
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.table import State

_LOCK, _LOCKED = int(MessageName.SPACE_LOCK), int(MessageName.SPACE_LOCKED)
_OP, _DONE = int(MessageName.SPACE_OP), int(MessageName.SPACE_DONE)
_JOIN, _JOINED = int(MessageName.JOIN), int(MessageName.JOINED)
_ACCESS_SHIFT, _REFUSAL_SHIFT = 4, 8
"""Where `Message.flags` of these messages has the access and the refusal; the kind is below them."""


_OF_THE_SPACE = frozenset([_JOIN, _JOINED, _LOCK, _LOCKED, _OP, _DONE])
"""Messages that the page engine does not know."""


def message_of(name: int, operation: Operation, request: int, epoch: int, refusal: Refusal = Refusal.NONE) -> Message:
    """The operation on the wire: first page in `page`, count in `version`, new number of the first page in `stamp`, who
    has asked for a copy in `copyset`."""
    flags = operation.kind | operation.access << _ACCESS_SHIFT | refusal << _REFUSAL_SHIFT
    return Message(name, operation.first, request, flags, operation.length, operation.asker, operation.to, epoch)


def operation_of(message: Message) -> Operation:
    """The operation that a message is about."""
    access = message.flags >> _ACCESS_SHIFT & 3
    kind = message.flags & (1 << _ACCESS_SHIFT) - 1
    return Operation.of(kind, message.page, message.version, access, message.stamp, message.copyset)


class SpaceOperations(Protocol):
    """What the surroundings of an engine with an address space see of it, beside `Engine`."""

    @property
    def requests(self) -> int:
        """How many operations were asked for here."""
        ...

    @property
    def orphaned(self) -> bool:
        """Whether this kernel's part of the process has to end."""
        ...

    def operate(self, operation: Operation) -> list[Effect]:
        """See `SpaceEngine.operate`."""
        ...

    def join(self) -> list[Effect]:
        """See `SpaceEngine.join`."""
        ...


class SpaceEngine:
    """A page engine and the address space around it, behind the page engine's own interface.

    `kernels` is the kernel set at the start; a kernel that is not in it is outside, without threads and with nothing
    mapped, until it is let in (`join`). The home kernel is the lowest of the set if not said otherwise. When it dies,
    nothing can be mapped any more, and operations that were asked for are refused; all else goes on, but for kernels
    that it had locked: they wait for a decision that nobody can make, so their `orphaned` tells them to end.
    """

    def __init__(
        self, pages: Engine, kernel: int, kernels: Iterable[int], space: AddressSpace, home: int | None = None
    ) -> None:
        members = {*kernels}
        self.kernel = kernel
        self.joined = kernel in members
        """Whether this kernel is in the kernel set."""
        self.space = space if self.joined else AddressSpace.empty(len(space.pages))
        self._pages = pages
        self._others = tuple(sorted(members - {kernel})) if self.joined else ()
        self.home = min(members) if home is None else home
        self._dead: tuple[int, ...] = ()
        # As an outsider
        self._joining = False
        self._runs: tuple[Message, ...] = ()
        """What home has told so far of what is mapped."""
        self._early: tuple[tuple[int, Message], ...] = ()
        """What members have sent, who know before us that we are in."""
        self.orphaned = False
        self._home_alive = True
        # As a member
        self._locked: Operation | None = None
        self._owing = False
        """Whether the home kernel waits for our word that nothing is in flight."""
        self._held: tuple[int, ...] = ()
        """Pages that threads wait for until the operation is carried out."""
        # As the one who asks
        self.requests = 0
        """How many operations were asked for here."""
        self._asked: tuple[int, ...] = ()
        self._copied: tuple[int, int] | None = None
        """(Request, new number of the first page) of a copy that was asked for here and has been made here: home has
        still to say that it has everywhere."""
        # As the home kernel
        self._queue: tuple[tuple[int, int, Operation | None], ...] = ()
        """(who asks, request, operation, or None to be let in); the first one is being carried out if `_awaiting` or
        `_owing`."""
        self._awaiting: tuple[int, ...] = ()
        self._carried_out = False
        """Whether the first of the queue is in its second round."""

    # Operations -------------------------------------------------------------------------------------------------------

    def operate(self, operation: Operation) -> list[Effect]:
        """A local thread asks for an operation; a `SpaceDone` with the number it is given here (from 1, in the order
        asked) says what came of it."""
        effects: list[Effect] = []
        self.requests += 1
        if not self._home_alive:
            effects.append(SpaceDone(self.requests, Refusal.HOME_DIED))
        elif self.kernel == self.home:
            self._enqueue(self.kernel, self.requests, operation, effects)
        else:
            self._asked = (*self._asked, self.requests)
            effects.append(Send(self.home, message_of(_LOCK, operation, self.requests, self.epoch)))
        return effects

    def _enqueue(self, asker: int, request: int, operation: Operation | None, effects: list[Effect]) -> None:
        self._queue = (*self._queue, (asker, request, operation))
        if len(self._queue) == 1:
            self._begin(effects)

    def _begin(self, effects: list[Effect]) -> None:
        """Home: the first round of the first operation that is not refused."""
        while self._queue:
            asker, request, operation = self._queue[0]
            if operation is None:
                if self._let_in(asker, effects):
                    return
                continue
            if operation.kind is Kind.COPY:
                operation = self.space.placed(operation)._replace(asker=asker)
                self._queue = ((asker, request, operation), *self._queue[1:])
            refusal = self.space.refusal(operation)
            if refusal is Refusal.NONE:
                self._carried_out = False
                self._awaiting = self._others
                message = message_of(_LOCK, operation, request, self.epoch)
                effects += [Send(other, message) for other in self._others]
                self._lock(operation, effects)
                return
            self._queue = self._queue[1:]
            self._tell(asker, request, operation, refusal, effects)

    def _tell(self, asker: int, request: int, operation: Operation, refusal: Refusal, effects: list[Effect]) -> None:
        if asker == self.kernel:
            effects.append(SpaceDone(request, refusal, self.epoch, operation.to))
        elif asker in self._others:
            effects.append(Send(asker, message_of(_DONE, operation, request, self.epoch, refusal)))

    def _lock(self, operation: Operation, effects: list[Effect]) -> None:
        self._locked = operation
        self._owing = True
        self._settle(effects)

    def _settle(self, effects: list[Effect]) -> None:
        """Once nothing is in flight for the locked pages, say so; home goes on when all have."""
        operation = self._locked
        if not self._owing or operation is None:
            return
        if any(self._pages.pending(page) for pages in operation.pages() for page in pages):
            return
        self._owing = False
        if operation.kind is Kind.COPY:
            effects.append(Freeze(operation.first, operation.length))
        if self.kernel == self.home:
            self._go_on(effects)
        else:
            effects.append(Send(self.home, Message(_LOCKED, operation.first, epoch=self.epoch)))

    def _go_on(self, effects: list[Effect]) -> None:
        """Home: the next round, or the next operation, if this round is over."""
        if not self._queue or self._awaiting or self._owing:
            return
        asker, request, operation = self._queue[0]
        if operation is None:
            self._queue = self._queue[1:]
            self._welcome(asker, effects)
            self._begin(effects)
            return
        if not self._carried_out:
            self._carried_out = True
            self._awaiting = self._others
            message = message_of(_OP, operation, request, self.epoch + 1)
            effects += [Send(other, message) for other in self._others]
            self._carry_out(operation, effects)
            if self._awaiting:
                return
        self._queue = self._queue[1:]
        self._tell(asker, request, operation, Refusal.NONE, effects)
        self._begin(effects)

    def _carry_out(self, operation: Operation, effects: list[Effect]) -> None:
        self.space = self.space.after(operation)
        epoch = self.epoch + 1
        first, count = operation.first, operation.length
        if operation.kind is Kind.MOVE:
            self._pages.move(range(first, first + count), operation.to)
            effects.append(Relocate(first, count, operation.to))
        elif operation.kind is Kind.COPY:
            self._pages.copy(range(first, first + count), operation.to)
            effects.append(Duplicate(first, count, operation.to, operation.asker, epoch))
        elif operation.kind is Kind.UNMAP:
            self._pages.forget(range(first, first + count))
            effects.append(Allow(first, count, Access.NONE))
        else:
            effects.append(Allow(first, count, operation.access))
        self._locked = None
        held, self._held = self._held, ()
        effects += self._pages.enter_epoch(epoch)
        effects += [Wake(page) for page in held]

    # The kernel set ---------------------------------------------------------------------------------------------------

    @property
    def may_join(self) -> bool:
        """Whether `join` makes sense: this kernel is outside, has not asked yet, and there is a home to ask."""
        return not self.joined and not self._joining and self._home_alive

    def join(self) -> list[Effect]:
        """This kernel is to be in the set: a `Joined` says what came of it. Asked for once by who is outside."""
        if self.joined:
            return [Joined(Refusal.NONE)]
        if not self._home_alive:
            return [Joined(Refusal.HOME_DIED)]
        self._joining = True
        return [Send(self.home, Message(_JOIN, self.kernel, epoch=self.epoch))]

    def _let_in(self, newcomer: int, effects: list[Effect]) -> bool:
        """Home: tell the members; false if there is nobody to wait for."""
        self._meet(newcomer)
        self._awaiting = tuple(other for other in self._others if other != newcomer)
        effects += [Send(other, Message(_JOIN, newcomer, epoch=self.epoch)) for other in self._awaiting]
        if not self._awaiting:
            self._queue = self._queue[1:]
            self._welcome(newcomer, effects)
        return bool(self._awaiting)

    def _meet(self, newcomer: int) -> None:
        if newcomer not in self._dead:
            self._others = tuple(sorted({*self._others, newcomer}))
            self._pages.peer_joined(newcomer)

    def _welcome(self, newcomer: int, effects: list[Effect]) -> None:
        """Home: all members know it."""
        if newcomer in self._dead:
            return
        members = sum(1 << member for member in (self.kernel, *self._others))
        runs = self.space.runs() or [(0, 0, Access.NONE)]
        for first, length, access in runs:
            flags = access << _ACCESS_SHIFT
            message = Message(_JOINED, first, len(runs), flags, length, members, epoch=self.epoch)
            effects.append(Send(newcomer, message))

    def _outside(self, sender: int, message: Message) -> list[Effect]:
        """A message to a kernel that is not in the set yet, as far as it knows."""
        if sender in self._dead:
            return []
        if not self._home_alive:
            return self._stand_by(sender, message)
        if message.name != _JOINED:
            self._early = (*self._early, (sender, message))
            return []
        self._runs = (*self._runs, message)
        return self._enter() if len(self._runs) == message.request else []

    def _enter(self) -> list[Effect]:
        """Home has told everything: this kernel is in the set."""
        runs, self._runs = self._runs, ()
        early, self._early = self._early, ()
        self.joined, self._joining = True, False
        for member in range(runs[0].copyset.bit_length()):
            if runs[0].copyset >> member & 1 and member != self.kernel:
                self._meet(member)
        effects: list[Effect] = []
        for run in sorted(runs):
            if run.version:
                access = Access(run.flags >> _ACCESS_SHIFT & 3)
                self.space = self.space.after(Operation(Kind.MAP, run.page, run.version, access))
                effects.append(Allow(run.page, run.version, access))
        effects += self._pages.enter_epoch(runs[0].epoch)
        for sender, message in early:
            effects += self.receive(sender, message)
        effects.append(Joined(Refusal.NONE))  # last, as threads begin with it, which is an event of its own
        return effects

    def _stand_by(self, sender: int, message: Message) -> list[Effect]:
        """Home died, and took along whether we are in: those who think so get the answers of a kernel without pages."""
        if message.name in _OF_THE_SPACE:
            return []
        self._pages.peer_joined(sender)
        effects = self._pages.enter_epoch(max(self.epoch, message.epoch))
        return effects + self._pages.receive(sender, message)

    # Messages ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """One message of another kernel. See `Engine.receive`."""
        if not self.joined:
            return self._outside(sender, message)
        if message.name not in _OF_THE_SPACE:
            return self._page_message(sender, message)
        effects: list[Effect] = []
        if sender in self._dead:
            return effects
        if message.name == _LOCK and self.kernel == self.home:
            self._enqueue(sender, message.request, operation_of(message), effects)
        elif message.name == _JOIN and self.kernel == self.home:
            self._enqueue(sender, 0, None, effects)
        elif message.name in (_LOCKED, _DONE, _JOINED) and self.kernel == self.home:
            self._awaiting = tuple(other for other in self._awaiting if other != sender)
            self._go_on(effects)
        elif sender != self.home:
            raise ProtocolError(f"kernel {sender} sends {MessageName(message.name).name}, which only home may send")
        elif message.name == _JOIN:
            self._meet(message.page)
            effects.append(Send(self.home, Message(_JOINED, message.page, epoch=self.epoch)))
        elif message.name == _LOCK:
            self._lock(operation_of(message), effects)
        elif message.name == _OP:
            operation = operation_of(message)
            self._carry_out(operation, effects)
            if operation.kind is Kind.COPY and operation.asker == self.kernel:
                self._copied = message.request, operation.to
            effects.append(Send(self.home, Message(_DONE, message.page, epoch=self.epoch)))
        else:
            self._asked = tuple(request for request in self._asked if request != message.request)
            self._copied = None
            refusal = Refusal(message.flags >> _REFUSAL_SHIFT)
            effects.append(SpaceDone(message.request, refusal, message.epoch, message.stamp))
        return effects

    def _page_message(self, sender: int, message: Message) -> list[Effect]:
        effects = self._pages.receive(sender, message)
        self._settle(effects)
        return effects

    # What the page engine's surroundings tell -------------------------------------------------------------------------

    def fault(self, page: int, write: bool) -> list[Effect]:
        """A local thread cannot access the page. See `Engine.fault`."""
        if self._locked is not None and self._locked.touches(page):
            self._held = (*self._held, page)
            return []
        if self.space.pages[page] < (Access.WRITE if write else Access.READ):
            return [Wake(page)]  # it tries again, and finds what has been taken from it meanwhile
        return self._pages.fault(page, write)

    def abandon(self, page: int) -> list[Effect]:
        """No local thread waits for the page any more. See `Engine.abandon`."""
        self._held = tuple(held for held in self._held if held != page)
        effects = self._pages.abandon(page)
        self._settle(effects)
        return effects

    def peer_down(self, kernel: int) -> list[Effect]:
        """Another kernel died. See `Engine.peer_down`."""
        effects = self._pages.peer_down(kernel)
        self._dead = (*self._dead, kernel)
        if not self.joined:
            return effects + self._lose_outside(kernel)
        if kernel not in self._others and kernel != self.home:
            return effects
        self._others = tuple(other for other in self._others if other != kernel)
        if kernel == self.home:
            self._home_alive = False
            self.orphaned = self._locked is not None
            effects += [self._unanswered(request) for request in self._asked]
            self._asked, self._copied = (), None
        elif self.kernel == self.home:
            self._awaiting = tuple(other for other in self._awaiting if other != kernel)
            begun, waiting = self._queue[:1], self._queue[1:]
            self._queue = begun + tuple(entry for entry in waiting if entry[0] != kernel)
            self._go_on(effects)
        self._settle(effects)
        return effects

    def _unanswered(self, request: int) -> SpaceDone:
        """Of an operation that home was asked for. A copy that was made here was made by all that go on: others were
        locked, and so are orphaned."""
        if self._copied is not None and self._copied[0] == request:
            return SpaceDone(request, Refusal.NONE, self.epoch, self._copied[1])
        return SpaceDone(request, Refusal.HOME_DIED)

    def _lose_outside(self, kernel: int) -> list[Effect]:
        early, self._early = self._early, ()
        self._early = tuple(entry for entry in early if entry[0] != kernel)
        if kernel != self.home:
            return []
        early, self._early = self._early, ()
        self._home_alive = False
        effects: list[Effect] = [Joined(Refusal.HOME_DIED)] if self._joining else []
        for sender, message in early:
            effects += self._stand_by(sender, message)
        return effects

    def peer_up(self, kernel: int) -> list[Effect]:
        """The kernel is there, with nothing mapped. See `Engine.peer_up`."""
        return self._pages.peer_up(kernel)

    def peer_joined(self, kernel: int) -> None:
        """Kernels are let in by the home kernel. See `Engine.peer_joined`."""
        raise ProtocolError(f"kernel {self.kernel} is told that kernel {kernel} is in the set, but not by home")

    def enter_epoch(self, epoch: int) -> list[Effect]:
        """Operations are the only way from one epoch to the next. See `Engine.enter_epoch`."""
        raise ProtocolError(f"kernel {self.kernel} is told to enter epoch {epoch} without an operation")

    def forget(self, pages: range) -> None:
        """Pages are unmapped by operations. See `Engine.forget`."""
        raise ProtocolError(f"kernel {self.kernel} is told to forget {pages} without an operation")

    def move(self, pages: range, to: int) -> None:
        """Pages are moved by operations. See `Engine.move`."""
        raise ProtocolError(f"kernel {self.kernel} is told to move {pages} to {to} without an operation")

    def copy(self, pages: range, to: int) -> None:
        """Pages are copied by operations. See `Engine.copy`."""
        raise ProtocolError(f"kernel {self.kernel} is told to copy {pages} to {to} without an operation")

    @property
    def epoch(self) -> int:
        """See `Engine.epoch`."""
        return self._pages.epoch

    @property
    def origin(self) -> int | None:
        """See `Engine.origin`."""
        return self._pages.origin

    def state(self, page: int) -> State:
        """See `Engine.state`."""
        return self._pages.state(page)

    def pending(self, page: int) -> bool:
        """See `Engine.pending`."""
        return page in self._held or self._pages.pending(page)

    def freeze(self) -> Hashable:
        """See `Engine.freeze`."""
        own = self.space, self._others, self.orphaned, self._home_alive, self._locked, self._owing, self._held
        outside = self.joined, self._dead, self._joining, self._runs, self._early
        asked = (
            self.requests,
            self._asked,
            self._copied,
            self._queue,
            self._awaiting,
            self._carried_out,
        )
        return self._pages.freeze(), own, asked, outside

    def thaw(self, frozen: Any) -> Self:
        """See `Engine.thaw`."""
        pages, own, asked, outside = frozen
        self._pages.thaw(pages)
        self.space, self._others, self.orphaned, self._home_alive, self._locked, self._owing, self._held = own
        self.requests, self._asked, self._copied, self._queue, self._awaiting, self._carried_out = asked
        self.joined, self._dead, self._joining, self._runs, self._early = outside
        return self
