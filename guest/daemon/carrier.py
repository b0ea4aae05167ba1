"""Carrying out what the engine wants: effects become memory operations and messages, one by one and in order."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic_ns
from typing import Any

from guest.daemon.outbox import Nowhere, Outbox
from guest.link.notify import Notifier
from guest.memory.faults import FaultsInFlight
from guest.memory.kept_pages import KeptPages
from guest.memory.region import Region
from guest.protocol import effects
from guest.protocol.address_space import Access
from guest.protocol.messages import Message


class Carrier:
    """The engine's hands on one kernel."""

    def __init__(self, region: Region, outboxes: Iterable[Outbox], notifier: Notifier, faults: FaultsInFlight) -> None:
        self.payload = 0
        """Address of the page that came with the message being handled."""
        self.in_fault = False
        """Whether the event being handled is a fault: what is served within it needed no message."""
        self.backlog = False
        """Whether a message waits for room in a ring."""
        self.woken = False
        """Whether threads were woken since somebody last set this to false."""
        self.lost: set[int] = set()
        """Pages given up: their only valid copy died with its kernel."""
        self.on_space_done: Callable[[effects.SpaceDone], object] = _nobody
        """Who is told what came of operations on the address space."""
        self.on_joined: Callable[[effects.Joined], object] = _nobody
        """Who is told whether this kernel got into the kernel set."""
        self.on_copy: Callable[[effects.Duplicate], object] = _nobody
        """Who is told of copies of pages."""
        self.on_unmap: Callable[[effects.Allow], object] = _nobody
        """Who is told of pages that are unmapped."""
        self._region = region
        self._outboxes = {outbox.to: outbox for outbox in outboxes}
        self._notifier = notifier
        self._faults = faults
        self._kept = KeptPages()
        self._news: deque[Callable[[], object]] = deque()
        """What is told of effects once all those of the same event are carried out."""
        self._carriers: dict[type[Any], Callable[[Any], None]] = {
            effects.Send: self._send,
            effects.Install: self._install,
            effects.Keep: self._keep,
            effects.Forget: self._forget,
            effects.Zero: self._zero,
            effects.Grant: self._grant,
            effects.Protect: self._protect,
            effects.Discard: self._discard,
            effects.Wake: self._wake,
            effects.Poison: self._poison,
            effects.Allow: self._allow,
            effects.Relocate: self._relocate,
            effects.Freeze: self._freeze,
            effects.Duplicate: self._duplicate,
            effects.SpaceDone: self._space_done,
            effects.Joined: self._joined,
        }

    def carry_out(self, wanted: Sequence[effects.Effect]) -> None:
        """All of `wanted`, in order. Whoever is told something may give the engine its next event: that comes after."""
        carriers = self._carriers
        for effect in wanted:
            carriers[type(effect)](effect)
        while self._news:
            self._news.popleft()()

    def bury(self, kernel: int) -> None:
        """Send nothing more to a dead kernel."""
        outbox, self._outboxes[kernel] = self._outboxes[kernel], Nowhere(kernel)
        outbox.give_up()

    def unsent(self, to: int) -> bool:
        """Whether anything waits for room in the ring to the kernel."""
        return self._outboxes[to].queued > 0

    def when_sent(self, to: int, then: Callable[[], object]) -> None:
        """Call `then` when all that was sent to the kernel so far is in its ring, or the kernel is dead."""
        self._outboxes[to].when_sent(then)

    def flush(self) -> bool:
        """Send what there is room for now of what is queued; true when there was any."""
        progress = False
        for peer, outbox in self._outboxes.items():
            if outbox.queued and outbox.flush():
                progress = True
                self._notifier.published(peer)
        self.backlog = any(outbox.queued for outbox in self._outboxes.values())
        return progress

    def _served(self, page: int) -> None:
        """The threads that wait for the page are about to be woken; they may run before the next line does."""
        self.woken = True
        self._faults.served(page, monotonic_ns(), self.in_fault)

    def send_with(self, to: int, message: Message, payload: bytes) -> None:
        """Send a message with bytes that are not a page's."""
        self._outboxes[to].send_with(message, payload)
        self._published(to)

    def _send(self, effect: effects.Send) -> None:
        to, message, discard = effect
        self._outboxes[to].send(message, self._region.discard if discard else None)
        self._published(to)

    def _published(self, to: int) -> None:
        if self._outboxes[to].queued:
            self.backlog = True
        else:
            self._notifier.published(to)

    def _install(self, effect: effects.Install) -> None:
        page, writable, wake, kept = effect
        if wake:
            self._served(page)
        if kept:
            self._region.install(page, self._kept.address(page), writable, wake)
            self._kept.forget(page)
        else:
            self._region.install(page, self.payload, writable, wake)

    def _keep(self, effect: effects.Keep) -> None:
        self._kept.keep(effect[0], self.payload)

    def _forget(self, effect: effects.Forget) -> None:
        self._kept.forget(effect[0])

    def _zero(self, effect: effects.Zero) -> None:
        self._served(effect[0])
        self._region.zero(effect[0], effect[1])

    def _grant(self, effect: effects.Grant) -> None:
        self._served(effect[0])
        self._region.grant(effect[0])

    def _protect(self, effect: effects.Protect) -> None:
        self._region.protect(effect[0])

    def _discard(self, effect: effects.Discard) -> None:
        self._region.discard(effect[0])

    def _wake(self, effect: effects.Wake) -> None:
        self._served(effect[0])
        self._region.wake(effect[0])

    def _poison(self, effect: effects.Poison) -> None:
        self.lost.add(effect[0])
        self._served(effect[0])
        self._region.poison(effect[0])

    def _allow(self, effect: effects.Allow) -> None:
        first, length, access = effect
        self._region.allow(first, length, access)
        if access is Access.NONE:
            self.lost.difference_update(range(first, first + length))
            self.on_unmap(effect)

    def _relocate(self, effect: effects.Relocate) -> None:
        first, length, to = effect
        self._region.relocate(first, length, to)
        moved = {page for page in self.lost if first <= page < first + length}
        self.lost = self.lost - moved | {page - first + to for page in moved}

    def _freeze(self, effect: effects.Freeze) -> None:
        self._region.freeze(effect[0], effect[1])

    def _duplicate(self, effect: effects.Duplicate) -> None:
        first, length, to, *_ = effect
        self._region.duplicate(first, length, to)
        self.lost |= {page - first + to for page in self.lost if first <= page < first + length}
        self._news.append(lambda: self.on_copy(effect))

    def _joined(self, effect: effects.Joined) -> None:
        self._news.append(lambda: self.on_joined(effect))

    def _space_done(self, effect: effects.SpaceDone) -> None:
        self.woken = True
        self._news.append(lambda: self.on_space_done(effect))


def _nobody(_: object) -> None:
    """Nobody asked."""
