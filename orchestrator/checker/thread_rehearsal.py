"""Production engines of threads that talk to each other directly, one chosen order of events: for examples."""

from collections import deque
from collections.abc import Iterable

from guest.protocol.effects import Send
from guest.protocol.thread_effects import Create, Place, ThreadEffect
from guest.protocol.threads import ThreadsEngine
from orchestrator.checker.rehearsal import Sent


class ThreadRehearsal:
    """Kernels whose surroundings have a process for every thread at once. Messages arrive in the order of sending."""

    def __init__(self, kernels: int) -> None:
        self.engines = [ThreadsEngine(kernel, range(kernels)) for kernel in range(kernels)]
        self.log: list[Sent] = []
        """All messages so far, in the order in which they were sent."""
        self.effects: list[tuple[int, ThreadEffect]] = []
        """(kernel, effect) of all others."""
        self._flying: deque[Sent] = deque()
        self._dead: set[int] = set()

    def start(self, thread: int) -> None:
        """A thread begins at home."""
        self.carry_out(0, self.engines[0].start(thread))

    def migrate(self, thread: int, kernel: int, to: int) -> None:
        """The thread moves from one kernel to another, and all is told that is to be told."""
        self.carry_out(kernel, self.engines[kernel].migrate(thread, to))
        self.settle()

    def exit(self, thread: int, kernel: int) -> None:
        """The thread ends."""
        self.carry_out(kernel, self.engines[kernel].exit(thread))
        self.settle()

    def die(self, dead: int) -> None:
        """The kernel dies, and all others hear of it."""
        self._dead.add(dead)
        for kernel, engine in enumerate(self.engines):
            if kernel not in self._dead:
                self.carry_out(kernel, engine.peer_down(dead))
        self.settle()

    def settle(self) -> None:
        """Let everything arrive."""
        while self._flying:
            sent = self._flying.popleft()
            if sent.receiver not in self._dead:
                self.carry_out(sent.receiver, self.engines[sent.receiver].receive(sent.sender, sent.message))

    def carry_out(self, kernel: int, effects: Iterable[ThreadEffect]) -> None:
        """Send what is to be sent, answer what is to be answered, note the rest."""
        for effect in effects:
            if isinstance(effect, Send):
                sent = Sent(kernel, effect.to, effect.message)
                self.log.append(sent)
                self._flying.append(sent)
                continue
            self.effects.append((kernel, effect))
            if isinstance(effect, Create):
                self.carry_out(kernel, self.engines[kernel].created())
            elif isinstance(effect, Place):
                self.carry_out(kernel, self.engines[kernel].placed(effect.thread))
