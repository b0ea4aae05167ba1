"""The waits of this kernel's threads: what the engine of waits says, told to those who wait."""

from collections.abc import Callable

from guest.protocol.effects import Effect, FutexEffect, Queued, Send, WaitLost, Woken
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Message

Outcome = Queued | Woken | WaitLost


class Waits:
    """Between the daemon and its engine of waits."""

    def __init__(self, engine: FutexEngine, carry_out: Callable[[list[Effect]], object]) -> None:
        self._engine = engine
        self._carry_out = carry_out
        self._told: dict[int, Callable[[Outcome], object]] = {}

    @property
    def next_number(self) -> int:
        """The number of the next wait."""
        return self._engine.requests + 1

    def wait(self, word: int, value: int, told: Callable[[Outcome], object]) -> None:
        """Wait until the word has reached the value; `told` is told what comes of it, within this call perhaps."""
        self._told[self.next_number] = told
        self._settle(self._engine.wait(word, value))

    def cancel(self, number: int) -> bool:
        """Nobody waits any more, and nothing more is told; false if the wait was over already."""
        self._settle(self._engine.cancel(number))
        return self._told.pop(number, None) is not None

    def wake(self, word: int, value: int) -> None:
        """The word has reached the value."""
        self._settle(self._engine.wake(word, value))

    def receive(self, sender: int, message: Message) -> None:
        """One message of another kernel. Raises ProtocolError."""
        self._settle(self._engine.receive(sender, message))

    def peer_down(self, kernel: int) -> None:
        """Another kernel died."""
        self._settle(self._engine.peer_down(kernel))

    def _settle(self, effects: list[FutexEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._carry_out([effect])
            elif isinstance(effect, Queued):
                self._told[effect.request](effect)
            else:
                self._told.pop(effect.request)(effect)
