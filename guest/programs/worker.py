"""A process of the operating system that runs threads of a distributed process, one at a time.

It is forked and attached before it is needed, and waits: in the pool for any thread, as a placeholder for the one that
it ran before. What it and its daemon say to each other is below, beside what all applications say
(`guest.programs.application`). The daemon says nothing to a worker that has not asked, unless that waits.
"""

import json
import sys
import types
from socket import AF_UNIX, SOCK_SEQPACKET, send_fds, socket, socketpair
from struct import Struct
from time import monotonic_ns
from typing import Any, SupportsFloat

from guest import process as distributed
from guest.memory.mapping import REFUSED
from guest.memory.region import BASE
from guest.memory.samples import AccessLog, reported
from guest.programs.application import (
    ACCESSES,
    FAILED,
    PACKET_BYTES,
    Attached,
    attach,
    copied,
    end_copies,
    know_copies,
    redirect_output,
    show,
    told_of,
)
from guest.programs.lost_pages import survive_lost_pages
from guest.programs.surroundings import Detached
from guest.protocol.address_space import Operation, Refusal
from guest.protocol.thread_effects import Life
from guest.synchronization import WaitBroken
from guest.workloads.distributed import Distributed

RUN = b"g"
"""Daemon: run the thread of this number (`NUMBER`), which has this state."""
MIGRATE = b"m"
"""Worker: the thread is at a migration point and wants to go: the kernel (`NUMBER`) and its state."""
STAY = b"s"
"""Daemon: it stays; why, in words, nothing if it is there already."""
PARKED = b"p"
"""Daemon: it is gone, and this is its placeholder, until the next RUN."""
START = b"n"
"""Worker: a thread begins: its number, where (`NUMBER` each; `ANYWHERE`: where placement wants it), and its state."""
STARTED = b"b"
"""Daemon: it has begun, as far as this kernel is concerned."""
WATCH = b"l"
"""Worker: what has become of a thread: its number, where it began (`NUMBER` each), and 1 byte: whether it is waited
for until it is no more."""
FATE = b"i"
"""Daemon: a `Life` (1 byte), in words which kernels have died, a zero, and the thread's result if that is known."""
ASK = b"a"
"""Worker: the thread is at a migration point, and has no wish of its own."""
ADVICE = b"w"
"""Daemon: where placement wants it to be (`NUMBER`), which may be here."""
READY = b"r"
"""Worker: it is attached, has done all that can be done without a thread, and is in the pool."""
EXITED = b"x"
"""Worker: the thread has ended, with this result (pickled): this worker is in the pool again."""
FORK = b"k"
"""Worker: a process is to begin with a copy of the memory, at a kernel (`NUMBER`), with a thread (its state)."""
FORKED = b"c"
"""Daemon: its number (`NUMBER`), then why not, in words, if there is none."""
AWAIT = b"j"
"""Worker: say whether the process of that number (`NUMBER`) goes on; 1 if only when it does not any more."""
ENDED = b"e"
"""Daemon: its `Life` (a byte), and its home (`NUMBER`)."""
FIGURE = b"f"
"""Worker: a number is reported; JSON of [name, number]."""
EXIT_GROUP = b"q"
"""Worker: the whole process ends."""
NUMBER = Struct("<Q")
ANYWHERE = 2**64 - 1
ASK_NS = 5_000_000
"""A thread's steps may take microseconds, and asking costs as much as a fault: it is asked after a step only if so much
time has passed since it last was."""


def with_length(state: bytes) -> bytes:
    """A state as it travels in a page slot."""
    return NUMBER.pack(len(state)) + state


def without_length(payload: memoryview) -> bytes:
    """The state that came in a page slot."""
    (size,) = NUMBER.unpack_from(payload)
    return bytes(payload[NUMBER.size : NUMBER.size + size])


class _Daemon:
    """See `guest.process.Daemon`."""

    def __init__(self, connection: socket, attached: Attached) -> None:
        self._connection, self._attached = connection, attached

    def start(self, number: int, state: bytes, to: int | None) -> None:
        where = ANYWHERE if to is None else to
        self._connection.send(START + NUMBER.pack(number) + NUMBER.pack(where) + state)
        _receive(self._connection, STARTED)

    def watch(self, thread: int, began: int, *, until_gone: bool) -> tuple[Life, str, bytes]:
        self._connection.send(WATCH + NUMBER.pack(thread) + NUMBER.pack(began) + bytes((until_gone,)))
        answer = bytes(_receive(self._connection, FATE))
        dead, _, result = answer[1:].partition(b"\0")
        return Life(answer[0]), dead.decode(), result

    def operate(self, operation: Operation) -> Refusal:
        return self._attached.operate(operation)

    def fork(self, state: bytes, to: int) -> int:
        self._connection.send(FORK + NUMBER.pack(to) + state)
        answer = _receive(self._connection, FORKED)
        if len(answer) > NUMBER.size:
            why = bytes(answer[NUMBER.size :]).decode()
            hint = ""
            if why == REFUSED[Refusal.NO_ROOM]:
                hint = "`processes` of the workload says how many there may be, and `join` waits for the end of one"
            raise distributed.ForkFailed(f"no process at kernel {to}: {why}", hint)
        (number,) = NUMBER.unpack_from(answer)
        return int(number)

    def goes_on(self, process: int, *, until_ended: bool) -> bool:
        self._connection.send(AWAIT + NUMBER.pack(process) + bytes((until_ended,)))
        answer = _receive(self._connection, ENDED)
        if answer[0] == Life.UNKNOWN:
            raise WaitBroken(
                f"kernel {NUMBER.unpack_from(answer, 1)[0]} died, the home of process {process}, and nobody else can "
                "say when it has ended",
                "who catches WaitBroken can go on with what does not need that kernel",
            )
        return answer[0] == Life.ALIVE

    def figure(self, name: str, value: SupportsFloat) -> None:
        self._connection.send(FIGURE + json.dumps([name, reported(name, value)]).encode())

    def exit_group(self) -> None:
        self._connection.send(EXIT_GROUP)
        self._connection.recv(1)  # the daemon ends this process
        raise Detached


