"""The application processes of a run on one kernel: what they ask their daemon for, and what is measured of them."""

import os
import zlib
from array import array
from binascii import b2a_base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from socket import CMSG_LEN, MSG_DONTWAIT, send_fds, socket
from time import monotonic_ns
from typing import Any, Generic, TypeVar

import guest
from guest.daemon.daemon import Daemon
from guest.daemon.waits import Outcome
from guest.errors import GuestFailure
from guest.link.segment import PAGE_BYTES
from guest.memory.protection import Protector
from guest.memory.samples import KINDS, FaultLog, Samples, read_accesses, read_history
from guest.programs import application, surroundings
from guest.protocol.address_space import Operation, Refusal
from guest.protocol.effects import Queued, WaitLost
from guest.protocol.messages import MessageName
from guest.runs.launcher import Launcher
from guest.runs.offer import Offer
from guest.runs.timeline import Timeline, by_page

ENDED_EARLY = 1
"""`request` of a CONTROL message: this kernel's part of the run has failed, nobody needs to wait for it."""
_DESCRIPTORS = CMSG_LEN(2 * array("i").itemsize)
"""Room for as many as a packet can have."""
_HARNESS = (MessageName.BARRIER, MessageName.CONTROL)
SAMPLES_KEPT = 8192
"""Latency samples of each kind that an answer carries."""
OUTPUT_KEPT = 1 << 16
"""Bytes of what a program says that are kept, the last ones."""
SAID_LINES = 15
_OURS = f'  File "{guest.__path__[0]}/', '  File "<frozen runpy>"'
"""How lines of a traceback begin that are not the program's."""


class RunFailed(GuestFailure):
    """The run could not be completed."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
        """`check`: a program has seen something wrong; `application`: a thread of this kernel ended early; `peer`:
        another kernel, or a thread of it, did; `deadline`; `aborted`."""


class Application:
    """One application process, seen from the daemon."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: socket
        self.userfaultfd: int | None = None
        """As long as its faults are served."""
        self.accesses_fd: int | None = None
        self.output_fd: int | None = None
        self.has_descriptors = True
        """Whether it may still have some to send: packets are read quicker without."""
        self.faults = FaultLog()
        self.asking = False
        """Whether it waits for an operation on the address space."""
        self.wait: int | None = None
        """Number of the wait that it is in."""
        self.space = 0
        """Number of its address space, where the region is that of several."""

    @property
    def label(self) -> str:
        """Its number, for people."""
        return str(self.number)

    @property
    def called(self) -> str:
        """What it is, for an error."""
        return f"thread {self.label}"

    @property
    def output(self) -> str:
        """The end of what it has said so far."""
        if self.output_fd is None:
            return ""
        size = os.fstat(self.output_fd).st_size
        return os.pread(self.output_fd, OUTPUT_KEPT, max(0, size - OUTPUT_KEPT)).decode(errors="replace")

    @property
    def said(self) -> str:
        """Its last lines, for an error."""
        lines = [*_without_ours(self.output.strip().splitlines())]
        return "".join(f"\n    {line}" for line in lines[-SAID_LINES:])


_Kind = TypeVar("_Kind", bound=Application)


def _without_ours(lines: list[str]) -> Iterator[str]:
    """What a program has said, without the frames of tracebacks that are not its own."""
    ours = False
    for line in lines:
        ours = line.startswith(_OURS) or (ours and line.startswith("    "))
        if not ours:
            yield line


