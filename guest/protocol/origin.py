"""The origin protocol: one kernel's engine.

`guest.protocol.origin_table` says what happens when, and why; `origin_home` and `origin_away` say how; here an event
finds its rule.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Self

from guest.protocol.effects import Effect, Wake
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.origin_away import Away
from guest.protocol.origin_home import Home
from guest.protocol.origin_page import AwayPage, HomePage
from guest.protocol.origin_table import AWAY, HOME, Event, Table
from guest.protocol.page_table import PageTable
from guest.protocol.table import State, U

_MAY_WAIT = (int(MessageName.PAGE_REQUEST), int(MessageName.INVALIDATE))
"""Messages that wait until we know what their sender knew. Answers do not: their question was ours."""

_READ_FAULT, _WRITE_FAULT = Message(Event.READ_FAULT), Message(Event.WRITE_FAULT)
_GIVE_UP, _PEER_DOWN = Message(Event.GIVE_UP), Message(Event.PEER_DOWN)
"""Stand for the message where an event has none: a rule always knows by which event it was called."""


class OriginEngine(Home, Away, PageTable):
    """The directory protocol behind the interface of `guest.protocol.engine.Engine`.

    The origin is `home`, the lowest of `kernels` if not said otherwise; it must be the same on every kernel, and stays
    it for good.
    """

    def __init__(self, kernel: int, kernels: Iterable[int], pages: int, home: int | None = None) -> None:
        members = {kernel, *kernels}
        self.kernel = kernel
        self.epoch = 0
        self.origin = min(members) if home is None else home
        self._bit = 1 << kernel
        self._alive = sum(1 << member for member in members)
        self._orphaned = False
        self._pages: list[Any] = [None] * pages
        self._later: tuple[tuple[int, Message], ...] = ()
        at_home = kernel == self.origin
        self._record: type[HomePage | AwayPage] = HomePage if at_home else AwayPage
        self._rules = self._dispatch(HOME if at_home else AWAY)

    def _dispatch(self, table: Table) -> list[list[Callable[..., None] | None]]:
        """The rules by the numbers of event and state; None where the table has nothing."""
        rules: list[list[Callable[..., None] | None]] = [[None] * len(State) for _ in range(max(Event) + 1)]
        for (state, event), rule in table.items():
            rules[event][state] = getattr(self, rule.name)
        return rules

    def _apply(self, page: int, sender: int, message: Message) -> list[Effect]:
        record = self._pages[page]
        if record is None:
            record = self._pages[page] = self._record(page)
        rule = self._rules[message.name][record.state]
        if rule is None:
            raise ProtocolError(
                f"kernel {sender} sends {MessageName(message.name).name} about page {page}, "
                f"which kernel {self.kernel} has in state {record.state.name}"
            )
        effects: list[Effect] = []
        rule(record, sender, message, effects)
        return effects

    def fault(self, page: int, write: bool) -> list[Effect]:
        """A local thread cannot access the page. See `Engine.fault`."""
        return self._apply(page, self.kernel, _WRITE_FAULT if write else _READ_FAULT)

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """One message of another kernel. See `Engine.receive`."""
        if not self._alive >> sender & 1:
            return []
        name = message.name
        if name in _MAY_WAIT and message.epoch > self.epoch:
            self._later += ((sender, message),)
            return []
        strange = not 0 <= name < Event.READ_FAULT or not any(self._rules[name])
        if strange or not 0 <= message.page < len(self._pages):
            raise ProtocolError(
                f"kernel {self.kernel} cannot handle message {name} for page {message.page} from kernel {sender}; "
                f"the region has {len(self._pages)} pages"
            )
        return self._apply(message.page, sender, message)

    def abandon(self, page: int) -> list[Effect]:
        """No local thread waits for the page any more. See `Engine.abandon`."""
        return self._apply(page, self.kernel, _GIVE_UP)

    def peer_down(self, kernel: int) -> list[Effect]:
        """Another kernel died: a matter for the origin, unless it was the origin. See `Engine.peer_down`."""
        if kernel == self.kernel or not self._alive >> kernel & 1:
            return []
        self._alive &= ~(1 << kernel)
        self._later = tuple(entry for entry in self._later if entry[0] != kernel)
        self._orphaned |= kernel == self.origin
        if not self._orphaned and self.kernel != self.origin:
            return []
        known = [record.number for record in self._pages if record is not None]
        return [effect for page in known for effect in self._apply(page, kernel, _PEER_DOWN)]

    def peer_up(self, kernel: int) -> list[Effect]:
        """A kernel is there, with nothing mapped. An origin that comes back has lost its directory: it does not know
        what others hold, so it has every page for lost, and those who knew it before ask it nothing.
        See `Engine.peer_up`."""
        if kernel != self.origin:
            self._alive |= 1 << kernel
        elif kernel == self.kernel:
            self._orphaned = True
        return []

    def peer_joined(self, kernel: int) -> None:
        """A kernel is in the set that never was before. See `Engine.peer_joined`."""
        self._alive |= 1 << kernel

    def enter_epoch(self, epoch: int) -> list[Effect]:
        """Requests that were ahead of us are answered now. See `Engine.enter_epoch`."""
        self.epoch = epoch
        later, self._later = self._later, ()
        return [effect for sender, message in later for effect in self.receive(sender, message)]

    def state(self, page: int) -> State:
        """State of the page here."""
        record = self._pages[page]
        return U if record is None else record.state

    def pending(self, page: int) -> bool:
        """Whether questions about the page are in flight."""
        record = self._pages[page]
        return record is not None and record.busy

    def freeze(self) -> Hashable:
        """The whole state as a value. See `Engine.freeze`."""
        pages = tuple(record and record.freeze() for record in self._pages)
        return self.epoch, self._alive, self._orphaned, self._later, pages

    def thaw(self, frozen: Any) -> Self:
        """Take on a frozen state. See `Engine.thaw`."""
        self.epoch, self._alive, self._orphaned, self._later, pages = frozen
        self._pages = [value and self._record.thaw(number, value) for number, value in enumerate(pages)]
        return self

    def allowed(self, page: HomePage | AwayPage, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """Another thread's fault brought the page meanwhile."""
        effects.append(Wake(page.number))

    def late(self, _page: HomePage | AwayPage, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        """Nobody asks this any more."""
