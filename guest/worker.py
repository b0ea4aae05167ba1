"""A process of the operating system that runs threads of a distributed process, one at a time.

It is forked and attached before it is needed, and waits: in the pool for any thread, as a placeholder for the one that
it ran before. What it and its daemon say to each other is below, beside what all applications say
(`guest.application`). The daemon says nothing to a worker that has not asked, unless that waits.
"""

import json
import sys
import types
from socket import send_fds, socket
from struct import Struct
from typing import Any

from guest import process as distributed
from guest.application import ACCESSES, FAILED, PACKET_BYTES, Attached, attach, redirect_output, show
from guest.lost_pages import survive_lost_pages
from guest.protocol.address_space import Operation, Refusal
from guest.region import BASE
from guest.samples import AccessLog
from guest.surroundings import Detached
from guest.workloads.distributed import Distributed

PLACE = b"t"
"""Daemon: a thread's number (`NUMBER`) and its state: make it ready, and do not run it."""
RUN = b"g"
"""Daemon: run it."""
DROP = b"y"
"""Daemon: it will not run here."""
MIGRATE = b"m"
"""Worker: the thread is at a migration point and wants to go: the kernel (`NUMBER`) and its state."""
STAY = b"s"
"""Daemon: it stays; why, in words, nothing if it is there already."""
PARKED = b"p"
"""Daemon: it is gone, and this is its placeholder, until the next PLACE."""
START = b"n"
"""Worker: a thread begins: its number, where (`NUMBER` each), and its state."""
EXITED = b"x"
"""Worker: the thread has ended; JSON-free: this worker is in the pool again."""
FIGURE = b"f"
"""Worker: a number is reported: its name, `=`, its representation in Python."""
EXIT_GROUP = b"q"
"""Worker: the whole process ends."""
NUMBER = Struct("<Q")


class _Daemon:
    """See `guest.process.Daemon`."""

    def __init__(self, connection: socket, attached: Attached) -> None:
        self._connection, self._attached = connection, attached

    def start(self, number: int, state: bytes, to: int) -> None:
        self._connection.send(START + NUMBER.pack(number) + NUMBER.pack(to) + state)

    def operate(self, operation: Operation) -> Refusal:
        return self._attached.operate(operation)

    def figure(self, name: str, value: int | float) -> None:
        self._connection.send(FIGURE + f"{name}={value!r}".encode())

    def exit_group(self) -> None:
        self._connection.send(EXIT_GROUP)
        self._connection.recv(1)  # the daemon ends this process
        raise Detached


def run_worker(daemon: socket, place: dict[str, Any], program_fd: int) -> None:
    """Be a worker until the daemon ends it: `place` has the fields workload, kernel, kernels."""
    name = str(place["workload"]["file"]).rpartition("/")[2]
    try:
        redirect_output(daemon)
        _load(program_fd, name, Distributed.parse(place["workload"]))
        attached = attach(daemon)
        log = AccessLog()
        send_fds(daemon, [ACCESSES], [log.fd])
        survive_lost_pages(BASE, attached.memory.nbytes, log.lost_pages.add)
        process = distributed.Process(
            attached.memory, place["kernel"], place["kernels"], place["workload"], _Daemon(daemon, attached)
        )
        distributed.enter(process)
        while True:
            _host(daemon, process)
    except (Detached, ConnectionError):
        return
    except Exception as error:  # noqa: BLE001 - whatever a program does, the run hears of it
        show(error, name)
        daemon.send(FAILED + json.dumps({"kind": type(error).__name__, "message": str(error)}).encode())
        daemon.recv(1)


def _load(program_fd: int, name: str, workload: Distributed) -> None:
    """The program as a module, which pickled threads find on every kernel."""
    module = types.ModuleType(distributed.PROGRAM)
    module.__file__ = name
    sys.modules[distributed.PROGRAM] = module
    exec(workload.compile(program_fd, name), vars(module))


def _host(daemon: socket, process: distributed.Process) -> None:
    """One thread, from its arrival until it is gone, dropped, or ended."""
    packet = _receive(daemon, PLACE)
    (number,) = NUMBER.unpack_from(packet)
    thread = distributed.thawed(packet[NUMBER.size :], process)
    if daemon.recv(PACKET_BYTES) != RUN:
        return
    while not thread._exited:
        thread.step()
        if _migrate(daemon, thread):
            return
    distributed.ended(process, number, thread._result)
    daemon.send(EXITED)


def _migrate(daemon: socket, thread: distributed.Thread) -> bool:
    """Whether it has gone."""
    destination, thread._destination = thread._destination, None
    if destination in (None, thread.kernel) or thread._exited:
        return False
    daemon.send(MIGRATE + NUMBER.pack(destination) + distributed.frozen(thread))
    answer = daemon.recv(PACKET_BYTES)
    if answer == PARKED:
        return True
    if answer[:1] != STAY:
        raise Detached
    thread.stayed(answer[1:].decode())
    return False


def _receive(daemon: socket, kind: bytes) -> memoryview:
    packet = daemon.recv(PACKET_BYTES)
    if packet[:1] != kind:
        raise Detached
    return memoryview(packet)[1:]
