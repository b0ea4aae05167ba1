"""Keeping no more of the region than fits: pages beyond a limit go to other kernels, as nothing else has them.

There is no disk behind a coherent memory; what one kernel has no room for, another one keeps. A kernel that holds more
pages than its limit asks another one to take a page over, by an EVICT. That one, if it has the page already or has
room, takes it as if a thread of its own stored to it: the protocol moves the page, and takes it from here. So there is
nothing that the engine would have to know, and a page that is wanted back comes by an ordinary fault. Who has no room
answers, and the next kernel is asked.

A kernel outside the kernel set takes nothing, so where a limit is set, all kernels are in it from the beginning.

Which pages go: of those that others hold too first, as that costs no copy, then of the others, each time the next one
in the region behind the last that went. Nobody counts accesses: a page that is present is touched without a word.

The limit is not exact, as a fault is served before something goes for it. Once `SLACK` pages are too many, faults wait
until there is room.
"""

from collections.abc import Callable, Sequence
from time import monotonic_ns

from guest.memory.region import PRESENCES, Region
from guest.protocol.effects import Effect, Send
from guest.protocol.engine import Engine
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.table import State

SLACK = 32
"""Pages that may be here beyond the limit."""
_ASKED_MAX = 16
"""Pages that others are asked to take at the same time."""
_PATIENCE_NS = 500_000_000
"""After this, what was asked is asked again: a page may be locked, or wanted by somebody else at that moment."""
_PAUSE_NS = 20_000_000
"""For so long nobody is asked once all have said that they have no room."""
_HELD = (State.N, State.M, State.S)


class Eviction:
    """Both sides of it on one kernel. `others` says which kernels live, `carry_out` is what the daemon does."""

    def __init__(
        self,
        engine: Engine,
        region: Region,
        limit: int | None,
        others: Callable[[], Sequence[int]],
        carry_out: Callable[[list[Effect]], object],
    ) -> None:
        self._engine, self._region = engine, region
        self._limit = region.pages if limit is None else limit
        self._others, self._carry_out = others, carry_out
        self._asked: dict[int, int] = {}
        """By page that somebody was asked to take: since when, in ns."""
        self._turn = 0
        """Whose turn it is to be asked."""
        self._refusals = 0
        """In a row."""
        self._pause_until_ns = 0
        self._next = 0
        """The page behind the last that went."""

    @property
    def busy(self) -> bool:
        """Whether `settle` has anything to do."""
        return self._region.resident > self._limit

    @property
    def full(self) -> bool:
        """Whether no fault may be served now."""
        return self._region.resident >= self._limit + SLACK

    def settle(self) -> None:
        """After events: ask others to take what is too much."""
        now_ns = monotonic_ns()
        others = self._others()
        if now_ns < self._pause_until_ns or not others:
            return
        holds = self._holds
        self._asked = {
            page: since for page, since in self._asked.items() if holds(page) and now_ns - since < _PATIENCE_NS
        }
        excess = self._region.resident - self._limit - len(self._asked)
        while excess > 0 and len(self._asked) < _ASKED_MAX:
            page = self._choose()
            if page is None:
                return
            self._asked[page] = now_ns
            self._next = page + 1
            excess -= 1
            self._carry_out([Send(others[self._turn % len(others)], Message(MessageName.EVICT, page))])

    def receive(self, sender: int, message: Message) -> None:
        """An EVICT: a page that is to be taken, or one that could not be."""
        page = message.page
        if message.flags & Flag.NO_ROOM:
            self._asked.pop(page, None)
            self._refused(sender)
        elif self._holds(page) or self._region.resident < self._limit:
            self._refusals = 0
            if not self._engine.pending(page):
                self._carry_out(self._engine.fault(page, True))
        else:
            self._carry_out([Send(sender, Message(MessageName.EVICT, page, flags=Flag.NO_ROOM))])

    def _refused(self, kernel: int) -> None:
        """Several questions to one kernel count as one."""
        others = self._others()
        if not others or others[self._turn % len(others)] != kernel:
            return
        self._turn += 1
        self._refusals += 1
        if self._refusals >= len(others):
            self._refusals = 0
            self._pause_until_ns = monotonic_ns() + _PAUSE_NS

    def _choose(self) -> int | None:
        for presence in PRESENCES:
            for page in self._region.present(presence, self._next):
                if page not in self._asked and self._holds(page) and not self._engine.pending(page):
                    return page
        return None

    def _holds(self, page: int) -> bool:
        return self._engine.state(page) in _HELD
