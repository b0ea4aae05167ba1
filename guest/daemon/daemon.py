"""The coherency daemon of one kernel: page faults and messages in, effects of the protocol engine out.

One loop serves everything: userfaultfds, rings, doorbells, sockets and the control descriptor. It never blocks while a
ring is full, and it never makes two things at once, so the engine's effects are carried out completely before the next
event. What matters is the time a blocked thread waits for its page:

- while a fault waits for an answer, the rings are looked at hard, and other descriptors rarely: that is a system call;
- a woken thread gets the CPU, as there may be just one. Mostly it takes it in the middle of the system call that wakes
  it, and gives it back with its next fault: so the daemon looks for that first, and yields only if there is none;
- while threads compute on the only CPU there is, the daemon sleeps instead of looking, so that a doorbell or a fault
  brings it back at once and nothing is taken from the threads in between;
- whatever can be done later is done while an answer is awaited.
"""

import os
import select
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import TypeVar, cast

from guest.daemon.carrier import Carrier
from guest.daemon.eviction import Eviction
from guest.daemon.leaving import Handover
from guest.daemon.outbox import Outbox
from guest.daemon.waits import Waits
from guest.errors import GuestFailure
from guest.link.fence import full_fence
from guest.link.link import Link
from guest.link.membership import BEAT_NS, FAILURE_DEADLINE_S, Membership
from guest.link.notify import Notifier, Policy
from guest.link.ring import Receiver, Sender
from guest.link.segment import ISA, NodeState, Segment
from guest.memory.faults import NOTES_KEPT, FaultsInFlight
from guest.memory.protection import Protector
from guest.memory.region import Region
from guest.memory.samples import FaultLog
from guest.protocol import effects
from guest.protocol.address_space import Operation, Refusal
from guest.protocol.engine import Engine
from guest.protocol.forks import FORK_MESSAGES
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Message, MessageName
from guest.protocol.space import SpaceOperations
from guest.protocol.thread_messages import THREAD_MESSAGES, THREAD_MESSAGES_WITH_STATE
from guest.protocol.trace import TracedEngine, TracedPart

_OF_PAGES = int(MessageName.GRANT)
"""Up to this, names are the page engine's alone."""
_FUTEX = frozenset((MessageName.FUTEX_WAIT, MessageName.FUTEX_WAKE, MessageName.FUTEX_ANSWER))
_BARRIER, _LEAVE, _EVICT = int(MessageName.BARRIER), int(MessageName.LEAVE), int(MessageName.EVICT)
_OF_PROCESSES = THREAD_MESSAGES | FORK_MESSAGES
_WITH_STATE = frozenset((*THREAD_MESSAGES_WITH_STATE, int(MessageName.PROCESS_FORK)))
_PLACED, _ROLL, _PAGE_DATA = map(int, (MessageName.THREAD_PLACED, MessageName.THREAD_ROLL, MessageName.PAGE_DATA))
_PASSES_PER_POLL = {False: 128, True: 1024}
"""Looks at the rings between two looks at the other descriptors, while an answer is awaited. On a single CPU nothing
else can happen meanwhile, but for the control descriptor: every thread waits."""
_SPIN_NS = 4_000_000
"""How long ADAPTIVE looks before it sleeps: a few remote faults, as the next one of a series comes within that time."""
_PASSES_PER_BEAT = 64
"""How many passes a busy loop makes between two looks at the clock, which costs something too."""

_AnyEngine = TypeVar("_AnyEngine")


class Orphaned(GuestFailure):
    """The home kernel died in the middle of an operation on the address space, and nobody can say what came of it."""

    kind = "orphaned"


