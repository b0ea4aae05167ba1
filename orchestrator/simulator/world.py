"""A discrete-event simulator of kernels that share memory: virtual time, a heap of events, one seeded source of chance.

A kernel handles one thing at a time, as the daemon does: faults and messages queue in its inbox, and all effects of one
are carried out before the next. A woken thread makes its access in that very moment, which is the daemon's duty too.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import IO, NamedTuple

from guest.protocol import effects as fx
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message, MessageName
from orchestrator.results.summary import Mismatch
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.events import LAST, Event
from orchestrator.simulator.memory import NONE, POISONED, WRITABLE, Memory, StaleCopy, Truth, Violation
from orchestrator.simulator.network import Network
from orchestrator.simulator.setting import Access, Content, Setting, first_of, value_of

ACCESS_NS = 1_000
"""From a thread's access to its next one. Not a measurement: what matters is that it is short beside a message."""
HANDLING_NS = 20_000
"""What a daemon needs for one fault or message."""
HEARTBEAT_NS = 500_000_000
"""How often a sleeping daemon looks at its rings without being asked (`guest.link.membership`)."""
IDLE_EVENTS = 100_000
"""Events without any access, beside those of a first touch by all kernels, after which no thread gets on any more."""


class Parcel(NamedTuple):
    """In an inbox: a message with the page it carries, from another kernel."""

    sender: int
    message: Message
    content: Content | None


class Fault(NamedTuple):
    """In an inbox: a local thread cannot access a page."""

    page: int
    write: bool


class Death(NamedTuple):
    """In an inbox: another kernel is dead."""

    kernel: int


class Thread:
    """One thread: where it is in its steps."""

    def __init__(self, kernel: "Kernel", number: int, writer: int, steps: Iterator[Access | None]) -> None:
        self.kernel = kernel
        self.number = number
        self.writer = writer
        """Its place among the writers; -1 for others."""
        self.steps = steps
        self.access: Access | None = None
        self.ended = False
        self.fault_ns = 0
        """When the fault that it waits in began."""


@dataclass(eq=False)
class Kernel:
    """One kernel: its engine, its memory, and what waits to be handled."""

    number: int
    engine: Engine
    memory: Memory
    factor: float
    """How much slower than others it does everything."""
    alive: bool = True
    inbox: deque[Parcel | Fault | Death] = field(default_factory=deque)
    awake: bool = False
    free_ns: int = 0
    """When it has done what it did last."""
    beating: bool = False
    """Whether it is to find its messages at the next heartbeat."""
    waiting: dict[int, list[Thread]] = field(default_factory=dict)
    """By page: the threads in a fault."""
    threads: list[Thread] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    latency_us: dict[str, list[float]] = field(default_factory=dict)


class Lost(NamedTuple):
    """A thread touched a page whose only valid copy died with its kernel: SIGBUS in a real guest."""

    node: str
    thread: int
    page: int
    iteration: int


