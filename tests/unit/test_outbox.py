"""The way to one peer: nothing is lost, nothing overtakes, and a page is sent as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.daemon.outbox import Nowhere, Outbox
from guest.link.ring import Receiver, Sender
from guest.link.segment import PAGE_BYTES, Layout, format_segment
from guest.protocol.messages import Message, MessageName

PAGE_REQUEST, PAGE_DATA = int(MessageName.PAGE_REQUEST), int(MessageName.PAGE_DATA)


class Pair:
    """An outbox of kernel 0, the ring behind it, and kernel 1. `memory` is what `read_out` finds."""

    def __init__(self) -> None:
        self.layout = Layout(kernels=2, ring_slots=64, page_slots=4)
        segment = format_segment(memoryview(bytearray(self.layout.size_bytes)), 2)
        assert segment.layout == self.layout
        self.memory = bytearray(256)
        self.outbox = Outbox(Sender(segment, 0, 1), self.read_out)
        self.receiver = Receiver(segment, 0, 1)

    def read_out(self, page: int, into: memoryview) -> None:
        into[:] = bytes([self.memory[page]]) * PAGE_BYTES

    def arrivals(self) -> list[tuple[int, int | None]]:
        """Page and first byte of the payload of everything that has arrived; all slots are given back."""
        found: list[tuple[int, int | None]] = []
        while (message := self.receiver.receive()) is not None:
            if message.name == PAGE_DATA:
                payload = bytes(self.receiver.payload(message))
                assert payload == payload[:1] * PAGE_BYTES
                found.append((message.page, payload[0]))
                self.receiver.release(message)
            else:
                found.append((message.page, None))
        assert self.receiver.receive() is None  # an idle look gives the slots back
        return found


def test_a_queued_page_keeps_the_bytes_it_had_when_it_was_sent() -> None:
    pair = Pair()
    for page in range(6):
        pair.memory[page] = 10 + page
        pair.outbox.send(Message(PAGE_DATA, page))
        pair.memory[page] = 99
    assert pair.outbox.queued == 2
    assert pair.arrivals() == [(page, 10 + page) for page in range(4)]
    assert pair.outbox.flush()
    assert pair.arrivals() == [(4, 14), (5, 15)]
    assert pair.outbox.queued == 0


@pytest.mark.parametrize("pages_before", [0, 4], ids=["room", "no room"])
def test_a_page_that_is_handed_over_is_dropped_before_anybody_can_see_it(pages_before: int) -> None:
    pair = Pair()
    for page in range(pages_before):
        pair.outbox.send(Message(PAGE_DATA, page))
    dropped: list[tuple[int, int]] = []

    def discard(page: int) -> None:
        dropped.append((page, len(pair.arrivals())))
        pair.memory[page] = 0

    pair.memory[9] = 19
    pair.outbox.send(Message(PAGE_DATA, 9), discard)
    pair.outbox.flush()
    assert dropped == [(9, pages_before)]
    assert pair.arrivals() == [(9, 19)]


def test_a_page_for_a_ring_that_is_full_is_sent_as_it_was() -> None:
    pair = Pair()
    for number in range(pair.layout.ring_slots):
        pair.outbox.send(Message(PAGE_REQUEST, number))
    pair.memory[3] = 33
    pair.outbox.send(Message(PAGE_DATA, 3), lambda page: pair.memory.__setitem__(page, 0))
    assert len(pair.arrivals()) == pair.layout.ring_slots
    pair.outbox.flush()
    assert pair.arrivals() == [(3, 33)]


def test_what_is_handed_over_to_the_dead_is_dropped() -> None:
    dropped: list[int] = []
    Nowhere(1).send(Message(PAGE_DATA, 5), dropped.append)
    assert dropped == [5]


def test_a_message_that_fits_waits_behind_a_page_that_does_not() -> None:
    pair = Pair()
    for page in range(5):
        pair.outbox.send(Message(PAGE_DATA, page))
    pair.outbox.send(Message(PAGE_REQUEST, 200))
    assert [page for page, _ in pair.arrivals()] == [0, 1, 2, 3]
    pair.outbox.flush()
    assert pair.arrivals() == [(4, 0), (200, None)]


def test_flush_says_whether_anything_went_out() -> None:
    pair = Pair()
    for number in range(pair.layout.ring_slots + 1):
        pair.outbox.send(Message(PAGE_REQUEST, number))
    assert pair.outbox.queued == 1
    assert not pair.outbox.flush()
    pair.arrivals()
    assert pair.outbox.flush()
    assert not pair.outbox.flush()


@given(st.lists(st.sampled_from(["page", "request", "receive", "flush"]), max_size=400))
def test_everything_arrives_once_and_in_order(steps: list[str]) -> None:
    pair = Pair()
    sent: list[tuple[int, int | None]] = []
    arrived: list[tuple[int, int | None]] = []
    for number, step in enumerate(steps):
        page = number % 256
        if step == "receive":
            arrived += pair.arrivals()
        elif step == "flush":
            pair.outbox.flush()
        else:
            pair.memory[page] = number * 7 % 256
            pair.outbox.send(Message(PAGE_DATA if step == "page" else PAGE_REQUEST, page))
            sent.append((page, pair.memory[page] if step == "page" else None))
    while pair.outbox.queued:
        arrived += pair.arrivals()
        assert pair.outbox.flush()
    assert arrived + pair.arrivals() == sent


def test_who_waits_for_what_is_queued_is_told_when_it_can_be_read() -> None:
    pair = Pair()
    told: list[object] = []
    pair.outbox.when_sent(lambda: told.append("nothing was queued"))
    assert told.pop() == "nothing was queued"
    for number in range(pair.layout.ring_slots + 2):
        pair.outbox.send(Message(PAGE_REQUEST, number))
    pair.outbox.when_sent(lambda: told.append(len(pair.arrivals())))
    pair.outbox.send(Message(PAGE_REQUEST, 99))
    assert not pair.outbox.flush()
    assert len(pair.arrivals()) == pair.layout.ring_slots
    assert pair.outbox.flush()
    assert told == [2]
    assert pair.arrivals() == [(99, None)]


def test_who_waits_for_what_is_queued_waits_no_more_when_the_peer_is_dead() -> None:
    pair = Pair()
    told: list[object] = []
    for number in range(pair.layout.ring_slots + 1):
        pair.outbox.send(Message(PAGE_REQUEST, number))
    pair.outbox.when_sent(lambda: told.append("given up"))
    pair.outbox.give_up()
    assert told == ["given up"]
    assert pair.outbox.queued == 0
    assert len(pair.arrivals()) == pair.layout.ring_slots
