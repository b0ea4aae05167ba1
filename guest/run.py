"""One run of a workload on one kernel: its threads, their steps in common with the other kernels', and the outcome."""

import json
import os
import zlib
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import MSG_DONTWAIT, recv_fds, send_fds, socket
from time import monotonic_ns
from typing import Any

from guest import application, surroundings
from guest.barrier import Barrier
from guest.daemon import Daemon
from guest.errors import GuestFailure
from guest.launcher import Launcher
from guest.offer import Offer
from guest.protection import Protector
from guest.protocol.address_space import Operation, Refusal
from guest.protocol.copies import members
from guest.protocol.effects import Queued, WaitLost
from guest.protocol.messages import Message, MessageName
from guest.samples import KINDS, FaultLog, Samples, read_accesses, read_history
from guest.timeline import Timeline, by_page
from guest.waits import Outcome
from guest.workloads import Workload

ENDED_EARLY = 1
"""`request` of a CONTROL message: this kernel's part of the run has failed, nobody needs to wait for it."""
_HARNESS = (MessageName.BARRIER, MessageName.CONTROL)
SAMPLES_KEPT = 8192
"""Latency samples of each kind that an answer carries."""
_MISMATCHES_KEPT = 16
OUTPUT_KEPT = 1 << 16
"""Bytes of what a program says that are kept, the last ones."""
SAID_LINES = 15
_OUTER_BARRIERS = 2
"""One before the first iteration, one after the last; two in each."""