class Daemon:
    """The memory of one kernel, kept coherent with the others'. Runs only inside `serve`."""

    def __init__(
        self,
        segment: Segment,
        link: Link,
        kernel: int,
        engine: Engine,
        region: Region,
        policy: Policy,
        failure_deadline_s: float = FAILURE_DEADLINE_S,
        space: SpaceOperations | None = None,
        resident_pages: int | None = None,
    ) -> None:
        """`space` is the engine once more if threads may change the address space. Of the region, no more than
        `resident_pages` are kept here if others have room: see `guest.daemon.eviction`."""
        self.kernel = kernel
        self.kernels = tuple(range(segment.layout.kernels))
        self.region = region
        self.nodes = segment.nodes
        self.node = segment.nodes[kernel]
        self.on_harness: Callable[[int, Message], None] | None = None
        """Who is told of the test harness's messages. While nobody is, they are kept."""
        self.on_thread: Callable[[int, Message, memoryview], None] | None = None
        """Who is told of messages about threads that move, and of what came with them: it is void afterwards."""
        self.on_copy: Callable[[effects.Duplicate], object] | None = None
        """Who is told of copies of the address space."""
        self.on_unmap: Callable[[effects.Allow], object] | None = None
        """Who is told of pages that are unmapped."""
        self.on_death: Callable[[int], None] | None = None
        """Who is told of kernels that have died. Only while somebody is, the others' silence is taken for death."""
        self.dead: list[int] = []
        """Kernels that have died, in the order in which this one heard of it."""
        self.threads = 0
        """Threads attached."""
        self.count_parked: Callable[[], int] = int
        """Who says how many of them touch no memory for now: they wait at a barrier, or sleep. Asked when there is
        nothing else to do."""
        self.silent = False
        """The memory is broken: the others hear nothing more from here."""
        self._engine = engine
        self._space = space
        self._asked: dict[int, Callable[[effects.SpaceDone], object]] = {}
        """Who waits for operations on the address space, by the number that the engine gave them."""
        self._policy = policy
        peers = [k for k in self.kernels if k != kernel]
        self._receivers = [Receiver(segment, peer, kernel) for peer in peers]
        self._suspected: list[Receiver] = []  # of kernels that are not listened to
        outboxes = [Outbox(Sender(segment, kernel, peer), region.read_out) for peer in peers]
        self._notifier = Notifier(segment, kernel, link, policy, self._receivers)
        self._faults = FaultsInFlight(self.node.count_fault)
        self._carrier = Carrier(region, outboxes, self._notifier, self._faults)
        self._carrier.on_space_done = self._space_done
        self._carrier.on_copy = lambda effect: self.on_copy and self.on_copy(effect)
        self._carrier.on_unmap = lambda effect: self.on_unmap and self.on_unmap(effect)
        self.waits = Waits(self.traced("waits", FutexEngine(kernel, self.kernels)), self._carrier.carry_out)
        """What threads here wait for."""
        self._handover = Handover(engine, region.pages, self._carrier.carry_out)
        self._eviction = Eviction(engine, region, resident_pages, lambda: self._others, self._carrier.carry_out)
        self._membership = Membership(segment, kernel, int(failure_deadline_s * 1e9))
        self._handlers: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll()
        for bell in link.doorbell_fds:
            # Reported once for every ring: it need not be read, and means no more than a look at the rings.
            self._handlers[bell] = _nothing
            self._epoll.register(bell, select.EPOLLIN | select.EPOLLET)
        self._fault_readers: dict[int, Callable[[], object]] = {}
        self._stopped = False
        self._kept: list[tuple[int, Message]] = []
        self._single_cpu = len(os.sched_getaffinity(0)) == 1
        self._spin_ns = {Policy.POLL: 1 << 62, Policy.INTERRUPT: 0, Policy.ADAPTIVE: _SPIN_NS}[policy]
        self.node.publish(ISA.of(os.uname().machine), link.peer)

    def traced(self, part: str, engine: _AnyEngine) -> _AnyEngine:
        """The engine of threads or waits, noting its events in the trace if there is one."""
        if isinstance(self._engine, TracedEngine):
            return cast(_AnyEngine, TracedPart(part, engine, self._engine))
        return engine

    # -- who is served -----------------------------------------------------------------------------------------------

    def watch(self, descriptor: int, handler: Callable[[], object]) -> None:
        """Call `handler` whenever `descriptor` is readable or hung up."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Forget `descriptor`; before it is closed."""
        del self._handlers[descriptor]
        self._epoll.unregister(descriptor)

    @property
    def maps(self) -> bool:
        """Whether threads may change the address space."""
        return self._space is not None

    def attach(self, userfaultfd: int, log: FaultLog, protector: Protector | None = None, space: int = 0) -> None:
        """Serve the faults of one more thread, from now on. Where threads may change the address space, it has a
        `protector`. `space`: as for `Region.register`."""
        self.region.register(userfaultfd, protector, space)
        self.threads += 1
        self._fault_readers[userfaultfd] = partial(self._fault, userfaultfd, log)
        self.watch(userfaultfd, self._fault_readers[userfaultfd])

    def detach(self, userfaultfd: int, log: FaultLog) -> None:
        """The thread has ended, perhaps in the middle of a fault: nobody waits for that page any more."""
        self.unwatch(userfaultfd)
        self.region.unregister(userfaultfd)
        self._ends(userfaultfd, log)

    def suspend(self, userfaultfd: int, log: FaultLog) -> None:
        """The thread has ended, and its process touches no memory until `resume`: it waits for another one."""
        self.region.suspend(userfaultfd)
        self._ends(userfaultfd, log)

    def resume(self, userfaultfd: int) -> None:
        """Serve the faults of a process again that was suspended."""
        self.region.resume(userfaultfd)
        self.threads += 1
        self._fault_readers[userfaultfd] = self._handlers[userfaultfd]

    def _ends(self, userfaultfd: int, log: FaultLog) -> None:
        if self._fault_readers.pop(userfaultfd, None) is not None:
            self.threads -= 1
        for page in self._faults.abandon(log):
            if not self.silent:
                self._carrier.carry_out(self._engine.abandon(page))

    def operate(self, operation: Operation, done: Callable[[effects.SpaceDone], object]) -> None:
        """Do something to the address space, for a thread that is attached; `done` is told what came of it."""
        assert self._space is not None, "this memory is mapped once and for all"
        number = self._space.requests + 1
        self._asked[number] = done
        self._carrier.carry_out(self._space.operate(operation))

    def join(self, done: Callable[[Refusal], object]) -> None:
        """Get into the kernel set of the process; `done` is told whether this kernel is in. Once, if it is not."""
        assert self._space is not None, "this memory has a kernel set that stays as it is"
        self._carrier.on_joined = lambda effect: done(effect.refusal)
        self._carrier.carry_out(self._space.join())

    def send(self, to: int, message: Message, payload: bytes = b"") -> None:
        """Send a message about threads to another kernel."""
        if payload:
            self._carrier.send_with(to, message, payload)
        else:
            self._carrier.carry_out([effects.Send(to, message)])

    def unsent(self, to: int) -> bool:
        """Whether anything that was sent to the kernel waits for room in the ring."""
        return self._carrier.unsent(to)

    def when_sent(self, to: int, then: Callable[[], object]) -> None:
        """Call `then` as soon as the kernel can read all that has been sent to it so far, or is dead."""
        self._carrier.when_sent(to, then)

    def _space_done(self, effect: effects.SpaceDone) -> None:
        self._asked.pop(effect.request)(effect)

    def send_harness(self, name: MessageName, number: int, mask: int = 0) -> None:
        """Send a message of the test harness to every other kernel that lives."""
        for kernel in self._others:
            self._carrier.carry_out([effects.Send(kernel, Message(name, request=number, copyset=mask))])

    def watch_others(self, on_death: Callable[[int], None] | None) -> None:
        """Take silence for death from now on, and tell `on_death`; or no more, with None."""
        self.on_death = on_death
        self._membership.watch(on_death is not None)

    @property
    def lost_pages(self) -> list[int]:
        """Pages that are lost, as far as somebody has asked for them here: their only valid copy died."""
        return sorted(self._carrier.lost)

    def deliver_kept(self) -> None:
        """Give the harness's messages that came before anybody listened to `on_harness`, and roll calls."""
        kept, self._kept = self._kept, []
        for sender, message in kept:
            self._receive_harness(sender, message)

    def woke(self) -> None:
        """A thread was woken by other means than a page: it gets the CPU."""
        self._carrier.woken = True

    def settle(self) -> None:
        """Bring what the logs of faults say up to this moment."""
        self._faults.settle()

    def waiting_pages(self) -> list[tuple[int, int]]:
        """(page, waiting since) of every fault in flight; times in ns of CLOCK_MONOTONIC."""
        return self._faults.since()

    @property
    def full(self) -> bool:
        """Whether faults wait until other kernels have taken pages from here."""
        return self._eviction.full

    @property
    def may_leave(self) -> bool:
        """Whether others can go on without this kernel: there are some, and it is not their origin."""
        return bool(self._others) and self._engine.origin != self.kernel

    @property
    def _others(self) -> list[int]:
        return [kernel for kernel in self.kernels if kernel != self.kernel and kernel not in self.dead]

    def leave(self) -> None:
        """Hand over what this kernel has, while `serve` goes on; it returns when that is done. No thread may be
        attached."""
        self._handover.begin(min(self._others), self.stop)

    @property
    def leaving(self) -> bool:
        """Whether something is still to be handed over."""
        return self._handover.done is not None

    def close(self, state: NodeState = NodeState.CLOSED) -> None:
        """Stop serving, for good; LEFT only after `leave`. The link and its memory stay the caller's."""
        full_fence()  # behind all that was sent
        self.node.state = state
        self._handlers.clear()
        self._epoll.close()
        self.region.close()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let `serve` return after the event being handled."""
        self._stopped = True

    def serve(self, tick: Callable[[int], None]) -> None:
        """Handle events until `stop` is called. `tick(now_ns)` is called about twice a second, for deadlines.

        Raises Fenced when the others have declared this kernel dead.
        """
        carrier, handover, eviction = self._carrier, self._handover, self._eviction
        poll = self._epoll.poll
        progress_ns = tick_ns = monotonic_ns()
        passes = 0
        while True:
            if self._stopped:
                self._stopped = False
                return
            progress = self._receive()
            if carrier.backlog or handover.busy or eviction.busy:
                progress |= self._catch_up()
            if carrier.woken:
                carrier.woken = False
                self._let_run()
            elif self._faults.notes:
                self._faults.settle()
            ready = poll(0)
            if ready:
                self._handle(ready)
            busy = progress or ready
            if busy:
                progress_ns = 0
                passes += 1
                if passes % _PASSES_PER_BEAT:
                    continue
            now_ns = monotonic_ns()
            if now_ns - tick_ns >= BEAT_NS:
                tick_ns = now_ns
                self._look_around(now_ns)
                tick(now_ns)
            if busy:
                continue
            progress_ns = progress_ns or now_ns
            computing = self.threads > self.count_parked() + self._faults.blocked() and self._single_cpu
            if computing or now_ns - progress_ns >= self._spin_ns:
                self._sleep(computing)
            else:
                self._spin()

    def _catch_up(self) -> bool:
        """Send what found no room; a kernel that leaves goes only when all it has to say is said."""
        progress = self._carrier.flush() if self._carrier.backlog else False
        if not self._carrier.backlog:
            if self._handover.busy:
                self._handover.settle()
            if self._eviction.busy:
                self._eviction.settle()
        return progress

    def _look_around(self, now_ns: int) -> None:
        membership = self._membership
        listened_to = membership.suspects
        dead = membership.look(now_ns, sum(1 << each.sender for each in self._receivers if each.pending()))
        if membership.suspects != listened_to:
            self._suspected += [each for each in self._receivers if membership.suspects >> each.sender & 1]
            self._receivers = [each for each in self._receivers if not membership.suspects >> each.sender & 1]
            self._notifier.ignore(membership.suspects)
        for kernel in dead:
            self.dead.append(kernel)
            self._carrier.bury(kernel)
            self._hear_last_words(kernel)
        for kernel in dead:
            self._carrier.carry_out(self._engine.peer_down(kernel))
            self.waits.peer_down(kernel)
            if self.on_death is not None:
                self.on_death(kernel)
        if self._space is not None and self._space.orphaned:
            raise Orphaned(
                "the home kernel died while an operation on the address space was going on, and nobody can say whether "
                "the other kernels have carried it out",
                "the home kernel is the first node of the link: see what became of it",
            )
        if dead and self.leaving:
            if self.may_leave:
                self.leave()
            else:
                self.stop()  # nobody is left to leave anything to

    def _hear_last_words(self, kernel: int) -> None:
        """Of the dead one thing is still heard: which threads it has let run (`guest.protocol.threads`).

        Nobody listens to it any more by now. So if somebody has taken in a thread that it sent on, that it had let the
        thread run is in the ring."""
        full_fence()  # between the others' suspects and its rings
        (receiver,) = [each for each in self._suspected if each.sender == kernel]
        while self.on_thread and (message := receiver.receive()):
            if message.name == _PLACED:
                self.on_thread(kernel, message, memoryview(b""))

    def _let_run(self) -> None:
        """Give the CPU to threads that were woken, unless they have had it and are in their next fault already."""
        if len(self._faults.notes) > NOTES_KEPT:
            self._faults.settle()
        if self._single_cpu and len(self._fault_readers) == 1:
            (reader,) = self._fault_readers.values()
            if reader():
                return
        os.sched_yield()

    def _spin(self) -> None:
        for _ in range(_PASSES_PER_POLL[self._single_cpu]):
            for receiver in self._receivers:
                if receiver.pending():
                    return
        if not self._single_cpu:
            os.sched_yield()  # where kernels share a machine, the one that is waited for may need this very CPU

    def _sleep(self, computing: bool) -> None:
        """Until a doorbell, a fault, or anything else; not at all while messages are queued for a full ring."""
        if self._carrier.backlog or not self._notifier.arm():
            if computing:
                os.sched_yield()
            return
        try:
            ready = self._epoll.poll(BEAT_NS / 1e9)
        finally:
            self._notifier.disarm()
        self._handle(ready)

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None:  # forgotten by one that was handled just before
                handler()

    def _receive(self) -> bool:
        """Handle what has arrived, up to the first message that wakes a thread; true when there was any."""
        progress = False
        carrier, faults = self._carrier, self._faults
        for receiver in self._receivers:
            message = receiver.receive()
            while message is not None:
                progress = True
                name = message[0]
                if name > _OF_PAGES:
                    self._receive_other(receiver, message)
                elif name == _PAGE_DATA:
                    carrier.payload = receiver.payload_address(message)
                    faults.came(message[1], receiver.sender)
                    carrier.carry_out(self._engine.receive(receiver.sender, message))
                    receiver.release(message)
                else:
                    carrier.carry_out(self._engine.receive(receiver.sender, message))
                if carrier.woken:
                    return True  # the thread's next fault may be there: its request goes out before anything else
                message = receiver.receive()
        return progress

    def _receive_other(self, receiver: Receiver, message: Message) -> None:
        """A message that is not about a page."""
        sender, name = receiver.sender, message.name
        if name == _ROLL and not self.on_thread:
            self._kept.append((sender, message))
        elif name in _OF_PROCESSES:
            assert self.on_thread, f"kernel {sender} sends a message of threads, and there are none here"
            self.on_thread(sender, message, receiver.payload(message) if name in _WITH_STATE else memoryview(b""))
            if name in _WITH_STATE:
                receiver.release(message)
        elif name in _FUTEX:
            self.waits.receive(sender, message)
        elif name < _BARRIER:
            self._carrier.carry_out(self._engine.receive(sender, message))
        else:
            self._receive_harness(sender, message)

    def _receive_harness(self, sender: int, message: Message) -> None:
        if message.name == _LEAVE:
            self._handover.receive(sender, message)
        elif message.name == _EVICT:
            self._eviction.receive(sender, message)
        elif self.on_harness is None:
            self._kept.append((sender, message))
        elif message.name == _ROLL and self.on_thread:
            self.on_thread(sender, message, memoryview(b""))
        else:
            self.on_harness(sender, message)

    def _fault(self, userfaultfd: int, log: FaultLog) -> bool:
        """Handle the faults that wait in one process; false when there are none."""
        if self._eviction.full:
            return False  # it stays readable
        begin_ns = monotonic_ns()
        faults = self.region.faults(userfaultfd)
        for page, write in faults:
            self._faults.begun(page, begin_ns, write, log)
            self._carrier.in_fault = True
            self._carrier.carry_out(self._engine.fault(page, write))
            self._carrier.in_fault = False
        return faults != []


def _nothing() -> None:
    """A doorbell has done its work by waking the daemon."""
