"""One kernel's part of a distributed process: its threads, the processes that run them, and what came of it.

The engine of threads (`guest.protocol.threads`) says what is to happen; here it happens: a *worker*, a process of the
operating system, runs one thread at a time, waits in the pool for the next one, or is the placeholder of one that is
away. The faults of a worker are served only while it has a thread.
"""

import pickle
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from guest import application, process, worker
from guest.applications import ENDED_EARLY, RunFailed
from guest.barrier import Barrier
from guest.daemon import Daemon
from guest.launcher import Launcher
from guest.offer import Offer
from guest.placement import View
from guest.protocol import thread_effects as fx
from guest.protocol.address_space import Refusal
from guest.protocol.effects import Send
from guest.protocol.messages import Message, MessageName
from guest.protocol.threads import Part, ThreadsEngine
from guest.run import failure_of
from guest.stays import Stays
from guest.timeline import Timeline
from guest.worker import NUMBER
from guest.workers import Worker, Workers
from guest.workloads.distributed import Distributed

MAIN = 0
"""Number of the first thread."""
MOVES_KEPT = 4096
"""Notes of what became of threads that an answer carries, the last ones."""
_WHY = {fx.Why.HERE: "", fx.Why.REFUSED: "it had no process to give", fx.Why.DIED: "it is dead"}


