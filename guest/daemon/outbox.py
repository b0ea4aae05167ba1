"""What is on its way to one peer: straight into the ring, or in a queue while the ring is full; nowhere to a dead one.

Order per peer is kept: as long as one message waits, every later one waits behind it. A queued PAGE_DATA holds the
bytes the page had when the engine sent it. The queue is bounded by what peers can have asked for: one answer for each
of their outstanding requests.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from guest.link.ring import Sender
from guest.link.segment import PAGE_BYTES
from guest.protocol.messages import Message, MessageName

_PAGE_DATA = int(MessageName.PAGE_DATA)


class Outbox:
    """The way to one peer. `read_out(page, into)` copies a page's present bytes."""

    __slots__ = ("_queue", "_read_out", "_sender", "to")

    def __init__(self, sender: Sender, read_out: Callable[[int, memoryview], object]) -> None:
        self.to = sender.to
        self._sender = sender
        self._read_out = read_out
        self._queue: deque[tuple[Message, memoryview | None] | Callable[[], object]] = deque()

    def send(self, message: Message, discard: Callable[[int], object] | None = None) -> None:
        """Publish the message, or queue it. Never blocks. `discard` drops its page before anybody can see it."""
        if message[0] == _PAGE_DATA:
            self._send_page(message, partial(self._read_out, message[1]), discard)
        elif self._queue or not self._sender.send(message):
            self._queue.append((message, None))

    def send_with(self, message: Message, payload: bytes) -> None:
        """As `send`, with bytes that are not a page's: as many as a page slot has, at most."""
        self._send_page(message, partial(_put, payload), None)

    def when_sent(self, then: Callable[[], object]) -> None:
        """Call `then` once all that was sent so far is published: now, or in `flush`."""
        if self._queue:
            self._queue.append(then)
        else:
            then()

    def give_up(self) -> None:
        """The peer is dead: whoever waits for what is queued waits no more."""
        queue, self._queue = self._queue, deque()
        for entry in queue:
            if callable(entry):
                entry()

    @property
    def queued(self) -> int:
        """Messages that wait for room, and those who wait for them."""
        return len(self._queue)

    def flush(self) -> bool:
        """Publish what there is room for now; true when at least one message went out."""
        queue = self._queue
        before = len(queue)
        while queue:
            entry = queue[0]
            if callable(entry):
                queue.popleft()
                entry()
                continue
            message, page = entry
            if page is None:
                if not self._sender.send(message):
                    break
            else:
                slot = self._sender.page_slot()
                if slot is None:
                    break
                slot[1][:] = page
                if not self._sender.send_page(message):
                    break
            queue.popleft()
        return len(queue) < before

    def _send_page(
        self, message: Message, fill: Callable[[memoryview], object], discard: Callable[[int], object] | None
    ) -> None:
        slot = None if self._queue else self._sender.page_slot()
        page = memoryview(bytearray(PAGE_BYTES)) if slot is None else slot[1]
        fill(page)
        if discard is not None:
            discard(message[1])
        if slot is None or not self._sender.send_page(message):
            # A slot stays as it is: as long as anything is queued, no other page is put into it.
            self._queue.append((message, page))


def _put(payload: bytes, slot: memoryview) -> None:
    slot[: len(payload)] = payload


class Nowhere(Outbox):
    """The way to a dead peer: whatever is sent there is dropped."""

    __slots__ = ()

    def __init__(self, to: int) -> None:
        self.to = to
        self._queue = deque()

    def send(self, message: Message, discard: Callable[[int], object] | None = None) -> None:
        """Nothing but `discard`."""
        if discard is not None:
            discard(message[1])

    def send_with(self, message: Message, payload: bytes) -> None:
        """Nothing."""