class Applications(Generic[_Kind]):
    """All of them. `heard(who, kind, body)` is told what is the run's own business, `ended(who, how)` of their ends."""

    def __init__(
        self,
        daemon: Daemon,
        launcher: Launcher,
        heard: Callable[[_Kind, bytes, bytes], None],
        ended: Callable[[_Kind, str], None],
    ) -> None:
        self.all: list[_Kind] = []
        self._daemon, self._launcher = daemon, launcher
        self._heard, self._ended = heard, ended
        self._asked: dict[bytes, Callable[[_Kind, bytes, list[int]], object]] = {
            application.FAULTS: self._hands_over,
            application.OPERATE: lambda each, body, _: self._operates(each, Operation.of(*map(int, body.split()))),
            surroundings.WAIT: lambda each, body, _: self._waits(each, *map(int, body.split())),
            surroundings.CANCEL: lambda each, *_: self._cancels(each),
            surroundings.WAKE: self._wakes,
            application.ACCESSES: lambda each, _, fds: setattr(each, "accesses_fd", fds[0]),
            application.OUTPUT: lambda each, _, fds: setattr(each, "output_fd", fds[0]),
            b"": lambda each, *_: self._ended(each, launcher.ended(each.number)),
        }
        self._sent_before = daemon.node.messages

    @property
    def sleeping(self) -> int:
        """How many of them wait for a word, or for the address space: they touch no memory meanwhile."""
        return sum(each.asking or each.wait is not None for each in self.all)

    @property
    def output(self) -> list[str]:
        """What they have said so far, of each that has said something."""
        return [text for each in self.all if (text := each.output)]

    def launch(self, each: _Kind, place: dict[str, Any], offer: Offer, program_fd: int | None) -> None:
        """Fork the process of `each`; `place` is what `application.run_thread` or `worker.run_worker` want."""
        each.socket = self._launcher.launch({**place, "thread": each.number}, program_fd)
        self.all.append(each)
        with suppress(ConnectionError):  # it has ended already, of a program that does not compile: it says so itself
            send_fds(each.socket, [offer.packet], offer.memory_fds)
        self._daemon.watch(each.socket.fileno(), lambda: self._read(each))

    def tell(self, each: _Kind, packet: bytes) -> None:
        """Nobody hears it if it has just died: the end of its socket is the next thing that is read there."""
        if each.socket.fileno() >= 0:
            try:  # it is on the way of a migration, where `suppress` takes longer than one would think
                each.socket.send(packet)
            except ConnectionError:
                pass

    def attach(self, each: _Kind, userfaultfd: int, protection: socket | None) -> None:
        """Serve its faults from now on, and tell it so."""
        each.userfaultfd = userfaultfd
        self._daemon.attach(userfaultfd, each.faults, Protector(protection) if protection is not None else None)
        self.tell(each, application.REGISTERED)
        self._daemon.woke()

    def let_go(self, each: _Kind) -> None:
        """Serve this process no more."""
        each.asking = False
        if each.wait is not None:
            self._daemon.waits.cancel(each.wait)
            each.wait = None
        if each.socket.fileno() < 0:
            return
        self._daemon.unwatch(each.socket.fileno())
        each.socket.close()
        if each.userfaultfd is not None:
            self._daemon.detach(each.userfaultfd, each.faults)
            each.userfaultfd = None

    def close(self) -> None:
        """End all of them, and forget what belonged to them."""
        self._launcher.clear()
        for each in self.all:
            self.let_go(each)
            for fd in (each.accesses_fd, each.output_fd):
                if fd is not None:
                    os.close(fd)
        self.all = []

    def registers(self, each: _Kind, userfaultfd: int, protection: socket | None) -> None:
        """It has registered its memory, and waits to be served: at once, unless a run knows better."""
        self.attach(each, userfaultfd, protection)

    def _read(self, each: _Kind) -> None:
        try:
            if each.has_descriptors:
                packet, fds = _received(each.socket)
            else:
                packet, fds = each.socket.recv(application.PACKET_BYTES, MSG_DONTWAIT), []
        except (BlockingIOError, ConnectionResetError):
            return  # the latter is said once, of a process that ended with our words unread; its last words come next
        kind, body = packet[:1], packet[1:]
        asked = self._asked.get(kind)
        if asked is None:
            self._heard(each, kind, body)
        else:
            asked(each, body, fds)

    def _hands_over(self, each: _Kind, _: bytes, fds: list[int]) -> None:
        userfaultfd, *protection = fds
        self.registers(each, userfaultfd, socket(fileno=protection[0]) if protection else None)

    def _wakes(self, each: _Kind, body: bytes, _: list[int]) -> None:
        word, value = map(int, body.split())
        self._daemon.waits.wake(self._everywhere(each, word), value)

    def _operates(self, each: _Kind, operation: Operation) -> None:
        """It waits for an operation on the address space."""
        each.asking = True

        def done(refusal: Refusal) -> None:
            each.asking = False
            self.tell(each, application.OPERATED + b"%d" % refusal)

        span = self._daemon.region.span
        if any(pages.stop > span for pages in operation.pages()):
            done(Refusal.NOT_IN_REGION)
            return
        first, to = operation.first + each.space * span, operation.to + each.space * span
        self._daemon.operate(operation._replace(first=first, to=to), lambda effect: done(effect.refusal))

    def _waits(self, each: _Kind, word: int, value: int) -> None:
        """It waits until the word has reached the value."""

        def told(outcome: Outcome) -> None:
            if isinstance(outcome, Queued):
                self.tell(each, surroundings.QUEUED)
            else:
                lost = b"%d" % outcome.kernel if isinstance(outcome, WaitLost) else b""
                self._waited(each, surroundings.LOST + lost if lost else surroundings.WOKEN)
            self._daemon.woke()

        each.wait = self._daemon.waits.next_number
        self._daemon.waits.wait(self._everywhere(each, word), value, told)

    def _everywhere(self, each: _Kind, address: int) -> int:
        """The name of a word for all processes, which have the same addresses."""
        return address + each.space * self._daemon.region.span * PAGE_BYTES

    def _cancels(self, each: _Kind) -> None:
        """It need not wait; it hears so, unless it has just heard of its wait's own end."""
        if each.wait is not None and self._daemon.waits.cancel(each.wait):
            self._waited(each, surroundings.WOKEN)
            self._daemon.woke()

    def _waited(self, each: _Kind, packet: bytes) -> None:
        each.wait = None
        self.tell(each, packet)

    # -- what came of it -----------------------------------------------------------------------------------------------

    def told(self, timeline: Timeline, begun_ns: int) -> dict[str, Any]:
        """What was counted and measured of them, for the agent's answer. Before `close`."""
        samples = Samples()
        counts = [0] * len(KINDS)
        total_ns = [0] * len(KINDS)
        for each in self.all:
            if each.accesses_fd is not None:
                samples.join(*read_accesses(each.accesses_fd), each.faults.recent)
            counts = [a + b for a, b in zip(counts, each.faults.counts, strict=True)]
            total_ns = [a + b for a, b in zip(total_ns, each.faults.total_ns, strict=True)]
        sent = self._sent()
        faults = [each.faults for each in self.all]
        return {
            "lost_pages": self._daemon.lost_pages,
            "resident_most": self._daemon.region.resident_most,
            "messages": {n.name: c for n, c in sent.items() if n not in _HARNESS},
            "harness_messages": {n.name: c for n, c in sent.items() if n in _HARNESS},
            "faults": {
                kind: {"count": count, "mean_us": round(total / count / 1e3, 1) if count else None}
                for kind, count, total in zip(KINDS, counts, total_ns, strict=True)
            },
            "faults_by_page": by_page(faults),
            "timeline": timeline.told(begun_ns, faults),
            "accesses": {
                "hits": samples.hits,
                "several_faults": samples.several,
                "dropped": samples.dropped,
                "stray_faults": samples.stray_faults,
            },
            "latency_us": {
                kind: [round(ns / 1e3, 1) for ns in times[-SAMPLES_KEPT:]]
                for kind, times in zip(KINDS, samples.by_kind, strict=True)
            },
            "histories": [_packed(read_history(each.accesses_fd)) for each in self.all if each.accesses_fd is not None],
            "output": self.output,
        }

    def where(self) -> list[str]:
        """What they wait for, in words: what a person needs who asks why a run does not end."""
        now_ns = monotonic_ns()
        waits = [f"{page} for {(now_ns - since) / 1e9:.3f} s" for page, since in self._daemon.waiting_pages()]
        parts = ["threads here wait for pages " + ", ".join(waits[:4])] if waits else []
        if self._daemon.full:
            parts.append(
                f"{self._daemon.region.resident} pages are here, more than may be, until other kernels have room"
            )
        asleep = ", ".join(each.label for each in self.all if each.wait is not None)
        return parts + ([f"threads [{asleep}] here sleep until they are woken"] if asleep else [])

    def _sent(self) -> dict[MessageName, int]:
        after = self._daemon.node.messages
        sent = {name: after[name] - self._sent_before[name] for name in MessageName}
        return {name: count for name, count in sent.items() if count}


def _received(connection: socket) -> tuple[bytes, list[int]]:
    """A packet, and the descriptors that came with it. Raises BlockingIOError if there is none, as `socket.recv_fds` is
    meant to: that forgets its flags, and takes twice as long."""
    packet, ancillary, _, _ = connection.recvmsg(application.PACKET_BYTES, _DESCRIPTORS, MSG_DONTWAIT)
    return packet, [fd for _, _, data in ancillary for fd in array("i", data)]


def _packed(history: bytes) -> str:
    """Compressed, and in letters that JSON can carry; "" if there is none."""
    return b2a_base64(zlib.compress(history, 1), newline=False).decode() if history else ""
