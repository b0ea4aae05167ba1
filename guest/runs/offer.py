"""What a daemon offers its applications as their memory: the coherent region, or raw memory of the segment.

Raw memory is the control of an experiment: the same programs on memory that no protocol keeps coherent, so that what
processors and emulators do can be told from what the protocol does. It is also where threads meet that want to race on
coherent memory. It lies behind the last ring, where the segment holds nothing.
"""

from typing import NamedTuple

from guest.commands import CommandError
from guest.link.link import Link
from guest.link.segment import PAGE_BYTES, Layout
from guest.memory.region import Region
from guest.programs import application


class RawMemory(NamedTuple):
    """A part of the segment, as another process can map it."""

    fd: int
    offset: int
    size_bytes: int


class Spare:
    """The segment's memory behind the last ring, to be given away in parts. The same on every kernel."""

    def __init__(self, link: Link, layout: Layout, kernel: int) -> None:
        self._link = link
        self._next = layout.size_bytes
        self._zeroes = kernel == 0

    def take(self, size_bytes: int) -> RawMemory:
        """The next part, in whole pages, zeroed. Raises CommandError when there is too little."""
        start, size_bytes = self._next, -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        left = self._link.memory.nbytes - start
        if size_bytes > left:
            raise CommandError(
                f"{size_bytes} bytes of raw memory, the link has {left} left behind its last ring",
                "make the link larger or the workload smaller",
            )
        self._next += size_bytes
        if self._zeroes:  # before this kernel reaches the first barrier, which everyone waits for
            self._link.memory[start : start + size_bytes] = bytes(size_bytes)
        fd, base = self._link.mappable
        return RawMemory(fd, base + start, size_bytes)


class Offer(NamedTuple):
    """Memory for an application to map."""

    packet: bytes
    """What the application is told."""
    memory_fds: tuple[int, ...]
    """Of the memory, and of the meeting."""

    @classmethod
    def coherent(
        cls, region: Region, meeting: RawMemory | None = None, *, maps: bool = False, space: int = 0
    ) -> "Offer":
        """The region, or of several address spaces in it the one of that number; the daemon will serve its page faults.
        `maps`: threads may change the address space."""
        size_bytes = region.span * PAGE_BYTES
        memory = RawMemory(region.memory_fd, space * size_bytes, size_bytes)
        return cls._of(application.MEMORY, memory, meeting, maps)

    @classmethod
    def bare(cls, memory: RawMemory, meeting: RawMemory | None = None) -> "Offer":
        """Raw memory; there will be no page faults."""
        return cls._of(application.BARE_MEMORY, memory, meeting)

    @classmethod
    def _of(cls, kind: bytes, memory: RawMemory, meeting: RawMemory | None, maps: bool = False) -> "Offer":
        parts = [memory, meeting or RawMemory(memory.fd, 0, 0)]
        words = " ".join(f"{part.size_bytes} {part.offset}" for part in parts) + f" {maps:d}"
        return cls(kind + words.encode(), tuple(part.fd for part in parts))
