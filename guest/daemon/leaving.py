"""Leaving in order: whatever a kernel has, another one reads before it goes, so that no page is lost with it.

The one that leaves has no threads any more. It waits until nothing is on its way to it; then it sends LEAVE for every
page that it holds to its *successor*, the living kernel with the lowest id. The successor reads the page like any
other, unless it has it, and answers with a LEAVE of its own. When all are answered, the leaver says so in the node
table, behind all that it sent: the others read their rings to the end, and from then on it is as dead
(`guest.link.membership`).

The engine is told of nothing but faults and deaths, and has no rules for this. If the successor dies meanwhile, all
begins again with the next.
"""

from collections.abc import Callable

from guest.protocol.effects import Effect, Send
from guest.protocol.engine import Engine
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.table import State

_HELD = (State.N, State.M, State.S)


class Handover:
    """Both sides of it on one kernel. `carry_out` is what the daemon does with effects."""

    def __init__(self, engine: Engine, pages: int, carry_out: Callable[[list[Effect]], object]) -> None:
        self.done: Callable[[], object] | None = None
        """Called once when everything has been handed over; set as long as this kernel is leaving."""
        self.busy = False
        """Whether `settle` has anything to look at."""
        self._engine = engine
        self._pages = range(pages)
        self._carry_out = carry_out
        self._successor = -1
        self._asked: set[int] | None = None
        """Pages that the successor has not answered for; None as long as something is on its way to here: a write that
        is granted now would take the page away from whoever has taken it over."""
        self._taking: list[tuple[int, int]] = []
        """(leaver, page) not answered yet."""

    def begin(self, successor: int, done: Callable[[], object]) -> None:
        """Hand all pages over to `successor`, from the start."""
        self.done = done
        self.busy = True
        self._successor = successor
        self._asked = None

    def receive(self, sender: int, message: Message) -> None:
        """A LEAVE: for a page to be taken over, or one that has been."""
        page = message.page
        if message.flags & Flag.GRANT:
            if sender == self._successor and self._asked:
                self._asked.discard(page)
        else:
            self._taking.append((sender, page))
        self.busy = True

    def settle(self) -> None:
        """After events: read what is to be taken over, answer for what is here, and go if nothing is left."""
        taking, self._taking = self._taking, []
        for leaver, page in taking:
            if self._holds(page):
                self._carry_out([Send(leaver, Message(MessageName.LEAVE, page, flags=Flag.GRANT))])
                continue
            self._taking.append((leaver, page))
            if not self._engine.pending(page):
                self._carry_out(self._engine.fault(page, False))
        if self.done is not None and self._nothing_left():
            done, self.done = self.done, None
            done()
        self.busy = self.done is not None or bool(self._taking)

    def _nothing_left(self) -> bool:
        if self._asked is None:
            if any(map(self._engine.pending, self._pages)):
                return False
            self._asked = set(filter(self._holds, self._pages))
            self._carry_out([Send(self._successor, Message(MessageName.LEAVE, page)) for page in sorted(self._asked)])
        return not any(map(self._holds, self._asked))

    def _holds(self, page: int) -> bool:
        return self._engine.state(page) in _HELD
