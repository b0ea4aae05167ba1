"""A run of distributed processes on one kernel: the first one, those that are forked, and what came of them.

The parts that this kernel has of them (`guest.runs.process_part`) share its workers, which are made on demand but for
the first process's pool. A process is born on all kernels when they carry out the copy of its parent's address space,
and its number is the epoch of that; the first process has 0.
"""

import json
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from guest import process
from guest.daemon.daemon import Daemon
from guest.memory.mapping import REFUSED
from guest.programs import application, worker
from guest.programs.worker import NUMBER
from guest.protocol.address_space import Kind, Operation, Refusal
from guest.protocol.effects import Duplicate, Send, SpaceDone
from guest.protocol.forks import FORK_MESSAGES, Begin, Copy, Forked, ForkEffect, ForksEngine
from guest.protocol.messages import Message, MessageName
from guest.protocol.thread_effects import Life
from guest.runs.applications import RunFailed
from guest.runs.barrier import Barrier
from guest.runs.launcher import Launcher
from guest.runs.offer import Offer
from guest.runs.process_part import PROCESS_SHIFT, Note, ProcessPart
from guest.runs.run import failure_of
from guest.runs.running import Running
from guest.runs.workers import Worker, Workers
from guest.workloads.distributed import Distributed
from guest.workloads.placement import View

_THREAD = (1 << PROCESS_SHIFT) - 1
MAIN = 0
"""Number of a process's first thread."""
MOVES_KEPT = 4096
"""Notes of what became of threads that an answer carries, the last ones."""


