"""Where a thread of an application runs: its words are in the coherent memory, and its daemon lets it sleep."""

from collections.abc import Collection
from socket import socket

from guest.link.segment import PAGE_BYTES
from guest.memory.atomic import atomics
from guest.memory.region import BASE
from guest.synchronization import WaitBroken

# First byte of what daemon and application say to each other about waits, as in `guest.programs.application`.
WAIT = b"W"
"""Application: this thread waits until a word has reached a value: address and value, decimal."""
QUEUED = b"Q"
"""Daemon: it is queued, and the thread looks once more."""
CANCEL = b"C"
"""Application: this thread need not wait. WOKEN or LOST follows all the same."""
WOKEN = b"V"
"""Daemon: the wait is over."""
LOST = b"X"
"""Daemon: the wait is over, since a kernel has died: its number, decimal."""
WAKE = b"N"
"""Application: a word has reached a value: address and value, decimal."""

_PACKET_BYTES = 64


class Detached(Exception):
    """The daemon is gone, or is ending the run."""


class CoherentSurroundings:
    """What `guest.synchronization` needs. Words are loaded and added to without anybody; the socket is for waits."""

    def __init__(self, daemon: socket, lost_pages: Collection[int]) -> None:
        """`lost_pages`: those that this process has found to be lost so far, and has zeros of its own in place of."""
        self._daemon, self._lost_pages = daemon, lost_pages
        self._atomic = atomics()

    def load(self, address: int) -> int:
        """See `Surroundings`. Raises WaitBroken where the word is lost, as the next two do."""
        word = self._atomic.load(address)
        if self._lost_pages:
            self._expect_there(address)
        return word

    def fetch_add(self, address: int, number: int) -> int:
        """See `Surroundings`."""
        word = self._atomic.fetch_add(address, number)
        if self._lost_pages:
            self._expect_there(address)
        return word

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """See `Surroundings`."""
        exchanged = self._atomic.compare_exchange(address, expected, new)
        if self._lost_pages:
            self._expect_there(address)
        return exchanged

    def _expect_there(self, address: int) -> None:
        page = (address - BASE) // PAGE_BYTES
        if page in self._lost_pages:
            raise WaitBroken(
                f"the word at {address:#x} is lost: a kernel died with the only valid copy of page {page}",
                "what is in that page cannot be synchronised with any more",
            )

    def queue(self, address: int, value: int) -> None:
        """See `Surroundings`."""
        self._daemon.send(WAIT + b"%d %d" % (address, value))
        self._expect(QUEUED)

    def cancel(self) -> None:
        """See `Surroundings`. Whatever has come of the wait meanwhile is read here, and is not found later."""
        self._daemon.send(CANCEL)
        self._answer()

    def await_wake(self) -> None:
        """See `Surroundings`."""
        self._expect(WOKEN)

    def wake(self, address: int, value: int) -> None:
        """See `Surroundings`."""
        self._daemon.send(WAKE + b"%d %d" % (address, value))

    def _expect(self, kind: bytes) -> None:
        packet = self._answer()
        if packet[:1] == LOST:
            raise WaitBroken(
                f"kernel {packet[1:].decode()} died, and what this thread waits for may have died with it",
                "who catches WaitBroken can go on with what does not need that kernel",
            )
        if packet[:1] != kind:
            raise Detached

    def _answer(self) -> bytes:
        packet = self._daemon.recv(_PACKET_BYTES)
        if not packet:
            raise Detached
        return packet