class World:
    """One simulation. `run` once, then read what came of it."""

    def __init__(self, setting: Setting, conditions: Conditions, seed: str, log: IO[str] | None = None) -> None:
        self.now_ns = 0
        self.ended_ns = 0
        """When the last thread had done its part."""
        self.handled = 0
        """Events so far."""
        self.failure: Violation | None = None
        self.mismatch: Mismatch | None = None
        self.lost: list[Lost] = []
        self.last: deque[Event] = deque(maxlen=LAST)
        self.counts: list[dict[str, int]] = []
        """At each barrier: the messages sent until then, by name."""
        self.died: list[int] = []
        self._accessed = 0
        """`handled` when a thread last accessed something."""
        self._setting = setting
        self._log = log
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = count()
        self._network = Network(conditions, len(setting.names), Random(seed))
        writers = setting.writers()
        blank = (0,) * len(writers)
        self._truth = Truth(setting.names, setting.array.pages, blank)
        self._extents = {extent.page: extent for extent in setting.array.extents()}
        self._stores = {
            page: [w for w in range(len(writers)) if first_of(extent, w, len(writers)) < extent.end]
            for page, extent in self._extents.items()
        }
        """By page: the writers that store to it."""
        self._unknown: set[int] = set()
        """Writers that died: nobody knows which of their stores were to be seen."""
        self._arrived: list[Thread] = []
        self._running: list[Thread] = []
        self.kernels = [self._kernel(number, dict(conditions.slow), blank) for number in range(len(setting.names))]
        for kernel in self.kernels:
            self._start(kernel, writers)
        for name, at_us in conditions.kills:
            self._at(at_us * 1000, self._die, self.kernels[setting.names.index(name)])

    def _kernel(self, number: int, slow: dict[str, float], blank: Content) -> Kernel:
        setting = self._setting
        pages = setting.array.pages
        return Kernel(
            number,
            setting.engine(number, range(len(setting.names)), pages),
            Memory(number, pages, blank, self._truth),
            slow.get(setting.names[number], 1.0),
        )

    def _start(self, kernel: Kernel, writers: list[tuple[int, int]]) -> None:
        for number, role in enumerate(self._setting.roles[kernel.number]):
            writer = writers.index((kernel.number, number)) if role == "writer" else -1
            thread = Thread(kernel, number, writer, self._setting.steps(role, writer, len(writers)))
            kernel.threads.append(thread)
            self._running.append(thread)
            self._at(0, self._go_on, thread)

    def run(self) -> None:
        """Until nothing happens any more, or something is wrong: that is `failure`."""
        allowed = IDLE_EVENTS + 8 * len(self.kernels) ** 2
        try:
            while self._heap:
                self.now_ns, _, call, arguments = heapq.heappop(self._heap)
                self.handled += 1
                call(*arguments)
                if self.handled > allowed + self._accessed:
                    raise self._stuck("messages go round and no thread gets on")
            if any(not thread.ended for thread in self._running):
                raise self._stuck("nothing is in flight any more")
        except StaleCopy as stale:
            self.failure = self._stale(stale)
        except ProtocolError as error:
            self.failure = Violation("protocol", error.message)
        except Violation as violation:
            self.failure = violation

    def sent(self) -> dict[str, int]:
        """The messages of all kernels so far, by name."""
        total: Counter[str] = Counter()
        for each in self.sent_by_each():
            total.update(each)
        return dict(total)

    def sent_by_each(self) -> list[dict[str, int]]:
        """The messages of every kernel so far, by name."""
        return [{MessageName(name).name: number for name, number in kernel.sent.items()} for kernel in self.kernels]

    def _at(self, time_ns: int, call: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._heap, (time_ns, next(self._number), call, arguments))

    def _note(self, kernel: int, what: str, page: int = -1, peer: int = -1, message: Message | None = None) -> None:
        event = Event(self.now_ns, kernel, what, page, peer, message)
        self.last.append(event)
        if self._log is not None:
            event.write(self._setting.names, self._log)

    # Threads ----------------------------------------------------------------------------------------------------------

    def _go_on(self, thread: Thread) -> None:
        """The thread's next step."""
        if not thread.kernel.alive:
            return
        try:
            thread.access = next(thread.steps)
        except StopIteration:
            thread.ended = True
            self.ended_ns = self.now_ns
            return
        if thread.access is None:
            self._arrived.append(thread)
            self._open_barrier()
        elif not self._try(thread, thread.access):
            thread.fault_ns = self.now_ns
            self._fault(thread, thread.access)

    def _try(self, thread: Thread, access: Access) -> bool:
        """Whether the memory lets the thread do it; if so, it is done, and the thread goes on."""
        kernel, (page, write, iteration) = thread.kernel, access
        allowed = kernel.memory.access[page]
        if allowed == NONE or (write and allowed not in (WRITABLE, POISONED)):
            return False
        if allowed == POISONED:
            self._note(kernel.number, "finds lost", page)
            self.lost.append(Lost(self._setting.names[kernel.number], thread.number, page, iteration))
        elif write:
            self._note(kernel.number, "stores to", page)
            kernel.memory.store(page, thread.writer, iteration + 1)
        else:
            self._note(kernel.number, "loads from", page)
            self._check(thread, page, iteration)
        self._accessed = self.handled
        self._at(self.now_ns + int(ACCESS_NS * kernel.factor), self._go_on, thread)
        return True

    def _check(self, thread: Thread, page: int, iteration: int) -> None:
        """Every writer must have stored this iteration: all met at the barrier since."""
        content = thread.kernel.memory.content[page]
        for writer in self._stores[page]:
            if content[writer] != iteration + 1 and writer not in self._unknown:
                expected = (*content[:writer], iteration + 1, *content[writer + 1 :])
                self.mismatch = self._mismatch(thread.kernel.number, page, expected, content, iteration, thread.number)
                raise Violation("wrong value", str(self.mismatch))

    def _fault(self, thread: Thread, access: Access) -> None:
        kernel = thread.kernel
        kernel.waiting.setdefault(access.page, []).append(thread)
        kernel.inbox.append(Fault(access.page, access.write))
        self._wake(kernel)

    def _open_barrier(self) -> None:
        """The harness's, so without messages: all living threads are released once all are there."""
        if len(self._arrived) < len(self._running):
            return
        self.counts.append(self.sent())
        arrived, self._arrived = self._arrived, []
        released = {kernel.number: self.now_ns + self._network.delay_ns() for kernel in self.kernels}
        for thread in arrived:
            self._at(released[thread.kernel.number], self._go_on, thread)

    # Kernels ----------------------------------------------------------------------------------------------------------

    def _arrive(self, kernel: Kernel, parcel: Parcel) -> None:
        if not kernel.alive:
            return
        kernel.inbox.append(parcel)
        if kernel.awake:
            return
        if not self._network.doorbell_lost():
            self._wake(kernel)
            return
        self._note(kernel.number, "misses the doorbell", peer=parcel.sender)
        if not kernel.beating:
            kernel.beating = True
            self._at((self.now_ns // HEARTBEAT_NS + 1) * HEARTBEAT_NS, self._beat, kernel)

    def _beat(self, kernel: Kernel) -> None:
        kernel.beating = False
        if kernel.alive and kernel.inbox:
            self._wake(kernel)

    def _wake(self, kernel: Kernel) -> None:
        if not kernel.awake:
            kernel.awake = True
            begin_ns = max(self.now_ns, kernel.free_ns)
            self._at(begin_ns + int(HANDLING_NS * kernel.factor), self._handle, kernel)

    def _handle(self, kernel: Kernel) -> None:
        """The oldest thing in the inbox; what it takes of time has passed."""
        if not kernel.alive:
            return
        item = kernel.inbox.popleft()
        kernel.free_ns = self.now_ns
        kernel.awake = False
        content: Content | None = None
        match item:
            case Parcel(sender, message, _):
                content = item.content
                self._note(kernel.number, "receives", message.page, sender, message)
                effects = kernel.engine.receive(sender, message)
            case Fault(page, write):
                self._note(kernel.number, "faults for a store to" if write else "faults for a load from", page)
                effects = kernel.engine.fault(page, write)
            case Death(dead):
                self._note(kernel.number, "hears of the death", peer=dead)
                effects = kernel.engine.peer_down(dead)
        for effect in effects:
            if isinstance(effect, fx.Send):
                self._send(kernel, effect)
            elif isinstance(effect, fx.SpaceEffect):
                raise TypeError(f"{effect}: the simulator has no operations on address spaces")
            elif kernel.memory.carry_out(effect, content):
                self._wake_waiters(kernel, effect.page, local=isinstance(item, Fault))
        if kernel.inbox:
            self._wake(kernel)

    def _send(self, kernel: Kernel, effect: fx.Send) -> None:
        to, message, discard = effect
        self._note(kernel.number, "sends", message.page, to, message)
        kernel.sent[message.name] = kernel.sent.get(message.name, 0) + 1
        content = kernel.memory.payload(message.page) if message.name == MessageName.PAGE_DATA else None
        if discard:
            kernel.memory.carry_out(fx.Discard(message.page), None)
        parcel = Parcel(kernel.number, message, content)
        for arrival_ns in self._network.arrivals_ns(kernel.number, to, self.now_ns):
            self._at(arrival_ns, self._arrive, self.kernels[to], parcel)

    def _wake_waiters(self, kernel: Kernel, page: int, *, local: bool) -> None:
        for thread in kernel.waiting.pop(page, ()):
            access = thread.access
            assert access is not None
            if not self._try(thread, access):
                self._fault(thread, access)
                continue
            kind = "local_fault" if local else "remote_write" if access.write else "remote_read"
            kernel.latency_us.setdefault(kind, []).append((self.now_ns - thread.fault_ns) / 1000)

    # Deaths -----------------------------------------------------------------------------------------------------------

    def _die(self, kernel: Kernel) -> None:
        """What it has sent still arrives; the others hear of it when its heartbeats are missed."""
        if all(thread.ended for thread in self._running):
            return
        self._note(kernel.number, "dies")
        self.died.append(kernel.number)
        kernel.alive = False
        kernel.inbox.clear()
        self._truth.bury(kernel.number)
        self._unknown.update(thread.writer for thread in kernel.threads)
        detected_ns = told_ns = self.now_ns + int(self._setting.failure_deadline_s * 1e9)
        for other in self.kernels:
            heard_ns = detected_ns + self._network.delay_ns()
            told_ns = max(told_ns, heard_ns)
            self._at(heard_ns, self._tell, other, Death(kernel.number))
        self._at(told_ns, self._leave, kernel)

    def _tell(self, kernel: Kernel, death: Death) -> None:
        if kernel.alive:
            kernel.inbox.append(death)
            self._wake(kernel)

    def _leave(self, dead: Kernel) -> None:
        """Nobody waits for the dead kernel's threads at the barrier any more."""
        self._running = [thread for thread in self._running if thread.kernel is not dead]
        self._arrived = [thread for thread in self._arrived if thread.kernel is not dead]
        if self._arrived:
            self._open_barrier()

    # What went wrong --------------------------------------------------------------------------------------------------

    def _stuck(self, why: str) -> Violation:
        names = self._setting.names
        waits = [
            f"{names[kernel.number]} waits for page {page}"
            for kernel in self.kernels
            if kernel.alive
            for page in sorted(kernel.waiting)
        ]
        return Violation("no progress", f"{why}: {', '.join(waits[:4]) or 'threads wait at the barrier'}")

    def _stale(self, stale: StaleCopy) -> Violation:
        kernel = self.last[-1].kernel
        self.mismatch = self._mismatch(kernel, stale.page, stale.expected, stale.found, max(stale.expected) - 1, 0)
        return Violation("stale copy", f"what becomes readable is not what was stored last: {self.mismatch}")

    def _mismatch(
        self, kernel: int, page: int, expected: Content, found: Content, iteration: int, thread: int
    ) -> Mismatch:
        """The first element of the page that differs."""
        extent = self._extents[page]
        writer = next(number for number, (want, got) in enumerate(zip(expected, found, strict=True)) if want != got)
        element = first_of(extent, writer, len(expected))
        return Mismatch(
            node=self._setting.names[kernel],
            page=page,
            offset=element * self._setting.array.stride - page * 4096,
            expected=value_of(expected[writer], writer, element),
            found=value_of(found[writer], writer, element),
            iteration=iteration,
            thread=thread,
        )