class ProcessRun(Running):
    """From `start` until no process is left; all of it happens inside `Daemon.serve`, as with `guest.runs.run.Run`."""

    what = "the process"

    def __init__(self, daemon: Daemon, launcher: Launcher, workload: Distributed, deadline_ns: int | None) -> None:
        super().__init__(daemon, deadline_ns)
        self._workload = workload
        self._barrier = Barrier(daemon.kernel, daemon.kernels, 1)
        self._workers = Workers(daemon, launcher, self._heard, self._worker_died)
        self.notes: deque[Note] = deque(maxlen=MOVES_KEPT)
        """What became of threads, in order."""
        self._first = ProcessPart((0, 0, min(daemon.kernels)), daemon, self._workers, workload.policy(), self)
        self._parts = {0: self._first}
        self._early: list[tuple[int, Message]] = []
        """What was said to processes that are not born here yet: roll calls, as else nothing is before all have their
        part."""
        self._forks = daemon.traced("forks", ForksEngine(daemon.kernel, daemon.kernels))
        self._forkers: dict[int, Worker] = {}
        """By request, the worker that waits for its child."""
        self._states: dict[tuple[int, int], bytes] = {}
        """By kernel and request, states that are to begin in a copy."""
        self._awaited: list[tuple[int, Worker]] = []
        """(process, worker that waits for its end)."""
        self._operations = 0
        """How many operations on address spaces were asked for here and are not done yet."""
        self._figures: dict[str, int | float] = {}
        self._launched = 0
        self._launch: Callable[[ProcessPart], None]

    @property
    def dead_kernels(self) -> list[int]:
        """Kernels that have died since the run began."""
        return self._dead_kernels

    def start(self, fields: dict[str, Any], program_fd: int) -> None:
        """Fork the workers, and begin when all kernels have theirs: with the first thread, at home."""
        daemon = self._daemon
        place = {"workload": fields, "kernel": daemon.kernel, "kernels": len(daemon.kernels), "worker": True}

        def launch(part: ProcessPart) -> None:
            self._launched += 1
            offer = Offer.coherent(daemon.region, maps=True, space=part.space)
            each = Worker(self._launched, part)
            self._workers.launch(each, {**place, "process": part.number}, offer, program_fd)

        self._launch = launch
        for _ in range(self._workload.pool):
            launch(self._first)
        daemon.on_thread = self._receive
        daemon.on_copy = self._born
        daemon.on_unmap = lambda _: self._tell_of_ends()
        self._listen()

    def close(self) -> None:
        """End every process of the operating system that belongs to it. Other kernels may go on without home, and are
        answered still: that nothing is here."""
        super().close()
        if self._is_over():
            self._daemon.on_death = self._kernel_died
        else:
            self._daemon.on_thread = lambda *_: None  # until all have heard that the run has failed
        self._daemon.on_copy = self._daemon.on_unmap = None
        self._workers.close()
        self._daemon.node.load = 0

    @property
    def output(self) -> list[str]:
        """See `Running.output`."""
        return self._workers.output

    def result(self) -> dict[str, Any]:
        """See `Running.result`."""
        self._daemon.settle()
        begun_ns, parts = self._begun_ns, list(self._parts.values())
        lost = [
            {"thread": each, "process": part.number, "how": "its kernel died"} for part in parts for each in part.lost
        ]
        stays = [{"process": part.number, **stay} for part in parts for stay in part.stays.told(begun_ns)]
        return {
            "verified": True,
            "wrong": 0,
            "mismatches": [],
            "iterations": self._workload.iterations,
            "pages": self._workload.pages,
            "dead_kernels": self._dead_kernels,
            "dead_threads": lost,
            **self._workers.told(self._timeline, begun_ns),
            "moves": [note.told(begun_ns) for note in self.notes],
            "stays": sorted(stays, key=lambda stay: stay["begin_ns"]),
            "figures": self._figures,
            "duration_s": round((self._ended_ns - begun_ns) / 1e9, 6),
        }

    # -- before it begins ----------------------------------------------------------------------------------------------

    def _is_ready(self, each: Worker) -> None:
        """It waits for a thread."""
        each.has_descriptors = False
        each.part.to_pool(each)
        all_are = len(self._first.pool) == self._launched == self._workload.pool
        if not self._begun_ns and all_are and self._barrier.arrive(0):
            self._announce()
            self._go_on()

    def _go_on(self) -> None:
        if not self._barrier.open():
            return
        self._begun_ns = monotonic_ns()
        if self._daemon.kernel == self._first.engine.home:
            self._first.begin_thread(MAIN, self._daemon.kernel, process.frozen(process.Main()))

    # -- what workers say ----------------------------------------------------------------------------------------------

    def _heard(self, each: Worker, kind: bytes, body: bytes) -> None:
        if each.part.heard(each, kind, body):
            return
        if kind == worker.READY:
            self._is_ready(each)
        elif kind == worker.FORK:
            (to,) = NUMBER.unpack_from(body)
            self._fork(each, to, body[NUMBER.size :])
        elif kind == worker.AWAIT:
            (number,) = NUMBER.unpack_from(body)
            if body[NUMBER.size]:
                self._awaited.append((number, each))
                each.asking = True
                self._tell_of_ends()
            else:
                self._workers.tell(each, self._whether_it_goes_on(number))
        elif kind == worker.FIGURE:
            name, figure = json.loads(body)
            self._figures[name] = max(figure, self._figures.get(name, figure))
        elif kind == application.FAILED:
            # Who has no thread yet has got no further than to read the program.
            self.fail(failure_of(each.called if each.thread is not None else "the program", each, body))

    def _worker_died(self, each: Worker, how: str) -> None:
        if each.part.over:
            return
        self.fail(RunFailed("application", f"{each.called} ended early: {how}; {self.where()}{each.said}"))

    # -- forks ---------------------------------------------------------------------------------------------------------

    def _fork(self, each: Worker, to: int, state: bytes) -> None:
        """The thread of `each` waits for a new process at kernel `to`, which begins with the thread in `state`."""
        if self._daemon.region.span == self._daemon.region.pages:
            # There is no room for a second one; and `to` may be outside the kernel set, where nobody could ask for it.
            self._workers.tell(each, worker.FORKED + NUMBER.pack(0) + REFUSED[Refusal.NO_ROOM].encode())
            return
        each.asking = True
        request = self._forks.requests + 1
        self._forkers[request] = each
        self._states[self._daemon.kernel, request] = state
        self._carry_out(self._forks.fork(each.part.number, to))

    def _carry_out(self, effects: list[ForkEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message, _):
                    payload = b""
                    if message.name == MessageName.PROCESS_FORK:
                        payload = worker.with_length(self._states.pop((self._daemon.kernel, message.request)))
                    self._daemon.send(to, message, payload)
                case Copy(source, request, number):
                    self._copy(source, request, self._parts[number].space)
                case Begin(source, request, number):
                    self._parts[number].begin_thread(MAIN, self._daemon.kernel, self._states.pop((source, request)))
                case Forked(request, number, refusal):
                    self._end_fork(request, number, refusal)

    def _copy(self, source: int, request: int, space: int) -> None:
        span = self._daemon.region.span

        def copied(effect: SpaceDone) -> None:
            number = 0
            if effect.refusal is Refusal.NONE:
                living = {part.space: part.number for part in self._parts.values() if not part.over}
                number = living[effect.to // span]
            else:
                del self._states[source, request]
            self._carry_out(self._forks.copied(source, request, number, effect.refusal))

        self._operate(Operation(Kind.COPY, space * span, span), copied)

    def _operate(self, operation: Operation, done: Callable[[SpaceDone], None]) -> None:
        """The run does not end before it is done."""

        def is_done(effect: SpaceDone) -> None:
            self._operations -= 1
            done(effect)
            self._end()

        self._operations += 1
        self._daemon.operate(operation, is_done)

    def _born(self, effect: Duplicate) -> None:
        """A copy of an address space is made: there is a new process, and this kernel has a part of it."""
        identity = effect.epoch, effect.to // self._daemon.region.span, effect.asker
        part = ProcessPart(identity, self._daemon, self._workers, self._workload.policy(), self)
        self._parts[part.number] = part
        for kernel in self._dead_kernels:
            part.peer_down(kernel)
        early, self._early = self._early, []
        for sender, message in early:
            self._receive(sender, message, memoryview(b""))

    def _end_fork(self, request: int, number: int, refusal: Refusal) -> None:
        each = self._forkers.pop(request)
        self._states.pop((self._daemon.kernel, request), None)
        each.asking = False
        self._workers.tell(each, worker.FORKED + NUMBER.pack(number) + REFUSED.get(refusal, "").encode())
        self._daemon.woke()

    def _tell_of_ends(self) -> None:
        """Let those go on who wait for processes that have ended, or of which nobody can say whether they have."""
        for entry in list(self._awaited):
            number, each = entry
            if self._life(number) is not Life.ALIVE and not self._is_about_to_be_unmapped(number):
                self._awaited.remove(entry)
                each.asking = False
                self._workers.tell(each, self._whether_it_goes_on(number))
                self._daemon.woke()

    def _whether_it_goes_on(self, number: int) -> bytes:
        home = self._parts[number].engine.home if number in self._parts else 0
        return worker.ENDED + bytes((self._life(number),)) + NUMBER.pack(home)

    def _life(self, number: int) -> Life:
        """Of a process, as far as it is known here."""
        part = self._parts.get(number)
        if part is None or (part.over and part.engine.ended):
            return Life.GONE
        return Life.UNKNOWN if part.engine.home in self._dead_kernels else Life.ALIVE

    def _is_about_to_be_unmapped(self, number: int) -> bool:
        """Whether there will soon be room for another process in place of this one, which has ended, and is over on all
        kernels then: who waits for its end waits for that."""
        part = self._parts.get(number)
        if part is None or not self._daemon.region.mapped(part.space):
            return False
        unmapping, ordering = part.engine.home, self._first.engine.home
        return not {unmapping, ordering} & {*self._dead_kernels}

    # -- other kernels -------------------------------------------------------------------------------------------------

    def _receive(self, sender: int, message: Message, payload: memoryview) -> None:
        state = worker.without_length(payload) if payload else b""
        if message.name in FORK_MESSAGES:
            if state:
                self._states[sender, message.request] = state
            self._carry_out(self._forks.receive(sender, message))
        else:
            number = message.page >> PROCESS_SHIFT
            part = self._parts.get(number)
            if part is None:
                self._early.append((sender, message))
            else:
                part.receive(sender, message._replace(page=message.page & _THREAD) if number else message, state)

    def _kernel_died(self, kernel: int) -> None:
        self._dead_kernels.append(kernel)
        if not self._begun_ns:
            self._barrier.bury(kernel, 1)
            self._go_on()
        self._carry_out(self._forks.peer_down(kernel))
        for part in list(self._parts.values()):
            part.peer_down(kernel)
        self._tell_of_ends()

    # -- what its parts ask for ----------------------------------------------------------------------------------------

    def launch(self, part: ProcessPart) -> None:
        """See `Host.launch`."""
        self._launch(part)

    def view(self, leaving: list[int]) -> View:
        """See `Host.view`."""
        self.tell_load()
        nodes, usable = self._daemon.nodes, self._daemon.kernels[: self._workload.kernels]
        living = [kernel for kernel in usable if kernel not in self._dead_kernels]
        return View(self._daemon.kernel, {kernel: nodes[kernel].load + leaving.count(kernel) for kernel in living})

    def tell_load(self) -> None:
        """See `Host.tell_load`."""
        here = sum(part.here for part in self._parts.values())
        self._daemon.node.load = max(0, here - self._workers.sleeping)

    def _parked(self) -> int:
        """See `Daemon.count_parked`. Threads sleep and end without a word to the other kernels, which are told now."""
        parts = self._parts.values()
        if self._first.policy.weighs:
            self.tell_load()
        return self._workers.sleeping + sum(part.leaving + part.placed for part in parts)

    def part_is_over(self, part: ProcessPart) -> None:
        """See `Host.part_is_over`. What belonged to the last one goes with the run. Of others the workers end here, and
        home gives the memory back, as the process is over everywhere."""
        if self._end():
            return
        self._workers.dismiss(part)
        if part.engine.home == self._daemon.kernel:
            span = self._daemon.region.span
            self._operate(Operation(Kind.UNMAP, part.space * span, span), lambda _: None)
        self._tell_of_ends()

    def _end(self) -> bool:
        """The run is over when all processes are."""
        if not self._is_over():
            return False
        self._ended_ns = monotonic_ns()
        self._begun_ns = self._begun_ns or self._ended_ns
        self._daemon.stop()
        return True

    def _is_over(self) -> bool:
        return not self._operations and all(part.over for part in self._parts.values())

    def where(self) -> str:
        """See `Running.where`."""
        if not self._begun_ns:
            return f"it has not begun, as kernels {self._barrier.missing()} are not ready"
        words = []
        for part in self._parts.values():
            if not part.over:
                here = sorted(
                    each.thread for each in self._workers.all if each.part is part and each.thread is not None
                )
                name = f"of process {part.number}, " if part.number else ""
                words.append(f"{name}threads {here} are here, {sorted(part.engine.placeholders)} are away")
                words += part.where()
        words += [f"thread {each.label} waits for the end of process {number}" for number, each in self._awaited]
        return "; ".join([*words, *self._workers.where()])
