"""Which threads died with a kernel: the survivors call the roll.

Nobody has a table of where every thread is. So each kernel that hears of a death says to each other which of that one's
threads are with it (those that have a placeholder there), and then that this is all: its *roll*. A thread that nobody
has named when all rolls are there died with the kernel.

A thread that moves meanwhile might be named by neither side, or by one that it has left. So there are two rules. A
kernel that has heard of the death lets no thread in from one whose roll has not come: it keeps the source waiting,
which names the thread. And nobody calls its roll before all others have said that they have heard: what they let in
before, they have answered by then, links being in order, and it is not named any more by its source.

Rolls are called for a set of dead kernels, the whole set that the caller knows, and with every further death all begins
again: then nothing is missed that a kernel had to say which died itself before all others had heard it.
"""

from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple, Self


class _Roll(NamedTuple):
    """What one kernel has named so far."""

    dead: int = 0
    """Mask of the kernels that it is about."""
    threads: frozenset[int] = frozenset()
    whole: bool = False


class RollCall:
    """One kernel's view of the rolls."""

    def __init__(self) -> None:
        self.dead = 0
        """Mask of the kernels that ever died."""
        self.under_way = False
        """Whether rolls are awaited."""
        self._called = True
        """Whether we have called ours for them."""
        self._suspects: frozenset[int] = frozenset()
        """Threads with a placeholder here that may be lost."""
        self._heard: dict[int, int] = {}
        """By kernel, a mask of the deaths that it has heard of."""
        self._rolls: dict[int, _Roll] = {}
        """By kernel, the latest roll."""

    def begin(self, dead: int) -> None:
        """The kernel died."""
        self.dead |= 1 << dead
        self.under_way, self._called = True, False
        self._rolls.pop(dead, None)
        self._heard.pop(dead, None)

    def heard(self, kernel: int, dead: int) -> None:
        """The kernel has heard of these deaths, a mask."""
        self._heard[kernel] = dead

    def due(self, others: Collection[int]) -> bool:
        """Whether our roll is to be called now: all others have heard of every death that we know of."""
        return not self._called and not any(self.dead & ~self._heard.get(kernel, 0) for kernel in others)

    def call(self, placeholders: Iterable[int]) -> None:
        """We call our roll; the threads which have these placeholders here may have been with the dead."""
        self._called = True
        self._suspects = frozenset(placeholders)

    def named(self, kernel: int, dead: int, thread: int) -> None:
        """The thread is there, says the kernel."""
        roll = self._rolls.get(kernel, _Roll())
        threads = roll.threads if roll.dead == dead else frozenset()
        self._rolls[kernel] = _Roll(dead, threads | {thread})

    def called(self, kernel: int, dead: int) -> None:
        """The kernel has named all."""
        roll = self._rolls.get(kernel, _Roll())
        self._rolls[kernel] = _Roll(dead, roll.threads if roll.dead == dead else frozenset(), whole=True)

    def seen(self, thread: int) -> None:
        """The thread is here, or about to be."""
        if self._suspects:
            self._suspects -= {thread}

    def abreast(self, kernel: int) -> bool:
        """Whether the kernel has called its roll for every death that we know of."""
        if not self.dead:
            return True
        roll = self._rolls.get(kernel, _Roll())
        return not self.dead & ~roll.dead and roll.whole

    def lost(self, others: Collection[int]) -> list[int] | None:
        """Once the rolls of all others are there: the threads that nobody has named, in order. None until then."""
        rolls = [self._rolls.get(kernel, _Roll()) for kernel in others]
        if not self.under_way or not self._called or any(roll.dead != self.dead or not roll.whole for roll in rolls):
            return None
        self.under_way = False
        found = self._suspects.difference(*(roll.threads for roll in rolls))
        self._suspects = frozenset()
        return sorted(found)

    def freeze(self) -> Hashable:
        """The whole state as a value."""
        tables = tuple(sorted(self._heard.items())), tuple(sorted(self._rolls.items()))
        return self.dead, self.under_way, self._called, self._suspects, *tables

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave."""
        self.dead, self.under_way, self._called, self._suspects, heard, rolls = frozen
        self._heard, self._rolls = dict(heard), dict(rolls)
        return self
