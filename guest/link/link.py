"""What joins the kernels: memory that all of them map, and a doorbell for each. Devices give it, daemons use it."""

from typing import Protocol


class Link(Protocol):
    """One kernel's end of a link. Everything is ready to use from construction to `close`."""

    @property
    def memory(self) -> memoryview:
        """The whole shared memory, writable, as bytes."""

    @property
    def mappable(self) -> tuple[int, int]:
        """A descriptor, and the offset in it, by which another process can map the memory."""

    @property
    def address(self) -> int:
        """Where `memory` begins in this process."""

    @property
    def peer(self) -> int:
        """The id under which the others ring this kernel; to be published in the node table."""

    @property
    def doorbell_fds(self) -> tuple[int, ...]:
        """Eventfds that become readable when this kernel is rung."""

    def ring(self, peer: int) -> None:
        """Ring the kernel whose link has this `peer` id. Ringing one that has left does nothing."""

    def drain(self) -> None:
        """Make `doorbell_fds` unreadable until the next ring. Never blocks."""

    def close(self) -> None:
        """Give the device and the memory back. Views of `memory` must not be used afterwards."""