class ProcessRun:
    """From `start` until the group has ended; all of it happens inside `Daemon.serve`, as with `guest.run.Run`."""

    def __init__(self, daemon: Daemon, launcher: Launcher, workload: Distributed, deadline_ns: int | None) -> None:
        self.failure: RunFailed | None = None
        self._daemon = daemon
        self._workload = workload
        self._deadline_ns = deadline_ns
        self._engine = daemon.traced("threads", ThreadsEngine(daemon.kernel, daemon.kernels))
        self._policy = workload.policy()
        self._stays = Stays()
        self._workers = Workers(daemon, launcher, self._heard, self._worker_died, self._count_parked)
        self._pool: deque[Worker] = deque()
        self._by_thread: dict[int, Worker] = {}
        self._states: dict[int, bytes] = {}
        """Of threads that are about to go, or have come and have no worker yet."""
        self._destinations: dict[int, int] = {}
        """Of threads that are about to go."""
        self._waiting: deque[fx.Place] = deque()
        """Threads for which the pool had nobody."""
        self._runnable: set[int] = set()
        """Of these, those that began here: they run as soon as they have a worker."""
        self._placed: set[int] = set()
        """Threads that have a worker, and may not run yet."""
        self._later: deque[Callable[[], list[fx.ThreadEffect]]] = deque()
        """Events of the engine that wait until the effects of the one before are carried out."""
        self._busy = False
        self._afterwards: deque[Callable[[], object]] = deque()
        """What is done to workers: once messages are on their way, as a worker that hears something takes the CPU."""
        self._barrier = Barrier(daemon.kernel, daemon.kernels, 1)
        self._timeline = Timeline()
        self._moves: deque[tuple[int, int, str, int, str]] = deque(maxlen=MOVES_KEPT)
        self._figures: dict[str, int | float] = {}
        self._dead_kernels: list[int] = []
        self._lost: list[int] = []
        self._begun_ns = self._ended_ns = 0
        self._incoming = b""
        self._launched = 0
        self._launch: Callable[[], None]
        self._effects: dict[type[Any], Callable[[Any], None]] = {
            Send: self._send,
            fx.Run: self._run,
            fx.Stay: self._stay,
            fx.TakeState: self._take_state,
            fx.Create: self._create,
            fx.Place: self._place,
            fx.Drop: self._drop,
            fx.Park: self._park,
            fx.EndThread: lambda effect: self._note(effect.thread, "ended", self._daemon.kernel),
            fx.EndPlaceholder: lambda effect: self._release(effect.thread),
            fx.Lost: self._lose,
            fx.Dissolve: lambda _: None,  # the processes of the operating system go with the run
            fx.GroupEnded: lambda _: self._finish(),
        }

    def start(self, fields: dict[str, Any], offer: Offer, program_fd: int) -> None:
        """Fork the workers, and begin when all kernels have theirs: with the first thread, at home."""
        daemon = self._daemon
        place = {"workload": fields, "kernel": daemon.kernel, "kernels": len(daemon.kernels), "worker": True}

        def launch() -> None:
            self._launched += 1
            self._workers.launch(Worker(self._launched), place, offer, program_fd)

        self._launch = launch
        for _ in range(self._workload.pool):
            launch()
        daemon.on_harness = self._harness
        daemon.on_thread = self._receive
        daemon.watch_others(self._kernel_died)
        daemon.deliver_kept()

    def tick(self, now_ns: int) -> None:
        """Time passes."""
        if self._deadline_ns is not None and now_ns > self._deadline_ns:
            self._fail(RunFailed("deadline", f"the process has not ended in time: {self._where()}"))

    def abort(self) -> None:
        """End the run now, here and on the other kernels."""
        self._fail(RunFailed("aborted", f"the run was ended by command: {self._where()}"))

    def close(self) -> None:
        """End every process of the operating system that belongs to it."""
        daemon = self._daemon
        daemon.on_harness = daemon.on_thread = None
        daemon.watch_others(None)
        self._workers.close()
        daemon.node.load = 0

    def result(self) -> dict[str, Any]:
        """What came of a run that did not fail, for the agent's answer. Before `close`."""
        self._daemon.settle()
        names = ("at_ns", "thread", "event", "kernel", "placement")
        return {
            "verified": True,
            "wrong": 0,
            "mismatches": [],
            "iterations": self._workload.iterations,
            "pages": self._workload.pages,
            "dead_kernels": self._dead_kernels,
            "dead_threads": [{"thread": thread, "how": "its kernel died"} for thread in self._lost],
            **self._workers.told(self._timeline, self._begun_ns),
            "moves": [dict(zip(names, (note[0] - self._begun_ns, *note[1:]), strict=True)) for note in self._moves],
            "stays": self._stays.told(self._begun_ns),
            "figures": self._figures,
            "duration_s": round((self._ended_ns - self._begun_ns) / 1e9, 6),
        }

    # -- before it begins ----------------------------------------------------------------------------------------------

    def _is_ready(self, each: Worker) -> None:
        """It waits for a thread."""
        self._to_pool(each)
        all_are = len(self._pool) == self._launched == self._workload.pool
        if not self._begun_ns and all_are and self._barrier.arrive(0):
            self._timeline.announced(0)
            self._daemon.send_harness(MessageName.BARRIER, 0)
            self._begin()

    def _harness(self, sender: int, message: Message) -> None:
        if message.name == MessageName.BARRIER:
            self._timeline.heard(sender, message.request)
            self._barrier.announce(sender, message.request, message.copyset)
            self._begin()
        elif message.request == ENDED_EARLY and self.failure is None:
            self.failure = RunFailed(
                "peer", f"kernel {sender} ended the run early; {self._where()}", "see what it says"
            )
            self._daemon.stop()

    def _begin(self) -> None:
        if not self._barrier.open():
            return
        self._begun_ns = monotonic_ns()
        if self._daemon.kernel == self._engine.home:
            self._begin_thread(MAIN, self._engine.home, pickle.dumps(process.Main()))

    # -- what workers say ----------------------------------------------------------------------------------------------

    def _heard(self, each: Worker, kind: bytes, body: bytes) -> None:
        if kind == worker.MIGRATE:
            assert each.thread is not None
            (to,) = NUMBER.unpack_from(body)
            self._states[each.thread] = body[NUMBER.size :]
            self._leaves(each.thread, to)
            self._event(lambda thread=each.thread: self._engine.migrate(thread, to))  # type: ignore[misc]
        elif kind == worker.ASK:
            assert each.thread is not None
            self._daemon.settle()
            to = self._policy.moves(each.thread, self._view(), self._stays.pages(each.thread))
            self._workers.tell(each, worker.ADVICE + NUMBER.pack(to))
            self._daemon.woke()
        elif kind == worker.READY:
            self._is_ready(each)
        elif kind == worker.EXITED:
            assert each.thread is not None
            thread = each.thread
            self._note(thread, "ended", self._daemon.kernel)
            self._release(thread)
            self._event(lambda: self._engine.exit(thread))
        elif kind == worker.START:
            number, to = NUMBER.unpack_from(body)[0], NUMBER.unpack_from(body, NUMBER.size)[0]
            self._begin_thread(number, to, body[2 * NUMBER.size :])
        elif kind == worker.FIGURE:
            name, _, value = body.decode().partition("=")
            number = float(value) if "." in value or "e" in value or "n" in value else int(value)
            self._figures[name] = max(number, self._figures.get(name, number))
        elif kind == worker.EXIT_GROUP:
            self._event(self._engine.exit_group)
        elif kind == application.FAILED:
            self._fail(failure_of(each, body))

    def _begin_thread(self, thread: int, to: int, state: bytes) -> None:
        """A thread begins; one that is to run elsewhere leaves at once, and never had a worker here."""
        if to == worker.ANYWHERE:
            to = self._policy.begins(thread, self._view())
        self._states[thread] = state
        self._note(thread, "begins", self._daemon.kernel)
        if to == self._daemon.kernel:
            self._place(fx.Place(thread, fx.Placement.CLONED))
            self._event(lambda: self._engine.start(thread))
            return
        self._event(lambda: [each for each in self._engine.start(thread) if not isinstance(each, fx.Run)])
        self._leaves(thread, to)
        self._event(lambda: self._engine.migrate(thread, to))

    def _leaves(self, thread: int, to: int) -> None:
        self._note(thread, "leaves", to)
        self._destinations[thread] = to

    def _view(self) -> View:
        """What placement knows."""
        leaving = list(self._destinations.values())
        nodes = self._daemon.nodes
        living = [
            kernel for kernel in self._daemon.kernels[: self._workload.kernels] if kernel not in self._dead_kernels
        ]
        return View(self._daemon.kernel, {kernel: nodes[kernel].load + leaving.count(kernel) for kernel in living})

    def _worker_died(self, each: Worker, how: str) -> None:
        what = (
            f"worker {each.number}, with thread {each.thread}," if each.thread is not None else "a worker in the pool"
        )
        self._fail(RunFailed("application", f"{what} ended early: {how}; {self._where()}{each.said}"))

    # -- other kernels -------------------------------------------------------------------------------------------------

    def _receive(self, sender: int, message: Message, payload: memoryview) -> None:
        if payload:
            (size,) = NUMBER.unpack_from(payload)
            self._incoming = bytes(payload[NUMBER.size : NUMBER.size + size])
        self._event(lambda: self._engine.receive(sender, message))

    def _kernel_died(self, kernel: int) -> None:
        self._dead_kernels.append(kernel)
        if not self._begun_ns:
            self._barrier.bury(kernel, 1)
            self._begin()
        self._event(lambda: self._engine.peer_down(kernel))

    # -- what the engine wants -----------------------------------------------------------------------------------------

    def _event(self, event: Callable[[], list[fx.ThreadEffect]]) -> None:
        """Give the engine an event, and carry out what it wants, before the next one."""
        self._later.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._later:
                for effect in self._later.popleft()():
                    self._effects[type(effect)](effect)
                if not self._later:
                    self._turn_to_workers()
        finally:
            self._busy = False
        if self._over():
            self._finish()

    def _turn_to_workers(self) -> None:
        while self._afterwards:
            self._afterwards.popleft()()
        self._count_parked()

    def _tell(self, each: Worker, packet: bytes) -> None:
        self._afterwards.append(lambda: self._workers.tell(each, packet))

    def _suspend(self, each: Worker) -> None:
        self._afterwards.append(lambda: self._workers.suspend(each))

    def _over(self) -> bool:
        """Whether nothing of the process is left here, and nothing will come. Home hears it of all (`GroupEnded`)."""
        engine, kernel = self._engine, self._daemon.kernel
        if kernel == engine.home:
            return False
        return engine.ended or (engine.part is Part.NONE and engine.home in self._dead_kernels)

    def _send(self, effect: Send) -> None:
        to, message, _ = effect
        payload = b""
        if message.name == MessageName.THREAD_MIGRATE:
            state = self._states[message.page]
            payload = NUMBER.pack(len(state)) + state
        self._daemon.send(to, message, payload)

    def _run(self, effect: fx.Run) -> None:
        self._let_run(effect.thread)

    def _let_run(self, thread: int) -> None:
        each = self._by_thread.get(thread)
        if each is None:
            self._runnable.add(thread)
            return
        self._tell(each, worker.RUN)
        self._placed.discard(thread)
        self._daemon.settle()
        self._stays.begins(thread, each.faults)
        self._note(thread, "runs", self._daemon.kernel)
        self._daemon.woke()

    def _stay(self, effect: fx.Stay) -> None:
        thread, why = effect
        self._note(thread, "stays", self._daemon.kernel)
        self._destinations.pop(thread, None)
        each = self._by_thread.get(thread)
        if each is None:  # it was to begin elsewhere
            self._place(fx.Place(thread, fx.Placement.CLONED))
            self._let_run(thread)
            return
        self._states.pop(thread, None)
        self._tell(each, worker.STAY + _WHY[why].encode())
        self._daemon.woke()

    def _take_state(self, effect: fx.TakeState) -> None:
        self._states[effect.thread], self._incoming = self._incoming, b""

    def _create(self, _: fx.Create) -> None:
        def done(refusal: Refusal) -> None:
            if refusal is Refusal.NONE:
                self._event(self._engine.created)
            else:
                for thread in [thread for thread in self._states if thread not in self._by_thread]:
                    del self._states[thread]
                    self._event(lambda thread=thread: self._engine.refused(thread))  # type: ignore[misc]

        self._daemon.join(done)

    def _place(self, effect: fx.Place) -> None:
        """A worker for the thread: its placeholder, or one of the pool, which may have to be filled first."""
        thread, placement = effect
        each = self._by_thread.get(thread)
        if each is None:
            if not self._pool:
                self._waiting.append(effect)
                self._launch()
                return
            each = self._pool.popleft()
            each.thread = thread
            self._by_thread[thread] = each
        self._afterwards.append(lambda: self._workers.serve(each))
        self._tell(each, worker.PLACE + NUMBER.pack(thread) + self._states.pop(thread))
        self._placed.add(thread)
        self._note(thread, "placed", self._daemon.kernel, placement.name)
        self._event(lambda: self._engine.placed(thread))
        if thread in self._runnable:
            self._runnable.discard(thread)
            self._let_run(thread)

    def _to_pool(self, each: Worker) -> None:
        each.thread = None
        self._pool.append(each)
        if self._waiting:
            self._place(self._waiting.popleft())

    def _drop(self, effect: fx.Drop) -> None:
        thread = effect.thread
        self._states.pop(thread, None)
        self._placed.discard(thread)
        self._waiting = deque(place for place in self._waiting if place.thread != thread)
        each = self._by_thread.get(thread)
        if each is None:
            return
        self._tell(each, worker.DROP)
        if thread in self._engine.placeholders:
            self._suspend(each)
        else:
            self._release(thread)

    def _park(self, effect: fx.Park) -> None:
        thread, to, placement = effect
        self._states.pop(thread, None)
        self._note(thread, "left", to, placement.name)
        self._destinations.pop(thread, None)
        self._afterwards.append(lambda: self._gone(thread))
        each = self._by_thread.get(thread)
        if each is not None:
            self._tell(each, worker.PARKED)
            self._suspend(each)

    def _release(self, thread: int) -> None:
        """The thread's worker is in the pool again."""
        each = self._by_thread.pop(thread, None)
        if each is not None:
            self._gone(thread)
            self._suspend(each)
            self._to_pool(each)

    def _gone(self, thread: int) -> None:
        """It runs here no more."""
        self._daemon.settle()
        self._stays.ends(thread)
        self._policy.leaves(thread)

    def _lose(self, effect: fx.Lost) -> None:
        self._lost.append(effect.thread)
        self._note(effect.thread, "lost", self._daemon.kernel)

    def _finish(self) -> None:
        self._ended_ns = monotonic_ns()
        self._begun_ns = self._begun_ns or self._ended_ns
        self._daemon.stop()

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _note(self, thread: int, event: str, kernel: int, placement: str = "") -> None:
        self._moves.append((monotonic_ns(), thread, event, kernel, placement))

    def _count_parked(self) -> None:
        leaving = sum(thread in self._states for thread in self._by_thread)
        parked = self._workers.sleeping + leaving
        here = sum(each.served for each in self._workers.all)
        self._daemon.parked = parked + len(self._placed)
        self._daemon.node.load = max(0, here - parked) + len(self._waiting)

    def _fail(self, failure: RunFailed) -> None:
        if self.failure is None:
            self.failure = failure
            self._daemon.send_harness(MessageName.CONTROL, ENDED_EARLY)
            self._daemon.stop()

    def _where(self) -> str:
        """How far it is, in words."""
        if not self._begun_ns:
            return f"it has not begun, as kernels {self._barrier.missing()} are not ready"
        here = [each.thread for each in self._workers.all if each.served]
        return "; ".join(
            [f"threads {here} are here, {list(self._engine.placeholders)} are away", *self._workers.where()]
        )