def run_worker(daemon: socket, place: dict[str, Any], program_fd: int) -> None:
    """Be a worker until the daemon ends it: `place` has the fields workload, kernel, kernels."""
    name = str(place["workload"]["file"]).rpartition("/")[2]
    log = AccessLog()
    try:
        redirect_output(daemon)
        workload = Distributed.parse(place["workload"])
        _load(program_fd, name, workload)
        attached = attach(daemon, log.lost_pages)
        send_fds(daemon, [ACCESSES], [log.fd])
        survive_lost_pages(BASE, attached.memory.nbytes, log.lost_pages.add)
        process = distributed.Process(
            attached.memory,
            place["kernel"],
            place["kernels"],
            place["workload"],
            _Daemon(daemon, attached),
            place["process"],
        )
        distributed.enter(process)
        _rehearse(process)
        know_copies()
        daemon.send(READY)
        while True:
            _host(daemon, process, workload.policy.asks)
    except (Detached, ConnectionError):
        return
    except BaseException as error:  # noqa: BLE001 - whatever a program does, the run hears of it
        end_copies(daemon, "its step", error)
        show(error, name)
        daemon.send(FAILED + told_of(error, log.lost_pages))
        daemon.recv(1)


def _load(program_fd: int, name: str, workload: Distributed) -> None:
    """The program as a module, which pickled threads find on every kernel."""
    module = types.ModuleType(distributed.PROGRAM)
    module.__file__ = name
    sys.modules[distributed.PROGRAM] = module
    exec(workload.compile(program_fd, name), vars(module))


_REHEARSALS = 4
"""Until Python has specialised its instructions (PEP 659)."""


class _Rehearsal(distributed.Thread):
    """Leaves at once."""

    def step(self) -> None:
        """Nowhere."""
        self._destination = ANYWHERE


def _rehearse(process: distributed.Process) -> None:
    """Have a thread come and go once, without a daemon: forked processes share what they have not used yet, and the
    first use takes the time of many page faults."""
    daemon, here = socketpair(AF_UNIX, SOCK_SEQPACKET)
    with daemon, here:
        for number in range(_REHEARSALS):
            rehearsal = _Rehearsal()
            if number % 2:
                vars(rehearsal)["pickled"] = {}  # other ways of travelling are for other threads: see `guest.state`
            for packet in (RUN + NUMBER.pack(0) + distributed.frozen(rehearsal), PARKED):
                daemon.send(packet)
            _host(here, process, asks=False)


def _host(daemon: socket, process: distributed.Process, asks: bool) -> None:
    """One thread, from its arrival until it is gone, or ended."""
    packet = _receive(daemon, RUN)
    (number,) = NUMBER.unpack_from(packet)
    thread = distributed.thawed(packet[NUMBER.size :])
    asked_ns = 0
    while True:
        thread.step()
        if copied:
            end_copies(daemon, "its step")
        if thread._exited:
            break
        if thread._destination is not None:
            if _migrate(daemon, thread):
                return
        elif asks and monotonic_ns() - asked_ns >= ASK_NS:
            if _follow_advice(daemon, thread):
                return
            asked_ns = monotonic_ns()
    daemon.send(EXITED + distributed.ended(process, number, thread._result))


def _migrate(daemon: socket, thread: distributed.Thread) -> bool:
    """Whether it has gone."""
    destination, thread._destination = thread._destination, None
    if destination is None or destination == thread.kernel:
        return False
    stays = _leave(daemon, thread, destination)
    if stays is None:
        return True
    thread.stayed(stays)
    return False


def _follow_advice(daemon: socket, thread: distributed.Thread) -> bool:
    """Whether it has gone to where placement wants it. That it could not is none of the program's business."""
    daemon.send(ASK)
    (destination,) = NUMBER.unpack(_receive(daemon, ADVICE))
    return destination != thread.kernel and _leave(daemon, thread, destination) is None


def _leave(daemon: socket, thread: distributed.Thread, destination: int) -> str | None:
    """Go there; why it stays, in words, or None when it has gone."""
    daemon.send(MIGRATE + NUMBER.pack(destination) + distributed.frozen(thread))
    answer = daemon.recv(PACKET_BYTES)
    if answer == PARKED:
        return None
    if answer[:1] != STAY:
        raise Detached
    return answer[1:].decode()


def _receive(daemon: socket, kind: bytes) -> memoryview:
    packet = daemon.recv(PACKET_BYTES)
    if packet[:1] != kind:
        raise Detached
    return memoryview(packet)[1:]
