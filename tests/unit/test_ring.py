"""Rings and page slots between two kernels, in one process: order, bounds, publication, and what is refused."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import RingError
from guest.link import ring
from guest.link.ring import Receiver, Sender
from guest.link.segment import (
    PAGE_BYTES,
    PAIR_HEAD,
    PAIR_RELEASED,
    PAIR_TAIL,
    SLOT_BYTES,
    WORD_MASK,
    Layout,
    Segment,
    format_segment,
)
from guest.protocol.messages import FIELDS, STAMP_BYTES, Message, MessageName, pack_into, unpack_from

SMALL = Layout(2, 64, 4)  # the smallest, so that short tests go round it often

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
NAMES = st.sampled_from(MessageName).map(int)
MESSAGES = st.builds(Message, NAMES, U64, U32, U32, U64, U64, U64, U32, st.just(0))


def small_segment() -> Segment:
    return format_segment(memoryview(bytearray(SMALL.size_bytes)), 2)


def ends(segment: Segment) -> tuple[Sender, Receiver]:
    return Sender(segment, 0, 1), Receiver(segment, 0, 1)


def control_word(segment: Segment, word: int) -> int:
    value: int = segment.words[segment.layout.pair_offset(0, 1) // 8 + word]
    return value


@given(MESSAGES)
def test_every_field_arrives_as_it_was_sent(message: Message) -> None:
    sender, receiver = ends(small_segment())
    assert sender.send(message)
    received = receiver.receive()
    assert received == message
    assert type(received) is Message


@given(MESSAGES, st.integers(0, 63))
def test_a_slot_packed_outside_a_ring_reads_the_same(message: Message, sender: int) -> None:
    slot = memoryview(bytearray(SLOT_BYTES))
    pack_into(slot, 0, sender, message)
    assert unpack_from(slot, 0) == (sender, message)


@given(st.lists(st.one_of(st.just("receive"), st.integers(1, 70)), max_size=60))
def test_messages_keep_their_order_and_number_however_sending_and_receiving_mix(steps: list[str | int]) -> None:
    sender, receiver = ends(small_segment())
    model: deque[int] = deque()
    number = 0
    for step in steps:
        if step == "receive":
            message = receiver.receive()
            assert (message.page if message else None) == (model.popleft() if model else None)
        else:
            for _ in range(int(step)):
                sent = sender.send(Message(MessageName.VOTE, number))
                if sent:
                    model.append(number)
                    number += 1
                assert len(model) <= SMALL.ring_slots
                # Refusing is right only if the receiver has not given back: it holds them all, or has not looked since.
                assert sent or sender.unread == SMALL.ring_slots
        assert receiver.pending() == bool(model)


def test_a_full_ring_refuses_and_has_room_again_once_it_was_read() -> None:
    segment = small_segment()
    sender, receiver = ends(segment)
    for number in range(SMALL.ring_slots):
        assert sender.send(Message(MessageName.VOTE, number))
    before = bytes(segment.memory)
    assert not sender.send(Message(MessageName.VOTE, 999))
    assert bytes(segment.memory) == before
    while receiver.receive() is not None:
        pass
    assert sender.send(Message(MessageName.VOTE, 999))


def test_a_busy_receiver_gives_back_before_it_has_gone_round() -> None:
    sender, receiver = ends(small_segment())
    for _ in range(3 * SMALL.ring_slots):
        assert sender.send(Message(MessageName.VOTE))
        assert receiver.receive() is not None
        assert sender.unread <= SMALL.page_slots // 2 + 1


def test_a_half_written_slot_is_not_a_message() -> None:
    segment = small_segment()
    _, receiver = ends(segment)
    offset = segment.layout.ring_offset(0, 1)
    segment.memory[offset : offset + 20] = b"\xaa" * 20
    assert not receiver.pending()
    assert receiver.receive() is None


def test_the_head_moves_only_behind_a_fence_behind_the_whole_message(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = small_segment()
    sender, _ = ends(segment)
    message = Message(MessageName.INVALIDATE, 5, 6, 7, 8, 9, 10, 11)
    at_fence = []

    def fence() -> None:
        slot = FIELDS.unpack_from(segment.memory, segment.layout.ring_offset(0, 1) + STAMP_BYTES)
        at_fence.append((Message(*slot), control_word(segment, PAIR_HEAD)))

    monkeypatch.setattr(ring, "full_fence", fence)
    sender.send(message)
    assert at_fence[-1] == (message, 0)
    assert control_word(segment, PAIR_HEAD) == 1


def test_slots_go_back_only_behind_a_fence_behind_the_last_look_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = small_segment()
    sender, receiver = ends(segment)
    offer = sender.page_slot()
    assert offer is not None
    sender.send_page(Message(MessageName.PAGE_DATA))
    at_fence: list[tuple[int, int]] = []
    monkeypatch.setattr(
        ring,
        "full_fence",
        lambda: at_fence.append((control_word(segment, PAIR_TAIL), control_word(segment, PAIR_RELEASED))),
    )
    message = receiver.receive()
    assert message is not None
    receiver.release(message)
    assert (control_word(segment, PAIR_TAIL), control_word(segment, PAIR_RELEASED)) == (0, 0)
    at_fence.clear()
    assert receiver.receive() is None
    assert at_fence == [(0, 0)]
    assert (control_word(segment, PAIR_TAIL), control_word(segment, PAIR_RELEASED)) == (1, 1)


def test_an_idle_receiver_that_has_given_all_back_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = small_segment()
    sender, receiver = ends(segment)
    sender.send(Message(MessageName.VOTE))
    while receiver.receive() is not None:
        pass
    monkeypatch.setattr(ring, "full_fence", lambda: pytest.fail("a fence for nothing"))
    before = bytes(segment.memory)
    assert receiver.receive() is None
    assert bytes(segment.memory) == before


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_pages_arrive_whole_and_their_slots_come_back_in_order(bursts: list[int]) -> None:
    segment = small_segment()
    sender, receiver = ends(segment)
    number = 0
    for burst in bursts:
        sent = []
        for _ in range(burst):
            offer = sender.page_slot()
            assert offer is not None
            offer[1][:] = number.to_bytes(4, "little") * (PAGE_BYTES // 4)
            assert sender.send_page(Message(MessageName.PAGE_DATA, number))
            sent.append(number)
            number += 1
        for expected in sent:
            message = receiver.receive()
            assert message is not None
            assert message.page == expected
            assert receiver.payload(message) == expected.to_bytes(4, "little") * (PAGE_BYTES // 4)
            offset = receiver.payload_address(message) - segment.address
            assert segment.memory[offset : offset + PAGE_BYTES] == receiver.payload(message)
            receiver.release(message)
        assert receiver.receive() is None


def test_no_page_slot_is_offered_while_the_receiver_holds_them_all() -> None:
    sender, receiver = ends(small_segment())
    for _ in range(SMALL.page_slots):
        assert sender.page_slot() is not None
        assert sender.send_page(Message(MessageName.PAGE_DATA))
    assert sender.page_slot() is None
    with pytest.raises(RingError, match="holds all 4 page slots"):
        sender.send_page(Message(MessageName.PAGE_DATA))
    first = receiver.receive()
    assert first is not None
    assert receiver.receive() is not None
    assert sender.page_slot() is None
    receiver.release(first)
    while receiver.receive() is not None:
        pass
    assert sender.page_slot() is not None


def test_a_page_slot_is_offered_again_until_it_is_sent() -> None:
    sender, receiver = ends(small_segment())
    first, again = sender.page_slot(), sender.page_slot()
    assert first is not None
    assert again is not None
    assert first[0] == again[0]
    for _ in range(SMALL.ring_slots):
        sender.send(Message(MessageName.VOTE))
    assert not sender.send_page(Message(MessageName.PAGE_DATA))
    after = sender.page_slot()
    assert after is not None
    assert after[0] == first[0]
    while receiver.receive() is not None:
        pass
    assert sender.send_page(Message(MessageName.PAGE_DATA))


def test_a_page_slot_released_out_of_turn_or_twice_is_refused() -> None:
    sender, receiver = ends(small_segment())
    messages = []
    for _ in range(2):
        sender.page_slot()
        sender.send_page(Message(MessageName.PAGE_DATA))
        message = receiver.receive()
        assert message is not None
        messages.append(message)
    with pytest.raises(RingError, match="page slot 1 from kernel 0 was released out of turn, expected 0"):
        receiver.release(messages[1])
    receiver.release(messages[0])
    with pytest.raises(RingError, match="released out of turn, expected 1"):
        receiver.release(messages[0])


def test_page_slots_go_on_where_their_number_outgrows_the_message() -> None:
    segment = small_segment()
    segment.words[segment.layout.pair_offset(0, 1) // 8 + PAIR_RELEASED] = 2**32 - 2
    sender, receiver = ends(segment)
    for number in range(6):
        offer = sender.page_slot()
        assert offer is not None
        offer[1][:] = bytes([number]) * PAGE_BYTES
        sender.send_page(Message(MessageName.PAGE_DATA))
        message = receiver.receive()
        assert message is not None
        assert receiver.payload(message)[0] == number
        receiver.release(message)
        assert receiver.receive() is None


def test_the_two_directions_of_two_kernels_are_two_rings() -> None:
    segment = small_segment()
    there, back = Sender(segment, 0, 1), Sender(segment, 1, 0)
    there.send(Message(MessageName.VOTE, 1))
    back.send(Message(MessageName.VOTE, 2))
    assert Receiver(segment, 0, 1).receive() == Message(MessageName.VOTE, 1)
    assert Receiver(segment, 1, 0).receive() == Message(MessageName.VOTE, 2)


def test_messages_are_counted_by_name_in_the_senders_page_of_the_node_table() -> None:
    segment = small_segment()
    sender, _ = ends(segment)
    for name in (MessageName.VOTE, MessageName.BARRIER, MessageName.VOTE):
        sender.send(Message(name))
    counted = {number: count for number, count in enumerate(segment.nodes[0].messages) if count}
    assert counted == {MessageName.VOTE: 2, MessageName.BARRIER: 1}
    assert sum(segment.nodes[1].messages) == 0


def test_formatting_under_a_receiver_is_noticed() -> None:
    segment = small_segment()
    sender, receiver = ends(segment)
    sender.send(Message(MessageName.VOTE))
    receiver.receive()
    format_segment(segment.memory, 2)
    with pytest.raises(RingError, match="head 0, while 1 messages were received"):
        receiver.receive()


def test_a_head_that_cannot_be_is_noticed() -> None:
    segment = small_segment()
    _, receiver = ends(segment)
    slots = segment.layout.ring_slots
    head = segment.layout.pair_offset(0, 1) // 8 + PAIR_HEAD
    segment.words[head] = slots + 1
    with pytest.raises(
        RingError, match=f"head {slots + 1}, while 0 messages were received, expected at most {slots} more"
    ):
        receiver.receive()
    segment.words[head] = slots
    assert receiver.receive() is not None


def test_counters_that_were_written_over_stay_words() -> None:
    segment = small_segment()
    sender, _ = ends(segment)
    node = segment.nodes[0]
    first = node.message_words
    segment.words[first + MessageName.VOTE] = WORD_MASK
    assert sender.send(Message(MessageName.VOTE))
    assert node.messages[MessageName.VOTE] == 0


def test_a_tail_that_cannot_be_is_noticed() -> None:
    segment = small_segment()
    sender, _ = ends(segment)
    segment.words[segment.layout.pair_offset(0, 1) // 8 + PAIR_TAIL] = 5
    with pytest.raises(RingError, match="tail 5, while 0 messages were sent"):
        sender.send(Message(MessageName.VOTE))


def test_a_ring_of_another_wire_version_is_refused() -> None:
    segment = small_segment()
    offset = segment.layout.ring_offset(0, 1) + 3 * SLOT_BYTES
    segment.memory[offset] = 9
    with pytest.raises(RingError, match="stamped with wire version 9 of kernel 0, expected version 2 of kernel 0"):
        Receiver(segment, 0, 1)
