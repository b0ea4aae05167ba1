"""Effects become memory operations and messages, in an order that nobody else can see into."""

import pytest

from guest.daemon.carrier import Carrier
from guest.daemon.outbox import Outbox
from guest.errors import RegionError
from guest.link.notify import Notifier
from guest.link.ring import Receiver, Sender
from guest.link.segment import PAGE_BYTES, Layout, address_of, format_segment
from guest.memory.faults import FaultsInFlight
from guest.memory.region import Region
from guest.protocol.address_space import Refusal
from guest.protocol.effects import Duplicate, Protect, Send, SpaceDone
from guest.protocol.messages import Message, MessageName

PAGE = memoryview(bytearray(b"\x5a" * PAGE_BYTES))


class Bell(Notifier):
    """Nobody listens: the receiver is looked at by hand."""

    def __init__(self) -> None:
        pass

    def published(self, peer: int) -> None:
        """Nothing."""


@pytest.mark.parametrize("discard", [False, True])
def test_a_page_is_sent_with_its_bytes_and_kept_or_dropped(discard: bool) -> None:
    segment = format_segment(memoryview(bytearray(Layout(kernels=2, ring_slots=64, page_slots=4).size_bytes)), 2)
    region = Region(2)
    carrier = Carrier(region, [Outbox(Sender(segment, 0, 1), region.read_out)], Bell(), FaultsInFlight(lambda _: None))
    receiver = Receiver(segment, 0, 1)
    region.install(1, address_of(PAGE), writable=True, wake=False)
    carrier.carry_out([Protect(1), Send(1, Message(MessageName.PAGE_DATA, 1), discard)])
    message = receiver.receive()
    assert message is not None
    assert receiver.payload(message) == PAGE
    here = memoryview(bytearray(PAGE_BYTES))
    if discard:
        with pytest.raises(RegionError, match="page 1 was to be read out, but is absent"):
            region.read_out(1, here)
    else:
        region.read_out(1, here)
        assert here == PAGE
    region.close()


def test_what_follows_from_news_is_sent_after_all_that_belongs_to_the_same_event() -> None:
    segment = format_segment(memoryview(bytearray(Layout(kernels=2, ring_slots=64, page_slots=4).size_bytes)), 2)
    region = Region(4, 2)
    carrier = Carrier(region, [Outbox(Sender(segment, 0, 1), region.read_out)], Bell(), FaultsInFlight(lambda _: None))
    receiver = Receiver(segment, 0, 1)
    told: list[str] = []

    def answer(_: object) -> None:
        told.append("done")
        carrier.send_with(1, Message(MessageName.PROCESS_FORKED), b"")

    carrier.on_copy = lambda _: told.append("copied")
    carrier.on_space_done = answer
    next_operation = Send(1, Message(MessageName.SPACE_LOCK))
    carrier.carry_out([Duplicate(0, 2, 2, 0, 1), SpaceDone(1, Refusal.NONE, 1, 2), next_operation])
    assert told == ["copied", "done"]
    names = [message.name for message in (receiver.receive(), receiver.receive()) if message is not None]
    assert names == [MessageName.SPACE_LOCK, MessageName.PROCESS_FORKED]
    region.close()
