"""Sleeping without missing a message, and waking only those who sleep.

Every kernel has a waiting word in the node table. The one that wants to sleep sets it, then fences, then **looks at its
rings once more**, and sleeps only if they are empty. A sender publishes, fences, and then looks at the waiting word of
the receiver. Of the two looks at least one sees what the other side wrote before its fence, so either the sleeper stays
awake or the sender rings. (The original implementation left the second look out, and lost wake-ups.)

    sleeper:  waiting := 1 · fence · look at the rings · sleep on the doorbell · waiting := 0 · look at the rings
    sender:   publish      · fence · look at waiting   · ring the doorbell if set

A doorbell costs the sender a write to a device and the receiver an interrupt and a process switch: some hundred
microseconds on emulated machines, where looking at a word costs one. Hence the policies.
"""

import select
import time
from collections.abc import Sequence
from enum import Enum

from guest.errors import SegmentError
from guest.link.fence import full_fence
from guest.link.link import Link
from guest.link.ring import Receiver
from guest.link.segment import Segment


class Policy(Enum):
    """How a kernel waits for the others. One policy for all kernels of a run."""

    POLL = "poll"
    """Never sleep on the doorbell, never ring one: shortest latency, a whole CPU."""
    INTERRUPT = "interrupt"
    """Sleep at once."""
    ADAPTIVE = "adaptive"
    """Look for a while, then sleep."""


SPIN_US = 1_000
"""How long ADAPTIVE looks before it sleeps: what a doorbell costs, so a wait never costs twice the best choice."""
_PASSES_PER_POLL = 8
"""While looking, other descriptors are asked only every so many passes over the rings: that is a system call."""


class Notifier:
    """Wakes the other kernels, and waits for them and for other descriptors, by one policy.

    `wait` is the whole of it. A daemon that builds its own loop uses `arm` before and `disarm` after a sleep.
    """

    __slots__ = (
        "_bells",
        "_link",
        "_node",
        "_nodes",
        "_poller",
        "_receivers",
        "_rings",
        "_spin_s",
        "_waiting",
        "_words",
        "policy",
    )

    def __init__(
        self,
        segment: Segment,
        me: int,
        link: Link,
        policy: Policy,
        receivers: Sequence[Receiver],
        spin_us: int = SPIN_US,
    ) -> None:
        self.policy = policy
        self._words = segment.words
        self._node = segment.nodes[me]
        self._nodes = segment.nodes
        self._waiting = [node.waiting_word for node in segment.nodes]
        self._link = link
        self._receivers = tuple(receivers)
        self._rings = policy is not Policy.POLL
        self._spin_s = {Policy.POLL: float("inf"), Policy.INTERRUPT: 0.0, Policy.ADAPTIVE: spin_us / 1e6}[policy]
        self._bells = frozenset(link.doorbell_fds)
        self._poller = select.epoll()
        for bell in link.doorbell_fds:
            # Edge-triggered, every ring of an eventfd is an event of its own, and none has to be read away.
            self._poller.register(bell, select.EPOLLIN | select.EPOLLET)

    def watch(self, descriptor: int) -> None:
        """Let `wait` return when `descriptor` becomes readable or is hung up."""
        self._poller.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Forget `descriptor`; before it is closed."""
        self._poller.unregister(descriptor)

    def published(self, to: int) -> None:
        """After one or more messages to kernel `to`: ring its doorbell if it sleeps."""
        if self._rings:
            full_fence()
            if self._words[self._waiting[to]]:
                self._wake(to)

    def ignore(self, senders: int) -> None:
        """Look no more at the rings of `senders`, a mask of kernels."""
        self._receivers = tuple(receiver for receiver in self._receivers if not senders >> receiver.sender & 1)

    def pending(self) -> bool:
        """Whether a message has arrived on any ring."""
        return any(receiver.pending() for receiver in self._receivers)

    def arm(self) -> bool:
        """Ask the others to ring. True: nothing has arrived, sleep now on `doorbell_fds`. False: do not, there is work.

        After True, `disarm` must be called as soon as the sleep is over. With POLL it is always False.
        """
        if not self._rings:
            return False
        waiting = self._node.waiting_word
        self._words[waiting] = 1
        full_fence()
        if self.pending():
            self._words[waiting] = 0
            return False
        self._node.count_sleep()
        return True

    def disarm(self) -> None:
        """The sleep is over: nobody needs to ring any more. Look at the rings only after this.

        A doorbell that was heard stays readable until `Link.drain`, unless it is watched edge-triggered, as here.
        """
        self._words[self._node.waiting_word] = 0

    def wait(self, timeout_s: float, spin: bool = True) -> list[int]:
        """Wait until a message is there, a watched descriptor is ready, or `timeout_s` has passed.

        Returns the watched descriptors that are ready, none of them the doorbells; when a message is there they may not
        have been asked. `spin=False` makes ADAPTIVE sleep at once: for a caller that expects nothing soon and has a CPU
        to leave to somebody.
        """
        now = time.monotonic()
        end = now + timeout_s
        spin_end = min(now + self._spin_s, end) if spin or not self._rings else now
        while True:
            while now < spin_end:
                for _ in range(_PASSES_PER_POLL):
                    for receiver in self._receivers:
                        if receiver.pending():
                            return []
                if ready := self._ready(0):
                    return ready
                now = time.monotonic()
            if not self.arm():
                return self._ready(0)
            try:
                ready = self._ready(max(0.0, end - now))
            finally:
                self.disarm()
            now = time.monotonic()
            if ready or now >= end or self.pending():
                return ready
            # A doorbell for a message that was seen before the sleep: sleep on.

    def _ready(self, timeout_s: float) -> list[int]:
        bells = self._bells
        return [descriptor for descriptor, _ in self._poller.poll(timeout_s) if descriptor not in bells]

    def _wake(self, to: int) -> None:
        peer = self._nodes[to].peer
        if peer is None:
            raise SegmentError(
                f"kernel {to} sleeps but has published no doorbell",
                "its daemon must call Node.publish before it waits",
            )
        self._link.ring(peer)
        self._node.count_doorbell()
