"""A program's side of coherent memory: attach once, then only load and store.

`attach` is all that an application calls. What it returns is ordinary memory, at the same address in every process of
every kernel; page faults bring the pages in. `run_thread` runs one thread of a workload over such a memory.
"""

import faulthandler
import json
import sys
from collections.abc import Callable, Collection, Iterable
from ctypes import CDLL, c_size_t, c_void_p
from functools import partial
from io import FileIO, TextIOWrapper
from mmap import MADV_DONTFORK, mmap
from os import _exit, close, dup2, memfd_create, register_at_fork
from socket import recv_fds, send_fds, socket
from typing import Any, NamedTuple

from guest import workloads
from guest.errors import GuestFailure, RegionError
from guest.memory.protection import serve_protection
from guest.memory.region import BASE, map_shared
from guest.memory.samples import AccessLog
from guest.memory.userfaultfd import Userfaultfd
from guest.programs.lost_pages import survive_lost_pages
from guest.programs.surroundings import CoherentSurroundings, Detached
from guest.protocol.address_space import Operation, Refusal
from guest.synchronization import surround
from guest.workloads import Distributed, Native, Place, Script
from guest.workloads.workload import Gone

# First byte of what daemon and application say to each other, over a socket that keeps the packets apart. What they say
# about waits is in `guest.programs.surroundings`.
MEMORY = b"M"
"""Daemon: size and offset of the memory, size and offset of the meeting (bytes, decimal), whether threads may change
the address space (0 or 1), and the descriptors of memory and meeting."""
BARE_MEMORY = b"S"
"""Daemon instead of that, with the same words: the memory is a part of the segment that nobody keeps coherent."""
FAULTS = b"U"
"""Application: its userfaultfd, with the memory registered; and, where threads may change the address space, the socket
of the thread that protects its memory (see `guest.memory.protection`)."""
REGISTERED = b"K"
"""Daemon: faults will be served from now on."""
ACCESSES = b"L"
"""Application: the descriptor of its access log."""
BARRIER = b"B"
"""Application: this thread is at the next barrier."""
RELEASED = b"R"
"""Daemon: every living thread is at the barrier; JSON of the threads that have died, nothing if there are none."""
OPERATE = b"A"
"""Application: an operation on the address space is wanted: the fields of `Operation`, decimal."""
OPERATED = b"D"
"""Daemon: what came of it, a `Refusal`, decimal."""
FINISHED = b"F"
"""Application: done; JSON of {wrong, mismatches, figures}."""
FAILED = b"E"
"""Application: the workload raised an exception; JSON of {kind, message}."""
OUTPUT = b"O"
"""Application: the descriptor of what it says on standard output and standard error."""
CHECKS = ("AssertionError", "ExitStatus")
"""Kinds of FAILED by which a program says that it has seen something wrong, not that it is broken."""

PACKET_BYTES = 1 << 16
MESSAGE_CHARACTERS = 4096
"""Of an error's text; JSON may need twelve bytes for one, and all of it has to fit into a packet."""


class Attached(NamedTuple):
    """What a program has once it is attached."""

    memory: memoryview
    """The shared memory, mapped at `guest.memory.region.BASE`."""
    meeting: memoryview
    """Raw memory of the segment, for threads to meet in; empty, unless the workload wants it."""
    operate: Callable[[Operation], Refusal]
    """Do something to the address space, on all kernels; returns when it is done everywhere, or refused."""


def attach(daemon: socket, lost_pages: Collection[int]) -> Attached:
    """Map what the daemon offers; `lost_pages` are those that this process knows to be lost, now and later. Raises
    Detached, RegionError or UserfaultfdError."""
    offer, fds, _, _ = recv_fds(daemon, PACKET_BYTES, 2)
    if not offer:
        raise Detached
    size_bytes, offset, meeting_bytes, meeting_offset, maps = (int(number) for number in offer[1:].split())
    memory_fd, meeting_fd = fds
    attached = Attached(
        map_shared(memory_fd, size_bytes, offset=offset),
        memoryview(mmap(meeting_fd, meeting_bytes, offset=meeting_offset) if meeting_bytes else b""),
        partial(_operate, daemon) if maps else _fixed,
    )
    for fd in fds:
        close(fd)
    if offer[:1] == BARE_MEMORY:
        return attached
    faults = Userfaultfd()
    faults.register(BASE, size_bytes)
    # Nobody would serve the faults of a copy of this process: it would find zeros, and share them with everybody here.
    CDLL(None).madvise(c_void_p(BASE), c_size_t(size_bytes), MADV_DONTFORK)
    # The descriptor stays open here too: should the daemon die, a fault then blocks until this process is killed as
    # well. If the daemon's were the last one, the kernel would let go of the range, and a fault would read zeros.
    if maps:
        with serve_protection() as protection:
            send_fds(daemon, [FAULTS], [faults.fd, protection.fileno()])
    else:
        send_fds(daemon, [FAULTS], [faults.fd])
    _expect(daemon, REGISTERED)
    surround(CoherentSurroundings(daemon, lost_pages))
    return attached


