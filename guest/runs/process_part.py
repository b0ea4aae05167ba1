"""One kernel's part of one distributed process: its threads, and the processes of the operating system that run them.

The engine of threads (`guest.protocol.threads`) says what is to happen; here it happens: a *worker*, a process of the
operating system, runs one thread at a time, waits in the pool for the next one, or is the placeholder of one that is
away. The faults of a worker are served only while it has a thread.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, NamedTuple, Protocol

from guest.daemon.daemon import Daemon
from guest.programs import worker
from guest.programs.worker import NUMBER
from guest.protocol import thread_effects as fx
from guest.protocol.address_space import Refusal
from guest.protocol.arrival import Part
from guest.protocol.effects import Send
from guest.protocol.messages import Message, MessageName, new_tuple
from guest.protocol.thread_messages import THREAD_MESSAGES_WITH_STATE
from guest.protocol.threads import ThreadsEngine
from guest.runs.stays import Stays
from guest.runs.workers import Worker, Workers
from guest.workloads.placement import Policy, View

PROCESS_SHIFT = 16
"""Messages about threads have the process's number above this bit of the thread's."""
_WHY = {fx.Why.HERE: "", fx.Why.REFUSED: "it had no process to give", fx.Why.DIED: "it is dead"}


class Note(NamedTuple):
    """What became of a thread at some moment."""

    at_ns: int
    process: int
    thread: int
    event: str
    kernel: int
    placement: fx.Placement | None

    def told(self, begun_ns: int) -> dict[str, Any]:
        """For the agent's answer: times are since `begun_ns`."""
        placement = "" if self.placement is None else self.placement.name
        return {**self._asdict(), "at_ns": self.at_ns - begun_ns, "placement": placement}


class Host(Protocol):
    """The run that the part belongs to."""

    @property
    def dead_kernels(self) -> list[int]:
        """Kernels that have died since the run began."""

    @property
    def notes(self) -> deque[Note]:
        """What became of threads, in order."""

    def launch(self, part: "ProcessPart") -> None:
        """Fork one more worker for the part; it says when it is ready."""

    def view(self, leaving: list[int]) -> View:
        """What placement knows, when threads are about to go to these kernels."""

    def tell_load(self) -> None:
        """Let the other kernels know how many threads are here."""

    def part_is_over(self, part: "ProcessPart") -> None:
        """Nothing of it is left here, and nothing will come."""


