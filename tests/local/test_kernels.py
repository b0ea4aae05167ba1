"""Two kernels as two processes: no wake-up is lost, and no message, no order and no page either."""

import os
import random
import signal
from collections.abc import Callable, Iterator

import pytest

from guest.bench.measure import ping, pong
from guest.link.hostlink import HostLink
from guest.link.notify import Notifier, Policy
from guest.link.ring import Receiver, Sender
from guest.link.segment import ISA, PAGE_BYTES, Layout, Segment, format_segment
from guest.protocol.messages import Message, MessageName

ROUND_TRIPS = 10_000
MESSAGES = 6_000
SILENCE_S = 10.0


class Kernel:
    """One end: everything it needs to talk to the other."""

    def __init__(self, memory_fd: int, doorbells: list[list[int]], kernel: int, policy: Policy, spin_us: int) -> None:
        link = HostLink(memory_fd, doorbells, kernel)
        self.segment = Segment.open(link.memory)
        self.segment.nodes[kernel].publish(ISA.of(os.uname().machine), link.peer)
        self.sender = Sender(self.segment, kernel, 1 - kernel)
        self.receiver = Receiver(self.segment, 1 - kernel, kernel)
        self.notifier = Notifier(self.segment, kernel, link, policy, [self.receiver], spin_us)


class Pair:
    """Kernel 0 is this process, kernel 1 a forked one that runs `other` and must end well."""

    def __init__(self) -> None:
        self._layout = Layout(2, 64, 4)  # the smallest, so that the rings fill and wrap often
        self._memory_fd = os.memfd_create("segment")
        os.ftruncate(self._memory_fd, self._layout.size_bytes)
        self._doorbells = [[os.eventfd(0)], [os.eventfd(0)]]
        self._child = 0

    def start(self, policy: Policy, other: Callable[[Kernel], None], spin_us: int = 20) -> Kernel:
        link = HostLink(self._memory_fd, self._doorbells, 0)
        format_segment(link.memory, 2)
        link.close()
        # Both have published before one can sleep: a segment's daemons wait for that, too.
        kernel = Kernel(self._memory_fd, self._doorbells, 0, policy, spin_us)
        kernel.segment.nodes[1].publish(ISA.UNKNOWN, 1)
        self._child = os.fork()
        if self._child == 0:
            status = 1
            try:
                other(Kernel(self._memory_fd, self._doorbells, 1, policy, spin_us))
                status = 0
            finally:
                os._exit(status)
        return kernel

    def join(self) -> int:
        child, self._child = self._child, 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def close(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            self.join()
        for fd in [self._memory_fd, *(fds[0] for fds in self._doorbells)]:
            os.close(fd)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.mark.parametrize("policy", [Policy.INTERRUPT, Policy.ADAPTIVE])
def test_ten_thousand_round_trips_lose_no_wake_up(pair: Pair, policy: Policy) -> None:
    # A lost wake-up leaves both asleep, and `ping` says so.
    kernel = pair.start(policy, lambda other: pong(other.sender, other.receiver, other.notifier, ROUND_TRIPS))
    round_trips_us = ping(kernel.sender, kernel.receiver, kernel.notifier, ROUND_TRIPS)
    assert len(round_trips_us) == ROUND_TRIPS
    assert pair.join() == 0
    if policy is Policy.INTERRUPT:
        assert kernel.segment.nodes[0].sleeps > 0
        assert kernel.segment.nodes[1].doorbells > 0


def page_of(number: int) -> bytes:
    return number.to_bytes(8, "little") * (PAGE_BYTES // 8)


def send_all(kernel: Kernel) -> None:
    """Every fourth message brings a page. Sleeps never: a sender with a backlog does not."""
    for number in range(MESSAGES):
        if number % 4:
            while not kernel.sender.send(Message(MessageName.VOTE, number, stamp=number << 20)):
                kernel.notifier.published(0)
        else:
            while (offer := kernel.sender.page_slot()) is None:
                kernel.notifier.published(0)
            offer[1][:] = page_of(number)
            while not kernel.sender.send_page(Message(MessageName.PAGE_DATA, number, stamp=number << 20)):
                kernel.notifier.published(0)
        kernel.notifier.published(0)


@pytest.mark.parametrize("policy", Policy)
def test_six_thousand_messages_and_pages_arrive_once_in_order_and_whole(pair: Pair, policy: Policy, seed: int) -> None:
    kernel = pair.start(policy, send_all)
    choices = random.Random(seed)
    expected = 0
    while expected < MESSAGES:
        message = kernel.receiver.receive()
        if message is None:
            kernel.notifier.wait(SILENCE_S)
            assert kernel.receiver.pending(), f"nothing came for {SILENCE_S} s after message {expected - 1}"
            continue
        assert (message.page, message.stamp) == (expected, expected << 20)
        if expected % 4 == 0:
            assert message.name == MessageName.PAGE_DATA
            if choices.random() < 0.1:
                os.sched_yield()  # let the sender run into the page slots that are not given back yet
            assert kernel.receiver.payload(message) == page_of(expected)
            kernel.receiver.release(message)
        expected += 1
    assert pair.join() == 0
    assert kernel.receiver.receive() is None
    counted = kernel.segment.nodes[1].messages
    assert counted[MessageName.VOTE] + counted[MessageName.PAGE_DATA] == MESSAGES == sum(counted)
