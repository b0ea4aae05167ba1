"""A ring driven by Hypothesis over a memory as weak as the ring must bear.

Each side has a view of its own of the shared words. What a side stores reaches the memory in any order and at any time,
and what the memory holds reaches a side's view word by word in any order, so that a message, a page and the head may be
seen torn; a full fence makes a side's stores reach the memory, and its view the memory's. (What this leaves out: a
load that is late for a store behind it. `test_ring` holds the order of those in the code.)
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from guest.errors import RingError
from guest.link import ring
from guest.link.ring import Receiver, Sender
from guest.link.segment import PAGE_BYTES, PAIR_HEAD, PAIR_RELEASED, PAIR_TAIL, Layout, Segment, format_segment
from guest.protocol.messages import Message, MessageName

SMALL = Layout(2, 64, 4)
SENDER, RECEIVER = SIDES = (0, 1)
WHICH = st.integers(1, (1 << 16) - 1)
"""A mask: the words for which it has a bit are the ones that get through."""
U64 = st.integers(0, (1 << 64) - 1)
COUNTERS = st.sampled_from([0, 1, 63, (1 << 32) - 2, 1 << 32, (1 << 40) - 3])


class WeakMemory:
    """The words of one pair, as two sides see them."""

    def __init__(self) -> None:
        start, end = SMALL.pair_offset(0, 1), SMALL.pair_offset(0, 1) + SMALL.pair_bytes
        self.segments = [format_segment(memoryview(bytearray(SMALL.size_bytes)), 2) for _ in SIDES]
        self._views = [segment.memory[start:end].cast("Q") for segment in self.segments]
        self._told = [memoryview(bytearray(view)).cast("Q") for view in self._views]
        """What each view would hold without the stores that have not reached the memory yet."""
        self._memory = memoryview(bytearray(self._views[SENDER])).cast("Q")

    def preset(self, word: int, value: int) -> None:
        """A word of the control page, everywhere."""
        for words in (self._memory, *self._views, *self._told):
            words[word] = value

    def leak(self, side: int, which: int) -> None:
        """Some of a side's stores reach the memory."""
        view, told = self._views[side], self._told[side]
        for word in _chosen(_different(view, told), which):
            self._memory[word] = told[word] = view[word]

    def see(self, side: int, which: int) -> None:
        """Some of the memory's words reach a side's view; its own stores hide what is under them."""
        view, told = self._views[side], self._told[side]
        for word in _chosen(_different(self._memory, told), which):
            if view[word] == told[word]:
                view[word] = told[word] = self._memory[word]

    def fence(self, side: int) -> None:
        """All of it, both ways."""
        self.leak(side, -1)
        self.see(side, -1)


def _different(one: memoryview, two: memoryview) -> Iterator[int]:
    page = PAGE_BYTES // 8
    for start in range(0, len(one), page):
        if one[start : start + page] != two[start : start + page]:
            yield from (word for word in range(start, start + page) if one[word] != two[word])


def _chosen(words: Iterator[int], which: int) -> list[int]:
    return [word for place, word in enumerate(words) if which < 0 or which >> place % 16 & 1]


