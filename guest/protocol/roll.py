"""Which threads died with a kernel: the survivors call the roll.

Nobody has a table of where every thread is. So each kernel that hears of a death says to each other which of that one's
threads are with it (those that have a placeholder there), and then that this is all: its *roll*. A thread that nobody
has named when all rolls are there died with the kernel.

A thread that moves meanwhile might be named by neither side: the destination calls its roll before the thread comes,
the source after it has gone. So a kernel that has called its roll lets no thread in from one that has not: it keeps the
source waiting until that one's roll has come, in which the thread is named. Rolls are called for a set of dead
kernels, the whole set that the caller knows, and with every further death all begins again: then nothing is missed that
a kernel had to say which died itself before all others had heard it.
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
        self._suspects: frozenset[int] = frozenset()
        """Threads with a placeholder here that may be lost."""
        self._rolls: dict[int, _Roll] = {}
        """By kernel, the latest roll."""

    def begin(self, dead: int, placeholders: Iterable[int]) -> None:
        """The kernel died; these threads, which have placeholders here, may have been there."""
        self.dead |= 1 << dead
        self.under_way = True
        self._suspects = frozenset(placeholders)
        self._rolls.pop(dead, None)

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
        if not self.under_way or any(roll.dead != self.dead or not roll.whole for roll in rolls):
            return None
        self.under_way = False
        found = self._suspects.difference(*(roll.threads for roll in rolls))
        self._suspects = frozenset()
        return sorted(found)

    def freeze(self) -> Hashable:
        """The whole state as a value."""
        return self.dead, self.under_way, self._suspects, tuple(sorted(self._rolls.items()))

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave."""
        self.dead, self.under_way, self._suspects, rolls = frozen
        self._rolls = dict(rolls)
        return self
