"""Measurements of one guest, and of a pair, for `testbed bench`; each prints one line of JSON.

python3 -m guest.bench.guests local-fault PAGES ROUNDS
    {"samples_us": […]}: first touches of pages that the coherency daemon of a lone kernel serves without a message.
python3 -m guest.bench.guests ring KERNEL COUNT POLICY…
    on both kernels of a freshly formatted segment, with the same words behind KERNEL. Each kernel in turn sends and
    the other answers. {"POLICY": […], …}: this kernel's round trips in microseconds, COUNT of each.
"""

import gc
import json
import mmap
import os
import sys
from array import array
from collections.abc import Sequence
from contextlib import closing
from socket import AF_UNIX, SOCK_SEQPACKET, recv_fds, send_fds, socket, socketpair
from time import monotonic, perf_counter_ns, sleep

from guest.bench.measure import SILENCE_S, ping, pong
from guest.daemon.daemon import Daemon
from guest.errors import LinkError
from guest.link.hostlink import HostLink
from guest.link.link import Link
from guest.link.notify import Notifier, Policy
from guest.link.ring import Receiver, Sender
from guest.link.segment import ISA, Segment, format_segment
from guest.memory.region import Region
from guest.memory.samples import FaultLog
from guest.programs import application
from guest.protocol.registry import PROTOCOLS
from guest.runs.launcher import die_with
from guest.runs.offer import Offer
from guest.workloads.workload import PAGE_BYTES

SEGMENT_BYTES = 4 << 20
WARM_UP = 32
"""Round trips that are not counted: the interpreter's own first page faults, the other kernel's way into its loop."""
_PEER_POLL_S = 0.02


def local_faults(pages: int, rounds: int) -> list[float]:
    """Microseconds of each of `pages` × `rounds` first touches, as an application process sees them.

    All of the daemon is at work: loop, engine, userfaultfd, one ring that it looks at. Only there is nobody to ask.
    """
    samples: list[float] = []
    memory_fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    os.ftruncate(memory_fd, SEGMENT_BYTES)
    bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2)]
    try:
        for _ in range(rounds):
            with mmap.mmap(memory_fd, SEGMENT_BYTES) as mapping, memoryview(mapping) as memory:
                format_segment(memory, 2)
            with closing(HostLink(memory_fd, [[bell] for bell in bells], 0)) as link:
                samples += _one_round(link, pages)
    finally:
        for descriptor in (memory_fd, *bells):
            os.close(descriptor)
    return samples


def _one_round(link: Link, pages: int) -> list[float]:
    """Fork an application, serve its faults, return its samples."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    bench = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with(bench)
            ours.close()
            _touch(theirs, pages)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    engine = PROTOCOLS["voting"](0, [0], pages)
    with ours, closing(Daemon(Segment.open(link.memory), link, 0, engine, Region(pages), Policy.ADAPTIVE)) as daemon:
        samples: list[float] = []

        def read() -> None:
            packet, fds, _, _ = recv_fds(ours, application.PACKET_BYTES, 1)
            if packet == application.FAULTS:
                daemon.attach(fds[0], FaultLog())
                ours.send(application.REGISTERED)
                daemon.woke()
                return
            samples.extend(array("d", packet[1:]))
            daemon.stop()

        daemon.watch(ours.fileno(), read)
        offer = Offer.coherent(daemon.region)
        send_fds(ours, [offer.packet], offer.memory_fds)
        daemon.serve(lambda _: None)
    _, status = os.waitpid(pid, 0)
    if len(samples) != pages:
        raise RuntimeError(f"the application gave {len(samples)} of {pages} samples and ended with status {status}")
    return samples


def _touch(daemon: socket, pages: int) -> None:
    memory = application.attach(daemon, ()).memory
    samples = array("d")
    for offset in range(0, pages * PAGE_BYTES, PAGE_BYTES):
        start_ns = perf_counter_ns()
        value = memory[offset]
        samples.append((perf_counter_ns() - start_ns) / 1e3)
        if value:
            raise RuntimeError(f"page {offset // PAGE_BYTES} holds {value}, expected 0 of a page never touched")
    daemon.send(application.FINISHED + samples.tobytes())


def ring_round_trips(link: Link, kernel: int, count: int, policies: Sequence[Policy]) -> dict[str, list[float]]:
    """This kernel's round trips by policy. The segment has two kernels; the other one runs the same.

    Raises LinkError when the other kernel does not come, or falls silent.
    """
    segment = Segment.open(link.memory)
    me, other = segment.nodes[kernel], segment.nodes[1 - kernel]
    me.publish(ISA.of(os.uname().machine), link.peer)
    until = monotonic() + SILENCE_S
    while other.peer is None:
        if monotonic() > until:
            raise LinkError(f"kernel {1 - kernel} did not come within {SILENCE_S:.0f} s", "does it run the same?")
        sleep(_PEER_POLL_S)
    sender, receiver = Sender(segment, kernel, 1 - kernel), Receiver(segment, 1 - kernel, kernel)
    found: dict[str, list[float]] = {}
    for policy in policies:
        notifier = Notifier(segment, kernel, link, policy, [receiver])
        for asking in range(2):
            if asking == kernel:
                found[policy.value] = ping(sender, receiver, notifier, WARM_UP + count)[WARM_UP:]
            else:
                pong(sender, receiver, notifier, WARM_UP + count)
    return found


def main(arguments: list[str]) -> int:
    """The command line above."""
    gc.disable()  # a collection in the middle of a measurement would be measured
    match arguments:
        case ["local-fault", pages, rounds]:
            result: dict[str, list[float]] = {"samples_us": local_faults(int(pages), int(rounds))}
        case ["ring", kernel, count, *policies] if policies:
            from guest.link.ivshmem import IvshmemLink  # needs a device, which local-fault does not

            with closing(IvshmemLink.open()) as link:
                result = ring_round_trips(link, int(kernel), int(count), [Policy(name) for name in policies])
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
