"""Who rings whom, and when: the interleavings of sleeper and sender that could lose a wake-up are played through."""

import os
import select
from collections.abc import Callable, Iterator

import pytest

from guest.errors import SegmentError
from guest.link import notify
from guest.link.notify import Notifier, Policy
from guest.link.ring import Receiver, Sender
from guest.link.segment import ISA, Layout, Segment, address_of, format_segment
from guest.protocol.messages import Message, MessageName

VOTE = Message(MessageName.VOTE)
RINGING = [Policy.INTERRUPT, Policy.ADAPTIVE]


class RecordingLink:
    """A link whose doorbell is an eventfd of its own and that writes down whom it rings."""

    def __init__(self, memory: memoryview, peer: int) -> None:
        self.memory = memory
        self.address = address_of(memory)
        self.mappable = (-1, 0)  # nobody maps it
        self.peer = peer
        self.bell = os.eventfd(0, os.EFD_NONBLOCK)
        self.doorbell_fds = (self.bell,)
        self.rung: list[int] = []

    def ring(self, peer: int) -> None:
        self.rung.append(peer)

    def drain(self) -> None:
        if select.select([self.bell], [], [], 0)[0]:
            os.eventfd_read(self.bell)

    def close(self) -> None:
        os.close(self.bell)


class Pair:
    """Kernel 0 waits, kernel 1 sends; their peer ids are 40 and 41."""

    def __init__(self) -> None:
        memory = memoryview(bytearray(Layout(2, 64, 4).size_bytes))
        self.segment: Segment = format_segment(memory, 2)
        self.links = [RecordingLink(memory, 40), RecordingLink(memory, 41)]
        for node, link in zip(self.segment.nodes, self.links, strict=True):
            node.publish(ISA.X86_64, link.peer)
        self.receiver = Receiver(self.segment, 1, 0)
        self.sender = Sender(self.segment, 1, 0)

    def waiter(self, policy: Policy, spin_us: int = 50) -> Notifier:
        return Notifier(self.segment, 0, self.links[0], policy, [self.receiver], spin_us)

    def waker(self, policy: Policy) -> Notifier:
        return Notifier(self.segment, 1, self.links[1], policy, [Receiver(self.segment, 0, 1)])


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    for link in pair.links:
        link.close()


def at_the_fence(monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Let `event` happen at the next fence of the notifier: on the other CPU, at the worst moment."""

    def fence() -> None:
        monkeypatch.setattr(notify, "full_fence", lambda: None)
        event()

    monkeypatch.setattr(notify, "full_fence", fence)


@pytest.mark.parametrize("policy", RINGING)
def test_a_sleeper_is_rung_by_its_peer_id(pair: Pair, policy: Policy) -> None:
    assert pair.waiter(policy).arm()
    pair.waker(policy).published(0)
    assert pair.links[1].rung == [40]
    assert (pair.segment.nodes[0].sleeps, pair.segment.nodes[1].doorbells) == (1, 1)


@pytest.mark.parametrize("policy", RINGING)
def test_who_is_awake_is_not_rung(pair: Pair, policy: Policy) -> None:
    waiter = pair.waiter(policy)
    pair.waker(policy).published(0)
    assert waiter.arm()
    waiter.disarm()
    pair.waker(policy).published(0)
    assert pair.links[1].rung == []


@pytest.mark.parametrize("policy", RINGING)
def test_a_message_that_came_before_the_sleep_prevents_it(pair: Pair, policy: Policy) -> None:
    pair.sender.send(VOTE)
    assert not pair.waiter(policy).arm()
    assert not pair.segment.nodes[0].waiting


@pytest.mark.parametrize("policy", RINGING)
def test_a_message_that_comes_while_the_waiting_word_is_set_prevents_the_sleep(
    pair: Pair, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sender looked at the waiting word just before it was set, and will not ring.
    at_the_fence(monkeypatch, lambda: pair.sender.send(VOTE))
    assert not pair.waiter(policy).arm()


@pytest.mark.parametrize("policy", RINGING)
def test_a_sleeper_that_sets_its_word_while_a_message_is_published_is_rung(
    pair: Pair, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The sleeper looked at its rings just before the message came; it has set the word by the time of our fence.
    waker = pair.waker(policy)
    pair.sender.send(VOTE)
    word = pair.segment.nodes[0].waiting_word
    at_the_fence(monkeypatch, lambda: pair.segment.words.__setitem__(word, 1))
    waker.published(0)
    assert pair.links[1].rung == [40]


def test_polling_neither_rings_nor_lets_itself_be_rung(pair: Pair) -> None:
    assert not pair.waiter(Policy.POLL).arm()
    assert not pair.segment.nodes[0].waiting
    pair.waker(Policy.POLL).published(0)
    assert pair.links[1].rung == []


def test_a_sleeper_without_a_doorbell_is_an_error_and_not_an_endless_wait(pair: Pair) -> None:
    format_segment(pair.segment.memory, 2)
    pair.segment.words[pair.segment.nodes[0].waiting_word] = 1
    with pytest.raises(SegmentError, match="kernel 0 sleeps but has published no doorbell"):
        pair.waker(Policy.INTERRUPT).published(0)


@pytest.mark.parametrize("policy", Policy)
def test_waiting_ends_at_once_when_a_message_is_there(pair: Pair, policy: Policy) -> None:
    pair.sender.send(VOTE)
    assert pair.waiter(policy).wait(1e6) == []
    assert pair.receiver.pending()


@pytest.mark.parametrize("policy", Policy)
def test_waiting_ends_at_its_time(pair: Pair, policy: Policy) -> None:
    assert pair.waiter(policy).wait(0.001) == []
    assert not pair.segment.nodes[0].waiting


@pytest.mark.parametrize("policy", Policy)
def test_waiting_ends_with_a_watched_descriptor_and_names_it(pair: Pair, policy: Policy) -> None:
    waiter = pair.waiter(policy)
    other = os.eventfd(1)
    waiter.watch(other)
    assert waiter.wait(1e6) == [other]
    waiter.unwatch(other)
    assert waiter.wait(0.0) == []
    os.close(other)


def test_a_doorbell_for_a_message_already_handled_does_not_end_the_wait(pair: Pair) -> None:
    os.eventfd_write(pair.links[0].bell, 1)
    assert pair.waiter(Policy.INTERRUPT).wait(0.001) == []
    assert pair.segment.nodes[0].sleeps == 2


def test_a_doorbell_wakes_again_though_nobody_read_the_first_one_away(pair: Pair) -> None:
    waiter = pair.waiter(Policy.INTERRUPT)
    for number in range(3):
        os.eventfd_write(pair.links[0].bell, 1)
        sleeps = pair.segment.nodes[0].sleeps
        assert waiter.wait(0.001) == []
        assert pair.segment.nodes[0].sleeps == sleeps + 2, f"ring {number} was not heard"