class Machine(RuleBasedStateMachine):
    """One sender, one receiver, and who sees what when."""

    sender_of: Callable[[Segment], Sender] = staticmethod(lambda segment: Sender(segment, 0, 1))
    receiver_of: Callable[[Segment], Receiver] = staticmethod(lambda segment: Receiver(segment, 0, 1))
    fenceless: int | None = None
    """A side whose fences do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = WeakMemory()
        self.at_work = SENDER
        self.fence = patch.object(ring, "full_fence", self.full_fence)
        self.fence.start()
        self.under_way: deque[tuple[Message, int | None]] = deque()
        self.held: deque[tuple[Message, int]] = deque()
        self.number = 0

    def full_fence(self) -> None:
        if self.at_work != self.fenceless:
            self.memory.fence(self.at_work)

    @initialize(messages=COUNTERS, pages=COUNTERS)
    def begin(self, messages: int, pages: int) -> None:
        """With counters that are about to go round, or to outgrow 32 bits."""
        for word, value in ((PAIR_HEAD, messages), (PAIR_TAIL, messages), (PAIR_RELEASED, pages)):
            self.memory.preset(word, value)
        self.sender = self.sender_of(self.memory.segments[SENDER])
        self.receiver = self.receiver_of(self.memory.segments[RECEIVER])

    @rule(count=st.one_of(st.just(1), st.integers(1, 70)), version=U64, copyset=U64)
    def send(self, count: int, version: int, copyset: int) -> None:
        self.at_work = SENDER
        for _ in range(count):
            self.number += 1
            message = Message(MessageName.VOTE, self.number, version=version, copyset=copyset, stamp=self.number)
            if self.sender.send(message):
                self.under_way.append((message, None))
            else:
                assert self.sender.unread == SMALL.ring_slots

    @rule(count=st.integers(1, 2 * SMALL.page_slots))
    def send_pages(self, count: int) -> None:
        self.at_work = SENDER
        for _ in range(count):
            offer = self.sender.page_slot()
            if offer is None:
                return
            self.number += 1
            slot, payload = offer
            payload[:] = self.number.to_bytes(8, "little") * (PAGE_BYTES // 8)
            message = Message(MessageName.PAGE_DATA, self.number, slot=slot & 0xFFFFFFFF)
            if self.sender.send_page(message):
                self.under_way.append((message, self.number))

    @rule(count=st.integers(1, 70))
    def receive(self, count: int) -> None:
        self.at_work = RECEIVER
        for _ in range(count):
            message = self.receiver.receive()
            if message is None:
                return  # perhaps it cannot be seen yet
            assert self.under_way, f"{message} was never sent"
            sent, page = self.under_way.popleft()
            assert message == sent
            if page is not None:
                self.held.append((message, page))

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.at_work = RECEIVER
        message, number = self.held.popleft()
        assert self.receiver.payload(message).cast("Q").tolist() == [number] * (PAGE_BYTES // 8), "a torn page"
        self.receiver.release(message)

    @rule(side=st.sampled_from(SIDES), which=WHICH)
    def leak(self, side: int, which: int) -> None:
        self.memory.leak(side, which)

    @rule(side=st.sampled_from(SIDES), which=WHICH)
    def see(self, side: int, which: int) -> None:
        self.memory.see(side, which)

    def teardown(self) -> None:
        """Everything that was sent arrives, and then there is all the room there was."""
        try:
            if sys.exc_info()[0] is None and hasattr(self, "receiver"):  # no step has failed
                self.settle()
                self.send(SMALL.ring_slots, 0, 0)
                assert len(self.under_way) == SMALL.ring_slots
                self.settle()
        finally:
            self.fence.stop()

    def settle(self) -> None:
        self.memory.leak(SENDER, -1)  # stores become visible in time, fence or no fence
        self.memory.see(RECEIVER, -1)
        self.receive(2 * SMALL.ring_slots)
        while self.held:
            self.release()
        self.receive(1)
        self.memory.leak(RECEIVER, -1)
        self.memory.see(SENDER, -1)
        assert not self.under_way, f"{len(self.under_way)} messages never arrived"


def test_whatever_is_seen_when_messages_and_pages_arrive_whole_once_and_in_order() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=150, stateful_step_count=50))


class GreedySender(Sender):
    """Writes over what has not been read."""

    def _has_room(self) -> bool:
        self._limit = self._sent + 1
        return True


class HastyReceiver(Receiver):
    """Gives a page's slot back when the message comes, not when its payload has been used."""

    def receive(self) -> Message | None:
        message = super().receive()
        if message is not None and message.name == MessageName.PAGE_DATA:
            super().release(message)
        return message

    def release(self, message: Message) -> None:
        return


MUTANTS = {
    "the head overtakes the message": {"fenceless": SENDER},
    "the message is looked at before the head": {"fenceless": RECEIVER},
    "nothing is ever full": {"sender_of": staticmethod(lambda segment: GreedySender(segment, 0, 1))},
    "slots go back too early": {"receiver_of": staticmethod(lambda segment: HastyReceiver(segment, 0, 1))},
}


@pytest.mark.parametrize("change", MUTANTS.values(), ids=MUTANTS)
def test_the_machine_would_notice(change: dict[str, object]) -> None:
    wanted = settings(max_examples=2000, stateful_step_count=50, phases=[Phase.generate], derandomize=True)
    with pytest.raises((AssertionError, RingError)):  # a receiver itself refuses more than its ring can hold
        run_state_machine_as_test(type("Machine", (Machine,), change), settings=wanted)