def _operate(daemon: socket, operation: Operation) -> Refusal:
    daemon.send(OPERATE + " ".join(f"{field:d}" for field in operation).encode())
    return Refusal(int(_expect(daemon, OPERATED)))


def _fixed(operation: Operation) -> Refusal:
    raise RegionError(f"{operation}: this memory is mapped once and for all", "is it coherent memory?")


class CameBack(GuestFailure):
    """A copy of the process, made by fork(2), goes on as if it was the thread itself."""


copied: list[bool] = []
"""True in a copy of this process that the program has made, and empty in the process itself."""


def know_copies() -> None:
    """From now on `copied` tells."""
    register_at_fork(after_in_child=lambda: copied.append(True))


def end_copies(daemon: socket, called: str, raised: BaseException | None = None) -> None:
    """Return, unless this is a copy: it has come back from what is called so, and the run fails."""
    if copied:
        error = CameBack(
            f"a process that was made by os.fork has come back from {called}, as if it were the thread"
            + (f", with {type(raised).__name__}: {raised}" if raised else ""),
            "end it with os._exit; for a process with a copy of the memory there is `process.fork`",
        )
        daemon.send(FAILED + told_of(error, ()))
        _exit(1)


def run_thread(daemon: socket, thread: dict[str, Any], program_fd: int | None = None) -> None:
    """One thread of a workload: `thread` has the fields workload, kernel, thread, roles.

    `program_fd` is the file of a workload that is a program of the user's.
    """
    workload = workloads.parse(thread["workload"])
    assert not isinstance(workload, Distributed), "a worker runs the threads of a process"
    roles = tuple(tuple(names) for names in thread["roles"])
    log = AccessLog()
    name = str(thread["workload"].get("file", "")).rpartition("/")[2]
    try:
        place = Place(thread["kernel"], thread["thread"], roles)
        if program_fd is not None:
            redirect_output(daemon)
            assert isinstance(workload, Script | Native), "a program was given to a workload that is none"
            workload.take(program_fd, name, daemon, place)
        memory, meeting, operate = attach(daemon, log.lost_pages)
        place = place._replace(meeting=meeting, operate=operate)
        send_fds(daemon, [ACCESSES], [log.fd])
        survive_lost_pages(BASE, memory.nbytes, log.lost_pages.add)

        def barrier() -> Gone:
            daemon.send(BARRIER)
            gone = _expect(daemon, RELEASED)
            return frozenset((kernel, number) for kernel, number in json.loads(gone)) if gone else frozenset()

        barrier()  # nobody begins before everybody is attached
        know_copies()
        wrong, mismatches = workload.run(memory, place, barrier, log)
        end_copies(daemon, "its function")
        found = [mismatch._asdict() for mismatch in mismatches]
        daemon.send(FINISHED + json.dumps({"wrong": wrong, "mismatches": found, "figures": log.figures}).encode())
        daemon.recv(1)  # end when the daemon closes the socket: it still has the access log to read
    except (Detached, ConnectionError):
        return
    except BaseException as error:
        end_copies(daemon, "its function", error)
        if program_fd is not None:
            show(error, name)  # before the daemon looks at what was said
        daemon.send(FAILED + told_of(error, log.lost_pages))
        if program_fd is None:
            raise


def told_of(error: BaseException, lost_pages: Iterable[int]) -> bytes:
    """What a FAILED says: the error, and the pages that were lost to whoever made it."""
    try:
        message = str(error)
    except BaseException as another:  # noqa: BLE001 - it is the program's
        message = f"(its text cannot be had: {type(another).__name__})"
    if isinstance(error, SystemExit | KeyboardInterrupt):
        message = f"{message or 'it has no text'}; a program must not end its process"
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[:MESSAGE_CHARACTERS]} … ({len(message)} characters)"
    message = message.encode(errors="backslashreplace").decode()  # names of files can hold what no text may
    fields = {"kind": type(error).__name__, "message": message, "lost_pages": sorted(lost_pages)}
    return json.dumps(fields).encode()


def show(error: BaseException, script: str) -> None:
    """Say what went wrong, from the script's own lines on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def redirect_output(daemon: socket) -> None:
    """What a program says goes where the daemon can read it, whatever becomes of the program."""
    faulthandler.enable(2)  # a thread that touches what is not mapped shows the line where it did
    output_fd = memfd_create("output")
    for standard in (1, 2):
        dup2(output_fd, standard)
    # Nothing waits in a buffer: the process may be killed at any time.
    sys.stdout = TextIOWrapper(FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    send_fds(daemon, [OUTPUT], [output_fd])
    close(output_fd)


def _expect(daemon: socket, kind: bytes) -> bytes:
    packet = daemon.recv(PACKET_BYTES)
    if packet[:1] != kind:
        raise Detached
    return packet[1:]
