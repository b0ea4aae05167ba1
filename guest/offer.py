"""What a daemon offers its applications as their memory: the coherent region, or bare memory of the segment.

Bare memory is the control of an experiment: the same programs on memory that no protocol keeps coherent, so that what
processors and emulators do can be told from what the protocol does. It lies behind the last ring, where the segment
holds nothing.
"""

from typing import NamedTuple

from guest import application
from guest.commands import CommandError
from guest.link import Link
from guest.region import Region
from guest.segment import PAGE_BYTES, Layout


class Offer(NamedTuple):
    """Memory for an application to map."""

    packet: bytes
    """What the application is told."""
    memory_fd: int

    @classmethod
    def coherent(cls, region: Region) -> "Offer":
        """The region; the daemon will serve its page faults."""
        return cls(application.MEMORY + b"%d 0" % region.size_bytes, region.memory_fd)

    @classmethod
    def bare(cls, link: Link, layout: Layout, kernel: int, pages: int) -> "Offer":
        """Zeroed memory of the segment, the same on every kernel. Raises CommandError when there is too little."""
        start, size_bytes = layout.size_bytes, pages * PAGE_BYTES
        if start + size_bytes > link.memory.nbytes:
            raise CommandError(
                f"{size_bytes} bytes of bare memory, the link has {link.memory.nbytes - start} behind its last ring",
                "make the link larger or the workload smaller",
            )
        memory_fd, base = link.mappable
        if kernel == 0:  # before it reaches the first barrier, which everyone waits for
            link.memory[start : start + size_bytes] = bytes(size_bytes)
        return cls(application.BARE_MEMORY + b"%d %d" % (size_bytes, base + start), memory_fd)
