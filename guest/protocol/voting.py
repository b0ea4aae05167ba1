"""The voting protocol: one kernel's engine.

`guest.protocol.table` says what happens when, and why; `copies` and `votes` say how; here an event finds its rule.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Self

from guest.protocol.effects import Effect
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.page import READ, WRITE, Page, Phase
from guest.protocol.page_table import PageTable
from guest.protocol.table import TABLE, Event, State, U
from guest.protocol.votes import Votes

_MAY_WAIT = (int(MessageName.PAGE_REQUEST), int(MessageName.INVALIDATE))
"""Messages that wait until we know what their sender knew. Answers do not: their question was ours."""

_IDLE = Phase.IDLE
_REQUEST = int(MessageName.PAGE_REQUEST)

_READ_FAULT, _WRITE_FAULT = Message(Event.READ_FAULT), Message(Event.WRITE_FAULT)
_GIVE_UP, _PEER_DOWN = Message(Event.GIVE_UP), Message(Event.PEER_DOWN)
"""Stand for the message where an event has none: a rule always knows by which event it was called."""


class VotingEngine(Votes, PageTable):
    """The N-kernel voting protocol behind the interface of `guest.protocol.engine.Engine`.

    Kernel ids are below 65,536 (64 on the wire); all arguments must be of the same kernel set on every kernel.
    """

    def __init__(self, kernel: int, kernels: Iterable[int], pages: int, home: int | None = None) -> None:  # noqa: ARG002
        self.kernel = kernel
        self.epoch = 0
        self._bit = 1 << kernel
        self._alive = self._bit
        self._latecomer = True
        for other in kernels:
            self._alive |= 1 << other
            self._latecomer &= other != kernel
        self._died = self._unsure = False
        self._dead = 0
        self._clock = 0
        self._pages: list[Page | None] = [None] * pages
        self._later: tuple[tuple[int, Message], ...] = ()
        rules = {event: tuple(getattr(self, TABLE[state, event].name) for state in State) for event in Event}
        self._on_message = [rules.get(number) for number in range(max(MessageName) + 1)]  # type: ignore[call-overload]
        self._on_read_fault = rules[Event.READ_FAULT]
        self._on_write_fault = rules[Event.WRITE_FAULT]
        self._on_give_up = rules[Event.GIVE_UP]
        self._on_peer_down = rules[Event.PEER_DOWN]

    @property
    def origin(self) -> None:
        """Nobody directs. See `Engine.origin`."""
        return None

    def fault(self, page: int, write: bool) -> list[Effect]:
        """A local thread cannot access the page. See `Engine.fault`."""
        record = self._pages[page] or self._meet(page)
        effects: list[Effect] = []
        if write:
            record.wanted |= WRITE
            self._on_write_fault[record.state](record, self.kernel, _WRITE_FAULT, effects)
        else:
            record.wanted |= READ
            self._on_read_fault[record.state](record, self.kernel, _READ_FAULT, effects)
        return effects

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """One message of another kernel. See `Engine.receive`."""
        if not self._alive >> sender & 1:
            return []
        name = message.name
        if name in _MAY_WAIT and self._is_ahead(message):
            self._later += ((sender, message),)
            return []
        rules = self._on_message[name] if 0 <= name < len(self._on_message) else None
        if rules is None or not 0 <= message.page < len(self._pages):
            raise ProtocolError(
                f"kernel {self.kernel} cannot handle message {name} for page {message.page} from kernel {sender}; "
                f"the region has {len(self._pages)} pages"
            )
        record = self._pages[message.page] or self._meet(message.page)
        effects: list[Effect] = []
        rules[record.state](record, sender, message, effects)
        return effects

    def abandon(self, page: int) -> list[Effect]:
        """No local thread waits for the page any more. See `Engine.abandon`."""
        record = self._pages[page]
        effects: list[Effect] = []
        if record is not None:
            self._on_give_up[record.state](record, self.kernel, _GIVE_UP, effects)
        return effects

    def peer_down(self, kernel: int) -> list[Effect]:
        """Another kernel died. See `Engine.peer_down`."""
        effects: list[Effect] = []
        if kernel == self.kernel or self._dead >> kernel & 1:
            return effects
        self._alive &= ~(1 << kernel)
        self._dead |= 1 << kernel
        self._died = True
        self._unsure |= self._latecomer
        self._later = tuple(entry for entry in self._later if entry[0] != kernel)
        for record in self._pages:
            if record is not None:
                record.bury(kernel)
                self._on_peer_down[record.state](record, kernel, _PEER_DOWN, effects)
        return effects + self._catch_up()

    def peer_up(self, kernel: int) -> list[Effect]:
        """A kernel is there, with nothing mapped; what it had may be lost. See `Engine.peer_up`."""
        self._died = True
        if kernel == self.kernel:  # it had fetched pages in its life before, and others that died since
            self._latecomer = self._unsure = True
        self._alive |= 1 << kernel
        self._dead &= ~(1 << kernel)
        effects: list[Effect] = []
        for record in self._pages:
            if record is not None and record.phase in (Phase.FETCHING, Phase.READING):
                self._on_peer_down[record.state](record, kernel, _PEER_DOWN, effects)
        return effects + self._catch_up()

    def peer_joined(self, kernel: int) -> None:
        """A kernel is in the set that never was before. See `Engine.peer_joined`."""
        self._alive |= 1 << kernel & ~self._dead

    def enter_epoch(self, epoch: int) -> list[Effect]:
        """Requests that were ahead of us are answered now. See `Engine.enter_epoch`."""
        self.epoch = epoch
        return self._catch_up()

    def _is_ahead(self, message: Message) -> bool:
        """Whether its sender knows of an address-space operation, or of a death, that we have not heard of yet."""
        return message.epoch > self.epoch or (message.name == _REQUEST and message.copyset & ~self._dead != 0)

    def _catch_up(self) -> list[Effect]:
        later, self._later = self._later, ()
        return [effect for sender, message in later for effect in self.receive(sender, message)]

    def state(self, page: int) -> State:
        """State of the page here."""
        record = self._pages[page]
        return U if record is None else record.state

    def pending(self, page: int) -> bool:
        """Whether questions about the page are in flight."""
        record = self._pages[page]
        return record is not None and record.phase is not _IDLE

    def freeze(self) -> Hashable:
        """The whole state as a value. See `Engine.freeze`."""
        pages = tuple(record and record.freeze() for record in self._pages)
        kernels = self._alive, self._dead, self._died, self._latecomer, self._unsure
        return self._clock, self.epoch, kernels, self._later, pages

    def thaw(self, frozen: Any) -> Self:
        """Take on a frozen state. See `Engine.thaw`."""
        self._clock, self.epoch, kernels, self._later, pages = frozen
        self._alive, self._dead, self._died, self._latecomer, self._unsure = kernels
        self._pages = [value and Page.thaw(number, value) for number, value in enumerate(pages)]
        return self

    def _meet(self, number: int) -> Page:
        record = self._pages[number] = Page(number)
        return record