class RunFailed(GuestFailure):
    """The run could not be completed."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
        """`check`: a program has seen something wrong; `application`: a thread of this kernel ended early; `peer`:
        another kernel, or a thread of it, did; `deadline`; `aborted`."""


class _Thread:
    """One application process, seen from the daemon."""

    def __init__(self, number: int, daemon_end: socket) -> None:
        self.number = number
        self.socket = daemon_end
        self.userfaultfd: int | None = None
        self.accesses_fd: int | None = None
        self.output_fd: int | None = None
        self.faults = FaultLog()
        self.result: dict[str, Any] | None = None
        self.wait: int | None = None
        """Number of the wait that it is in."""
        self.died = ""
        """How, if it did before it was done."""


class Run:
    """From `start` until `done`; all of it happens inside `Daemon.serve`, which is stopped when the run is over."""

    def __init__(self, daemon: Daemon, launcher: Launcher, workload: Workload, deadline_ns: int | None) -> None:
        self.failure: RunFailed | None = None
        self._daemon = daemon
        self._launcher = launcher
        self._workload = workload
        self._deadline_ns = deadline_ns
        self._threads: list[_Thread] = []
        self._barrier: Barrier
        self._asking: set[int] = set()
        """Threads that wait for an operation on the address space."""
        self._roles: Sequence[Sequence[str]] = ()
        self._dead_kernels: list[int] = []
        self._timeline = Timeline()
        self._begun_ns = 0
        self._ended_ns = 0
        self._sent_before = daemon.node.messages

    def start(
        self, fields: dict[str, Any], roles: Sequence[Sequence[str]], offer: Offer, program_fd: int | None = None
    ) -> None:
        """Fork the threads of this kernel. `fields` describe the workload, `roles` the threads of every kernel."""
        daemon = self._daemon
        own = roles[daemon.kernel]
        self._roles = roles
        self._barrier = Barrier(daemon.kernel, daemon.kernels, len(own))
        for number in range(len(own)):
            place = {"workload": fields, "kernel": daemon.kernel, "thread": number, "roles": roles}
            thread = _Thread(number, self._launcher.launch(place, program_fd))
            self._threads.append(thread)
            send_fds(thread.socket, [offer.packet], offer.memory_fds)
            daemon.watch(thread.socket.fileno(), self._reader(thread))
        daemon.on_harness = self._harness
        daemon.watch_others(self._kernel_died)
        daemon.deliver_kept()

    def tick(self, now_ns: int) -> None:
        """Time passes."""
        if self._deadline_ns is not None and now_ns > self._deadline_ns:
            self._fail(RunFailed("deadline", f"the run is not over in time: {self._where()}"))

    def abort(self) -> None:
        """End the run now, here and on the other kernels."""
        self._fail(RunFailed("aborted", f"the run was ended by command: {self._where()}"))

    def close(self) -> None:
        """End every process of this run, and forget what belonged to it."""
        daemon = self._daemon
        daemon.on_harness = None
        daemon.watch_others(None)
        self._launcher.clear()
        for thread in self._threads:
            self._let_go(thread)
            for fd in (thread.accesses_fd, thread.output_fd):
                if fd is not None:
                    os.close(fd)
        daemon.parked = 0
        self._threads = []

    def result(self) -> dict[str, Any]:
        """What came of a run that did not fail, for the agent's answer. Before `close`."""
        samples = Samples()
        counts = [0] * len(KINDS)
        total_ns = [0] * len(KINDS)
        mismatches: list[dict[str, int]] = []
        wrong = 0
        for thread in self._threads:
            if thread.accesses_fd is not None:
                samples.join(*read_accesses(thread.accesses_fd), thread.faults.recent)
            counts = [a + b for a, b in zip(counts, thread.faults.counts, strict=True)]
            total_ns = [a + b for a, b in zip(total_ns, thread.faults.total_ns, strict=True)]
            if thread.result is not None:
                wrong += thread.result["wrong"]
                mismatches += thread.result["mismatches"]
        sent = self._sent()
        faults = [thread.faults for thread in self._threads]
        return {
            "verified": wrong == 0,
            "wrong": wrong,
            "mismatches": mismatches[:_MISMATCHES_KEPT],
            "iterations": self._workload.iterations,
            "pages": self._workload.pages,
            "dead_kernels": self._dead_kernels,
            "dead_threads": [{"thread": each.number, "how": each.died} for each in self._threads if each.died],
            "lost_pages": self._daemon.lost_pages,
            "messages": {n.name: c for n, c in sent.items() if n not in _HARNESS},
            "harness_messages": {n.name: c for n, c in sent.items() if n in _HARNESS},
            "faults": {
                kind: {"count": count, "mean_us": round(total / count / 1e3, 1) if count else None}
                for kind, count, total in zip(KINDS, counts, total_ns, strict=True)
            },
            "faults_by_page": by_page(faults),
            "timeline": self._timeline.told(self._begun_ns, faults),
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
            "histories": [
                _packed(read_history(thread.accesses_fd)) for thread in self._threads if thread.accesses_fd is not None
            ],
            "figures": self._figures(),
            "output": [text for thread in self._threads if (text := _output(thread))],
            "duration_s": round((self._ended_ns - self._begun_ns) / 1e9, 6),
        }

    def _figures(self) -> dict[str, int | float]:
        """Of all threads; of several that report one name, the largest."""
        figures: dict[str, int | float] = {}
        for thread in self._threads:
            for name, value in (thread.result or {}).get("figures", {}).items():
                figures[name] = max(value, figures.get(name, value))
        return figures

    # -- what happens ------------------------------------------------------------------------------------------------

    def _reader(self, thread: _Thread) -> Callable[[], None]:
        return lambda: self._read(thread)

    def _read(self, thread: _Thread) -> None:
        try:
            packet, fds, _, _ = recv_fds(thread.socket, application.PACKET_BYTES, 2, MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return  # the latter is said once, of a process that ended with our words unread; its last words come next
        kind, body = packet[:1], packet[1:]
        if kind == application.BARRIER:
            self._arrived(thread)
        elif kind == application.FAULTS:
            thread.userfaultfd, *protection = fds
            protector = Protector(socket(fileno=protection[0])) if protection else None
            self._daemon.attach(thread.userfaultfd, thread.faults, protector)
            self._tell(thread, application.REGISTERED)
            self._daemon.woke()
        elif kind == application.OPERATE:
            self._asks(thread, Operation.of(*map(int, body.split())))
        elif kind == surroundings.WAIT:
            self._waits(thread, *map(int, body.split()))
        elif kind == surroundings.CANCEL:
            self._cancels(thread)
        elif kind == surroundings.WAKE:
            self._daemon.waits.wake(*map(int, body.split()))
        elif kind == application.ACCESSES:
            thread.accesses_fd = fds[0]
        elif kind == application.OUTPUT:
            thread.output_fd = fds[0]
        elif kind == application.FINISHED:
            thread.result = json.loads(body)
            self._arrived(thread)
        elif kind == application.FAILED:
            error = json.loads(body)
            kind_of = "check" if error["kind"] in application.CHECKS else "application"
            said = f"thread {thread.number}: {error['kind']}: {error['message']}{_said(thread, SAID_LINES)}"
            self._fail(RunFailed(kind_of, said))
        else:
            self._thread_died(thread, self._launcher.ended(thread.number))

    def _asks(self, thread: _Thread, operation: Operation) -> None:
        """The thread waits for an operation on the address space."""
        self._asking.add(thread.number)
        self._count_parked()

        def done(refusal: Refusal) -> None:
            self._asking.discard(thread.number)
            self._count_parked()
            self._tell(thread, application.OPERATED + b"%d" % refusal)

        self._daemon.operate(operation, done)

    def _waits(self, thread: _Thread, word: int, value: int) -> None:
        """The thread waits until the word has reached the value."""

        def told(outcome: Outcome) -> None:
            if isinstance(outcome, Queued):
                self._tell(thread, surroundings.QUEUED)
            else:
                lost = b"%d" % outcome.kernel if isinstance(outcome, WaitLost) else b""
                self._waited(thread, surroundings.LOST + lost if lost else surroundings.WOKEN)
            self._daemon.woke()

        thread.wait = self._daemon.waits.next_number
        self._count_parked()
        self._daemon.waits.wait(word, value, told)

    def _cancels(self, thread: _Thread) -> None:
        """The thread need not wait; it hears so, unless it has just heard of its wait's own end."""
        if thread.wait is not None and self._daemon.waits.cancel(thread.wait):
            self._waited(thread, surroundings.WOKEN)
            self._daemon.woke()

    def _waited(self, thread: _Thread, packet: bytes) -> None:
        thread.wait = None
        self._count_parked()
        self._tell(thread, packet)

    def _count_parked(self) -> None:
        waiting = sum(thread.wait is not None for thread in self._threads)
        self._daemon.parked = self._barrier.waiting + len(self._asking) + waiting

    def _thread_died(self, thread: _Thread, how: str) -> None:
        """In the middle of a fault, perhaps. The others go on if their work allows it."""
        if not self._workload.spares_threads:
            said = _said(thread, SAID_LINES)
            self._fail(RunFailed("application", f"thread {thread.number} ended early: {how}; {self._where()}{said}"))
            return
        self._let_go(thread)
        if thread.result is None:
            thread.died = how
        complete = self._barrier.leave(thread.number)
        self._count_parked()
        if complete:
            self._announce()
            self._go_on()

    def _kernel_died(self, kernel: int) -> None:
        self._dead_kernels.append(kernel)
        if not self._workload.spares_threads:
            self._fail(
                RunFailed("peer", f"kernel {kernel} died; {self._where()}", "see what its node says, if it does")
            )
            return
        self._barrier.bury(kernel, len(self._roles[kernel]))
        self._go_on()

    def _let_go(self, thread: _Thread) -> None:
        """Serve this process no more."""
        self._asking.discard(thread.number)
        if thread.wait is not None:
            self._daemon.waits.cancel(thread.wait)
            thread.wait = None
        if thread.socket.fileno() < 0:
            return
        self._daemon.unwatch(thread.socket.fileno())
        thread.socket.close()
        if thread.userfaultfd is not None:
            self._daemon.detach(thread.userfaultfd, thread.faults)
            thread.userfaultfd = None

    def _harness(self, sender: int, message: Message) -> None:
        if message.name == MessageName.BARRIER:
            self._timeline.heard(sender, message.request)
            self._barrier.announce(sender, message.request, message.copyset)
            self._go_on()
        elif message.request == ENDED_EARLY and self.failure is None:
            self.failure = RunFailed(
                "peer", f"kernel {sender} ended the run early; {self._where()}", "see what it says"
            )
            self._daemon.stop()

    def _arrived(self, thread: _Thread) -> None:
        complete = self._barrier.arrive(thread.number)
        self._count_parked()
        if complete:
            self._announce()
            self._go_on()

    def _announce(self) -> None:
        """Every living thread of this kernel is at the barrier."""
        self._timeline.announced(self._barrier.number)
        self._daemon.send_harness(MessageName.BARRIER, self._barrier.number, self._barrier.gone_here)

    def _go_on(self) -> None:
        barrier = self._barrier
        threads = sum(len(names) for names in self._roles)
        while barrier.open():
            self._ended_ns = monotonic_ns()
            self._begun_ns = self._begun_ns or self._ended_ns
            gone = sum(mask.bit_count() for mask in barrier.gone.values())
            if self._over() or gone == threads:
                self._daemon.stop()
                return
            self._release()
            if barrier.complete():
                self._announce()

    def _over(self) -> bool:
        """Whether this was the last barrier: where threads are spared by its number, as all may be dead here."""
        if self._workload.spares_threads:
            return self._barrier.number == 2 * self._workload.iterations + _OUTER_BARRIERS
        return all(thread.result is not None for thread in self._threads)

    def _release(self) -> None:
        """Let the living threads go on, and tell them who has died."""
        self._daemon.parked = 0
        gone = [(kernel, thread) for kernel, mask in self._barrier.gone.items() for thread in members(mask)]
        packet = application.RELEASED + (json.dumps(gone).encode() if gone else b"")
        for thread in self._threads:
            self._tell(thread, packet)
        self._daemon.woke()

    def _tell(self, thread: _Thread, packet: bytes) -> None:
        """Nobody hears it if the thread has just died: the end of its socket is the next thing that is read there."""
        if thread.socket.fileno() >= 0:
            with suppress(ConnectionError):
                thread.socket.send(packet)

    def _fail(self, failure: RunFailed) -> None:
        if self.failure is None:
            self.failure = failure
            self._daemon.send_harness(MessageName.CONTROL, ENDED_EARLY)
            self._daemon.stop()

    def _where(self) -> str:
        """How far the run is, in words: what a person needs who asks why it does not end."""
        barrier = self._barrier
        parts = [f"barrier {barrier.number} (two an iteration) is not reached by kernels {barrier.missing()}"]
        now_ns = monotonic_ns()
        waits = [f"{page} for {(now_ns - since) / 1e9:.3f} s" for page, since in self._daemon.waiting_pages()]
        if waits:
            parts.append("threads here wait for pages " + ", ".join(waits[:4]))
        asleep = [thread.number for thread in self._threads if thread.wait is not None]
        if asleep:
            parts.append(f"threads {asleep} here sleep until they are woken")
        return "; ".join(parts)

    def _sent(self) -> dict[MessageName, int]:
        after = self._daemon.node.messages
        sent = {name: after[name] - self._sent_before[name] for name in MessageName}
        return {name: count for name, count in sent.items() if count}


def _output(thread: _Thread) -> str:
    """The end of what a program has said so far."""
    if thread.output_fd is None:
        return ""
    size = os.fstat(thread.output_fd).st_size
    return os.pread(thread.output_fd, OUTPUT_KEPT, max(0, size - OUTPUT_KEPT)).decode(errors="replace")


def _said(thread: _Thread, lines: int) -> str:
    """Its last lines, for an error."""
    last = _output(thread).strip().splitlines()[-lines:]
    return "".join(f"\n    {line}" for line in last)


def _packed(history: bytes) -> str:
    """Compressed, and in letters that JSON can carry; "" if there is none."""
    return b2a_base64(zlib.compress(history, 1), newline=False).decode() if history else ""
