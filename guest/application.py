"""A program's side of coherent memory: attach once, then only load and store.

`attach` is all that an application calls. What it returns is ordinary memory, at the same address in every process of
every kernel; page faults bring the pages in. `run_thread` runs one thread of a workload over such a memory.
"""

import json
from mmap import mmap
from os import close
from socket import recv_fds, send_fds, socket
from typing import Any, NamedTuple

from guest import workloads
from guest.lost_pages import survive_lost_pages
from guest.region import BASE, map_shared
from guest.samples import AccessLog
from guest.userfaultfd import Userfaultfd
from guest.workloads import Place
from guest.workloads.workload import Gone

# First byte of what daemon and application say to each other, over a socket that keeps the packets apart.
MEMORY = b"M"
"""Daemon: size and offset of the memory, size and offset of the meeting (bytes, decimal), and their descriptors."""
BARE_MEMORY = b"S"
"""Daemon instead of that, with the same words: the memory is a part of the segment that nobody keeps coherent."""
FAULTS = b"U"
"""Application: its userfaultfd, with the memory registered."""
REGISTERED = b"K"
"""Daemon: faults will be served from now on."""
ACCESSES = b"L"
"""Application: the descriptor of its access log."""
BARRIER = b"B"
"""Application: this thread is at the next barrier."""
RELEASED = b"R"
"""Daemon: every living thread is at the barrier; JSON of the threads that have died, nothing if there are none."""
FINISHED = b"F"
"""Application: done; JSON of {wrong, mismatches}."""
FAILED = b"E"
"""Application: the workload raised an exception; JSON of {kind, message}."""

PACKET_BYTES = 1 << 16


class Detached(Exception):
    """The daemon is gone, or is ending the run."""


class Attached(NamedTuple):
    """What a program has once it is attached."""

    memory: memoryview
    """The shared memory, mapped at `guest.region.BASE`."""
    meeting: memoryview
    """Raw memory of the segment, for threads to meet in; empty, unless the workload wants it."""


def attach(daemon: socket) -> Attached:
    """Map what the daemon offers. Raises Detached, RegionError or UserfaultfdError."""
    offer, fds, _, _ = recv_fds(daemon, PACKET_BYTES, 2)
    if not offer:
        raise Detached
    size_bytes, offset, meeting_bytes, meeting_offset = (int(number) for number in offer[1:].split())
    memory_fd, meeting_fd = fds
    attached = Attached(
        map_shared(memory_fd, size_bytes, offset=offset),
        memoryview(mmap(meeting_fd, meeting_bytes, offset=meeting_offset) if meeting_bytes else b""),
    )
    for fd in fds:
        close(fd)
    if offer[:1] == BARE_MEMORY:
        return attached
    faults = Userfaultfd()
    faults.register(BASE, size_bytes)
    # The descriptor stays open here too: should the daemon die, a fault then blocks until this process is killed as
    # well. If the daemon's were the last one, the kernel would let go of the range, and a fault would read zeros.
    send_fds(daemon, [FAULTS], [faults.fd])
    _expect(daemon, REGISTERED)
    return attached


def run_thread(daemon: socket, thread: dict[str, Any]) -> None:
    """One thread of a workload: `thread` has the fields workload, kernel, thread, roles."""
    workload = workloads.parse(thread["workload"])
    roles = tuple(tuple(names) for names in thread["roles"])
    log = AccessLog()
    try:
        memory, meeting = attach(daemon)
        place = Place(thread["kernel"], thread["thread"], roles, meeting)
        send_fds(daemon, [ACCESSES], [log.fd])
        survive_lost_pages(BASE, memory.nbytes, log.lost_pages.add)

        def barrier() -> Gone:
            daemon.send(BARRIER)
            gone = _expect(daemon, RELEASED)
            return frozenset((kernel, number) for kernel, number in json.loads(gone)) if gone else frozenset()

        barrier()  # nobody begins before everybody is attached
        wrong, mismatches = workload.run(memory, place, barrier, log)
        found = [mismatch._asdict() for mismatch in mismatches]
        daemon.send(FINISHED + json.dumps({"wrong": wrong, "mismatches": found}).encode())
        daemon.recv(1)  # end when the daemon closes the socket: it still has the access log to read
    except (Detached, ConnectionError):
        return
    except Exception as error:
        daemon.send(FAILED + json.dumps({"kind": type(error).__name__, "message": str(error)}).encode())
        raise


def _expect(daemon: socket, kind: bytes) -> bytes:
    packet = daemon.recv(PACKET_BYTES)
    if packet[:1] != kind:
        raise Detached
    return packet[1:]
