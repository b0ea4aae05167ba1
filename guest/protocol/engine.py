"""What a coherency protocol looks like from outside: the daemon, the simulator and the checker know only this."""

from collections.abc import Hashable, Iterable
from typing import Protocol, Self

from guest.errors import GuestFailure
from guest.protocol.effects import Effect
from guest.protocol.messages import Message
from guest.protocol.table import State


class ProtocolError(GuestFailure):
    """Something arrived that the protocol rules out: a fault of a peer, of the transport, or of the protocol."""

    kind = "protocol"


class Engine(Protocol):
    """One kernel's side of a protocol, for all pages of one region.

    Pure: no clock, no randomness, no I/O. Every event returns effects, which must all be carried out, in order, before
    the next event. Pages are numbered from 0; kernels have the ids that the ring and the copyset masks use.
    """

    def __init__(self, kernel: int, kernels: Iterable[int], pages: int, home: int | None = None) -> None:
        """`kernels` is the kernel set; others may join it. `home` is the lowest of them if not said otherwise."""

    @property
    def epoch(self) -> int:
        """Number of address-space operations applied here."""
        ...

    def fault(self, page: int, write: bool) -> list[Effect]:
        """A local thread cannot access the page. Further faults while it is in flight only add what is wanted."""
        ...

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """One message of another kernel. Raises ProtocolError on a message that no state of the protocol allows."""
        ...

    def abandon(self, page: int) -> list[Effect]:
        """No local thread waits for the page any more (its process died)."""
        ...

    def peer_down(self, kernel: int) -> list[Effect]:
        """The kernel died. Whatever of it still arrives is ignored."""
        ...

    def peer_up(self, kernel: int) -> list[Effect]:
        """The kernel is there again, with nothing mapped.

        Told to every member before the newcomer's first fault, and only once all have heard of its death. The newcomer
        hears it of itself, after the deaths of those who are dead now.
        """
        ...

    def peer_joined(self, kernel: int) -> None:
        """The kernel is in the kernel set from now on; it never had anything. Nothing happens if it has died since.

        Told to every member before the newcomer's first fault; the newcomer hears it of all of them.
        """
        ...

    def enter_epoch(self, epoch: int) -> list[Effect]:
        """An address-space operation was applied; requests that waited for it are answered now."""
        ...

    def forget(self, pages: range) -> None:
        """The pages were unmapped, everywhere in this epoch: they are as if never touched. None of them is pending."""
        ...

    def move(self, pages: range, to: int) -> None:
        """The pages have other numbers now, the first one `to`; they are unmapped. None of them is pending."""
        ...

    def copy(self, pages: range, to: int) -> None:
        """There are copies of the pages, the first one numbered `to`: all that is known of a page holds for its copy.
        None of them is pending."""
        ...

    @property
    def origin(self) -> int | None:
        """The kernel without which no page can be had that is not here already; None if there is no such kernel."""
        ...

    def state(self, page: int) -> State:
        """State of the page here."""
        ...

    def pending(self, page: int) -> bool:
        """Whether messages of this page's own fault are in flight: it did not end within the call that reported it."""
        ...

    def freeze(self) -> Hashable:
        """The whole state as a value: equal values behave equally for ever."""
        ...

    def thaw(self, frozen: Hashable) -> Self:
        """Take on a state that `freeze` gave (of the same kernel and region size); returns the engine itself."""
        ...