class ProcessPart:
    """From the birth of the process until nothing of it is left on this kernel."""

    def __init__(
        self, identity: tuple[int, int, int], daemon: Daemon, workers: Workers, policy: Policy, host: Host
    ) -> None:
        """`identity`: the process's number, the number of its address space, its home kernel."""
        self.number, self.space, home = identity
        self.over = False
        """Whether nothing of it is left here."""
        self.lost: list[int] = []
        """Threads that died with their kernels, as far as this one can tell."""
        self.policy = policy
        self.pool: list[Worker] = []
        """Those that wait for a thread; the last one comes first, as most of what it needs is in the caches."""
        self.stays = Stays()
        self._daemon, self._workers, self._host = daemon, workers, host
        self._notes = host.notes
        part = f"threads/{self.number}/{home}" if self.number else "threads"
        self.engine = daemon.traced(part, ThreadsEngine(daemon.kernel, daemon.kernels, home))
        self._by_thread: dict[int, Worker] = {}
        self._here: set[int] = set()
        """Threads that run here, or will once they have a worker and their sources can read so."""
        self._leaving: dict[int, bytes] = {}
        """States of threads that are about to go."""
        self._states: dict[int, bytes] = {}
        """Of threads that have come, or begin, and have no worker yet."""
        self._placed: dict[int, bytes] = {}
        """Of threads that have a worker, and may not run yet. Workers hear of them only when they may: hearing of it
        twice would take the CPU twice from the daemon."""
        self._unsaid: set[int] = set()
        """Threads that may run as soon as their sources can read so: that waits for room in a ring."""
        self._destinations: dict[int, int] = {}
        """Of threads that are about to go."""
        self._watchers: dict[int, list[tuple[Worker, bool]]] = {}
        """By thread, who has asked what has become of it, and whether they wait until it is no more."""
        self._results: dict[int, bytes] = {}
        """Of threads that have ended here, or have been here: the memory's may be lost with a kernel."""
        self._waiting: deque[fx.Place] = deque()
        """Threads for which the pool had nobody."""
        self._runnable: set[int] = set()
        """Of these, those that began here: they run as soon as they have a worker."""
        self._later: deque[tuple[Callable[..., list[fx.ThreadEffect]], tuple[Any, ...]]] = deque()
        """Events of the engine that wait until the effects of the one before are carried out."""
        self._busy = False
        self._afterwards: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """What is done to workers: once messages are on their way, as a worker that hears something takes the CPU."""
        self._incoming = b""
        self._effects: dict[type[Any], Callable[[Any], None]] = {
            Send: self._send,
            fx.Run: self._run,
            fx.Stay: self._stay,
            fx.TakeState: self._take_state,
            fx.DropState: self._drop_state,
            fx.Create: self._create,
            fx.Place: self._place,
            fx.Drop: self._drop,
            fx.Park: self._park,
            fx.EndThread: self._end_thread,
            fx.EndPlaceholder: lambda effect: self._release(effect.thread),
            fx.Lost: self._lose,
            fx.Fate: self._tell_fate,
            fx.Dissolve: lambda _: None,  # the processes of the operating system go when the part is over
            fx.GroupEnded: lambda _: self._finish(),
        }

    # -- what workers say ----------------------------------------------------------------------------------------------

    def heard(self, each: Worker, kind: bytes, body: bytes) -> bool:
        """What a worker says of its thread; false if it is not that."""
        if kind == worker.MIGRATE:
            assert each.thread is not None
            (to,) = NUMBER.unpack_from(body)
            self._leaves(each.thread, to, body[NUMBER.size :])
            self._event(self.engine.migrate, each.thread, to)
        elif kind == worker.ASK:
            assert each.thread is not None
            self._daemon.settle()
            to = self.policy.moves(each.thread, self._view(), self.stays.pages(each.thread))
            self._workers.tell(each, worker.ADVICE + NUMBER.pack(to))
            self._daemon.woke()
        elif kind == worker.EXITED:
            assert each.thread is not None
            thread = each.thread
            self._results[thread] = body
            self._note(thread, "ended", self._daemon.kernel)
            self._release(thread)
            self._event(self.engine.exit, thread)
        elif kind == worker.START:
            number, to = NUMBER.unpack_from(body)[0], NUMBER.unpack_from(body, NUMBER.size)[0]
            self.begin_thread(number, to, body[2 * NUMBER.size :])
            self._workers.tell(each, worker.STARTED)
            self._daemon.woke()
        elif kind == worker.WATCH:
            thread, began = NUMBER.unpack_from(body)[0], NUMBER.unpack_from(body, NUMBER.size)[0]
            self._watch(each, thread, began, until_gone=body[-1] == 1)
        elif kind == worker.EXIT_GROUP:
            self._event(self.engine.exit_group)
        else:
            return False
        return True

    def begin_thread(self, thread: int, to: int, state: bytes) -> None:
        """A thread begins; one that is to run elsewhere leaves at once, and never had a worker here."""
        if to == worker.ANYWHERE:
            to = self.policy.begins(thread, self._view())
        self._note(thread, "begins", self._daemon.kernel)
        if to == self._daemon.kernel:
            self._states[thread] = state
            self._place(fx.Place(thread, fx.Placement.CLONED))
            self._event(self.engine.start, thread)
            return
        self._event(lambda: [each for each in self.engine.start(thread) if not isinstance(each, fx.Run)])
        self._leaves(thread, to, state)
        self._event(self.engine.migrate, thread, to)

    def _leaves(self, thread: int, to: int, state: bytes) -> None:
        self._note(thread, "leaves", to)
        self._here.discard(thread)
        self._leaving[thread] = state
        self._destinations[thread] = to

    def _view(self) -> View:
        return self._host.view(list(self._destinations.values()))

    def _watch(self, each: Worker, thread: int, began: int, *, until_gone: bool) -> None:
        if not (self._host.dead_kernels or until_gone):  # then it is lost to nobody
            self._workers.tell(each, worker.FATE + bytes((fx.Life.ALIVE,)))
            self._daemon.woke()
            return
        each.asking = True
        self._watchers.setdefault(thread, []).append((each, until_gone))
        self._event(self.engine.watch, thread, began)

    def to_pool(self, each: Worker) -> None:
        """The worker waits for a thread."""
        each.thread = None
        self.pool.append(each)
        if self._waiting:
            self._place(self._waiting.popleft())

    # -- other kernels -------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: Message, state: bytes) -> None:
        """A message about threads, and the state that came with it."""
        if state and message.name != MessageName.THREAD_MIGRATE:
            self._results[message.page] = state
        elif state:
            self._incoming = state
        self._event(self.engine.receive, sender, message)

    def peer_down(self, kernel: int) -> None:
        """Another kernel died."""
        self._event(self.engine.peer_down, kernel)

    # -- what the engine wants -----------------------------------------------------------------------------------------

    def _event(self, event: Callable[..., list[fx.ThreadEffect]], *arguments: Any) -> None:
        """Give the engine an event, and carry out what it wants, before the next one."""
        self._later.append((event, arguments))
        if self._busy:
            return
        self._busy = True
        try:
            while self._later:
                event, arguments = self._later.popleft()
                for effect in event(*arguments):
                    self._effects[type(effect)](effect)
                while self._afterwards and not self._later:
                    do, arguments = self._afterwards.popleft()
                    do(*arguments)
        finally:
            self._busy = False
        if self._is_over():
            self._finish()

    def _tell(self, each: Worker, packet: bytes) -> None:
        self._afterwards.append((self._workers.tell, (each, packet)))

    def _suspend(self, each: Worker) -> None:
        self._afterwards.append((self._workers.suspend, (each,)))

    def _is_over(self) -> bool:
        """Whether nothing of the process is left here, and nothing will come. Home hears it of all (`GroupEnded`)."""
        engine, kernel = self.engine, self._daemon.kernel
        if kernel == engine.home:
            return False
        return engine.ended or (engine.part is Part.NONE and engine.home in self._host.dead_kernels)

    def _send(self, effect: Send) -> None:
        to, message, _ = effect
        payload = b""
        thread = message.page
        if message.name == MessageName.THREAD_MIGRATE:
            payload = worker.with_length(self._leaving[thread])
        elif message.name in THREAD_MESSAGES_WITH_STATE:
            payload = worker.with_length(self._results.get(thread, b""))
        if self.number:
            message = message._replace(page=thread | self.number << PROCESS_SHIFT)
        self._daemon.send(to, message, payload)
        if message.name == MessageName.THREAD_PLACED and thread in self._placed and self._daemon.unsent(to):
            self._unsaid.add(thread)
            self._daemon.when_sent(to, lambda: self._event(self._said, thread))

    def _said(self, thread: int) -> list[fx.ThreadEffect]:
        """The thread's source can read that the thread runs here."""
        if thread not in self._unsaid:
            return []  # it has ended meanwhile, with all others
        self._unsaid.discard(thread)
        return [fx.Run(thread)]

    def _run(self, effect: fx.Run) -> None:
        if effect.thread not in self._unsaid:
            self._let_run(effect.thread)

    def _let_run(self, thread: int) -> None:
        each = self._by_thread.get(thread)
        if each is None:
            self._runnable.add(thread)
            return
        self._note(thread, "runs", self._daemon.kernel)
        self._tell(each, worker.RUN + NUMBER.pack(thread) + self._placed.pop(thread))
        self._afterwards.append((self._stay_begins, (thread, each)))

    def _stay_begins(self, thread: int, each: Worker) -> None:
        """Its faults are handled later than this, though it may be running already."""
        self._daemon.settle()
        self.stays.begins(thread, each.faults)

    def _stay(self, effect: fx.Stay) -> None:
        thread, why = effect
        self._note(thread, "stays", self._daemon.kernel)
        self._destinations.pop(thread, None)
        each = self._by_thread.get(thread)
        state = self._leaving.pop(thread)
        if each is None:  # it was to begin elsewhere
            self._states[thread] = state
            self._place(fx.Place(thread, fx.Placement.CLONED))
            self._let_run(thread)
            return
        self._here.add(thread)
        self._tell(each, worker.STAY + _WHY[why].encode())
        self._daemon.woke()

    def _take_state(self, effect: fx.TakeState) -> None:
        self._states[effect.thread], self._incoming = self._incoming, b""

    def _drop_state(self, effect: fx.DropState) -> None:
        del self._states[effect.thread]

    def _create(self, _: fx.Create) -> None:
        def done(refusal: Refusal) -> None:
            if refusal is Refusal.NONE:
                self._event(self.engine.created)
            else:
                for thread in [thread for thread in self._states if thread not in self._by_thread]:
                    del self._states[thread]
                    self._event(self.engine.refused, thread)

        self._daemon.join(done)

    def _place(self, effect: fx.Place) -> None:
        """A worker for the thread: its placeholder, or one of the pool, which may have to be filled first."""
        thread, placement = effect
        self._here.add(thread)
        if self.policy.weighs:  # before the source can read that the thread is not on its way any more
            self._host.tell_load()
        each = self._by_thread.get(thread)
        if each is None:
            if not self.pool:
                self._waiting.append(effect)
                self._host.launch(self)
                return
            each = self.pool.pop()
            each.thread = thread
            self._by_thread[thread] = each
        self._afterwards.append((self._workers.serve, (each,)))
        self._placed[thread] = self._states.pop(thread)
        self._note(thread, "placed", self._daemon.kernel, placement)
        if thread in self._runnable:
            self._runnable.discard(thread)
            self._let_run(thread)
        self._event(self.engine.placed, thread)

    def _drop(self, effect: fx.Drop) -> None:
        thread = effect.thread
        self._here.discard(thread)
        self._states.pop(thread, None)
        self._placed.pop(thread, None)
        self._waiting = deque(place for place in self._waiting if place.thread != thread)
        each = self._by_thread.get(thread)
        if each is None:
            return
        if thread in self.engine.placeholders:
            self._suspend(each)
        else:
            self._release(thread)

    def _park(self, effect: fx.Park) -> None:
        thread, to, placement = effect
        self._leaving.pop(thread, None)
        self._note(thread, "left", to, placement)
        self._destinations.pop(thread, None)
        self._afterwards.append((self._gone, (thread,)))
        each = self._by_thread.get(thread)
        if each is not None:
            self._tell(each, worker.PARKED)
            self._suspend(each)

    def _end_thread(self, effect: fx.EndThread) -> None:
        self._unsaid.discard(effect.thread)
        self._note(effect.thread, "ended", self._daemon.kernel)

    def _release(self, thread: int) -> None:
        """The thread's worker is in the pool again."""
        each = self._by_thread.pop(thread, None)
        if each is not None:
            self._here.discard(thread)
            self._gone(thread)
            self._suspend(each)
            self.to_pool(each)

    def _gone(self, thread: int) -> None:
        """It runs here no more."""
        self._daemon.settle()
        self.stays.ends(thread)
        self.policy.leaves(thread)

    def _lose(self, effect: fx.Lost) -> None:
        self.lost.append(effect.thread)
        self._note(effect.thread, "lost", self._daemon.kernel)

    def _tell_fate(self, effect: fx.Fate) -> None:
        thread, life = effect
        waiting: list[tuple[Worker, bool]] = []
        dead = " and ".join(f"kernel {kernel}" for kernel in self._host.dead_kernels)
        for each, until_gone in self._watchers.pop(thread, []):
            if until_gone and life is fx.Life.ALIVE:
                waiting.append((each, until_gone))
            else:
                each.asking = False
                result = self._results.get(thread, b"") if life is fx.Life.GONE else b""
                self._tell(each, worker.FATE + bytes((life,)) + dead.encode() + b"\0" + result)
                self._afterwards.append((self._daemon.woke, ()))
        if waiting:
            self._watchers[thread] = waiting

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self._host.part_is_over(self)

    # -- notes ---------------------------------------------------------------------------------------------------------

    @property
    def leaving(self) -> int:
        """How many threads wait for their migration with a worker of theirs."""
        return len(self._leaving.keys() & self._by_thread.keys())

    @property
    def placed(self) -> int:
        """How many threads have a worker and may not run yet."""
        return len(self._placed)

    @property
    def here(self) -> int:
        """How many threads run here, or will once they have a worker and their sources can read so."""
        return 0 if self.over else len(self._here)

    def where(self) -> list[str]:
        """Who waits for whose end, in words."""
        return [
            f"thread {each.label} waits for the end of thread {thread}"
            for thread, watchers in self._watchers.items()
            for each, _ in watchers
        ]

    def _note(self, thread: int, event: str, kernel: int, placement: fx.Placement | None = None) -> None:
        self._notes.append(new_tuple(Note, (monotonic_ns(), self.number, thread, event, kernel, placement)))
