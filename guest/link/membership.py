"""Who is dead: agreed among the kernels in the node table, without a message.

Every kernel's page of the node table holds a *heartbeat*, a number that grows while its daemon's loop turns, and its
*suspects*, a mask of the kernels that it has given up. A kernel looks around once a beat:

1. It beats.
2. If a kernel that it does not suspect suspects it, it is *fenced*: the others go on without it, so it stops at once.
   (Suspecting each other, the kernel with the lower id goes on.)
3. It suspects whoever has shown no new heartbeat for the deadline, whoever has closed its memory, whoever had left at
   the last look and of whom nothing is left to be read, and whomever a kernel suspects that it does not suspect
   itself. From then on it does not listen to them any more.
4. It publishes its suspects, fences, and looks at the others' once more, so that of two kernels which suspect each
   other at the same moment at least one sees it.
5. When all kernels that it does not suspect have published the very same suspects, these are *dead*.

Masks only grow, and each kernel takes on those of the others: they end up equal. When the first kernel acts on a
death, nobody listens to the dead any more: to the others it is as if it had stopped at that moment, which is the death
that the model checker searches. Whether it really stopped, or was only paused, makes no difference but to itself. What
it had written by then is still in its rings; the daemon reads there which threads it has let run.

A pause of one's own proves nothing about others, who may have been paused with us (a host that was suspended): however
long it is since the last look, it counts as one beat at most: whoever lives has beaten by the next look.
"""

from guest.errors import GuestFailure
from guest.link.fence import full_fence
from guest.link.segment import Node, NodeState, Segment

BEAT_NS = 500_000_000
"""How often a daemon beats and looks around. A doorbell that was lost delays its message by as much."""
FAILURE_DEADLINE_S = 3.0
"""How long a kernel may show no heartbeat, unless something else is asked for."""

_SERVING = (NodeState.OPEN, NodeState.RUNNING)


class Fenced(GuestFailure):
    """The other kernels have declared this one dead, and go on without it."""

    kind = "fenced"


class Membership:
    """One kernel's view of who is dead. Pure but for the node table: the caller says what time it is."""

    def __init__(self, segment: Segment, kernel: int, deadline_ns: int) -> None:
        self.suspects = 0
        """Mask of the kernels that must not be listened to any more."""
        self._kernel = kernel
        self._nodes = segment.nodes
        self._others = [other for other in range(segment.layout.kernels) if other != kernel]
        self._deadline_ns = deadline_ns
        self._watching = False
        self._buried = 0
        self._left = 0
        self._last_ns = 0
        self._heartbeats = dict.fromkeys(self._others, -1)
        self._silent_ns = dict.fromkeys(self._others, 0)

    def watch(self, watching: bool) -> None:
        """Whether silence makes a kernel suspect, from now on. Without it, others' suspicions are still shared."""
        self._watching = watching
        self._silent_ns = dict.fromkeys(self._others, 0)

    def look(self, now_ns: int, unread: int = 0) -> list[int]:
        """Beat, and look around; returns the kernels whose death all survivors have just agreed upon.

        `now_ns` is a time of CLOCK_MONOTONIC, `unread` a mask of the kernels of which there are messages to be read.
        Raises Fenced.
        """
        self._nodes[self._kernel].beat()
        passed_ns = min(now_ns - self._last_ns, BEAT_NS) if self._last_ns else 0
        self._last_ns = now_ns
        self._stop_if_fenced()
        before = self.suspects
        self._suspect_those_who_left(unread)
        if self._watching:
            self._suspect_the_silent(passed_ns)
        self._join_suspicions()
        if self.suspects != before:
            self._nodes[self._kernel].suspects = self.suspects
            full_fence()
            self._stop_if_fenced()
        return self._agreed() if self.suspects != self._buried else []

    def _stop_if_fenced(self) -> None:
        by = [
            other
            for other in self._others
            if self._nodes[other].suspects >> self._kernel & 1 and (other < self._kernel or not self._suspected(other))
        ]
        if by:
            raise Fenced(
                f"kernel {self._kernel} was declared dead by kernel {', '.join(map(str, by))}, and stopped: "
                f"it had shown no sign of life for {self._deadline_ns / 1e9:g} s",
                "was it paused, or starved of processor time? coherency.failure_deadline_s is how long it may be",
            )

    def _suspect_those_who_left(self, unread: int) -> None:
        self.suspects |= self._left & ~unread
        for other in self._others:
            if self._nodes[other].state is NodeState.LEFT:
                self._left |= 1 << other

    def _suspect_the_silent(self, passed_ns: int) -> None:
        for other in self._others:
            node = self._nodes[other]
            state, heartbeat = node.state, node.heartbeat
            if state is NodeState.CLOSED:
                self.suspects |= 1 << other
            elif heartbeat != self._heartbeats[other] or state not in _SERVING:
                self._heartbeats[other] = heartbeat
                self._silent_ns[other] = 0
            else:
                self._silent_ns[other] += passed_ns
                if self._silent_ns[other] >= self._deadline_ns:
                    self.suspects |= 1 << other

    def _join_suspicions(self) -> None:
        for other in self._others:  # from the lowest id on: of two that suspect each other it is believed
            if not self._suspected(other):
                self.suspects |= self._nodes[other].suspects & ~(1 << self._kernel)

    def _agreed(self) -> list[int]:
        if any(self._disagrees(self._nodes[other]) for other in self._others if not self._suspected(other)):
            return []
        dead = [other for other in self._others if self._suspected(other) and not self._buried >> other & 1]
        self._buried = self.suspects
        return dead

    def _disagrees(self, node: Node) -> bool:
        return node.state in _SERVING and node.suspects != self.suspects

    def _suspected(self, kernel: int) -> bool:
        return self.suspects >> kernel & 1 == 1
