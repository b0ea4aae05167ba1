"""The harness's barrier: all threads of all kernels meet, announced kernel to kernel by BARRIER messages.

A kernel announces barrier n to every other kernel when the last of its own threads has arrived there, and says which
of its threads have died; threads go on when all living kernels have announced n. Barriers carry increasing numbers, so
that a kernel that is already at the next one is never taken for a straggler of this one. Pure: who sends the messages
and wakes the threads is the daemon's business.
"""

from collections.abc import Iterable


class Barrier:
    """One kernel's view of a sequence of barriers, numbered from 0."""

    def __init__(self, kernel: int, kernels: Iterable[int], threads: int) -> None:
        self._kernel = kernel
        self._everyone = sum(1 << k for k in kernels)
        self._alive = (1 << threads) - 1
        self._arrived = 0
        self._announced: dict[int, int] = {}
        self.number = 0
        """The barrier that threads arrive at now."""
        self.gone: dict[int, int] = {}
        """For each kernel with dead threads the mask of these, as it was when that kernel came to the last barrier."""

    @property
    def gone_here(self) -> int:
        """Mask of the local threads that have died."""
        return self.gone.get(self._kernel, 0)

    @property
    def waiting(self) -> int:
        """How many living local threads have arrived."""
        return (self._arrived & self._alive).bit_count()

    def arrive(self, thread: int) -> bool:
        """A local thread arrived; true when it was the last one: this barrier is to be announced now."""
        assert not self._arrived >> thread & 1, f"barrier {self.number}: thread {thread} arrived twice"
        self._arrived |= 1 << thread
        return self.complete()

    def leave(self, thread: int) -> bool:
        """A local thread died and will not arrive any more; true when this barrier is to be announced now."""
        self._alive &= ~(1 << thread)
        self.gone[self._kernel] = self.gone_here | 1 << thread
        return self.complete()

    def complete(self) -> bool:
        """Whether this barrier is to be announced now: every living local thread is there, and it was not yet.

        To be asked after `open`, too: a kernel without living threads is at the next one at once.
        """
        if self._alive & ~self._arrived or self._announced.get(self.number, 0) >> self._kernel & 1:
            return False
        self.announce(self._kernel, self.number, self.gone_here)
        return True

    def announce(self, kernel: int, number: int, gone: int = 0) -> None:
        """All threads of `kernel` are at barrier `number`, but for those `gone` (a mask), which have died."""
        assert number in (self.number, self.number + 1), f"kernel {kernel} is at barrier {number}, not {self.number}"
        self._announced[number] = self._announced.get(number, 0) | 1 << kernel
        if gone:
            self.gone[kernel] = gone

    def bury(self, kernel: int, threads: int) -> None:
        """The kernel has died with all its threads: it is not waited for any more."""
        self._everyone &= ~(1 << kernel)
        self.gone[kernel] = (1 << threads) - 1

    def open(self) -> bool:
        """Whether everyone is here; if so the next barrier begins, and all local threads are to be released."""
        if self._everyone & ~self._announced.get(self.number, 0):
            return False
        del self._announced[self.number]
        self.number += 1
        self._arrived = 0
        return True

    def missing(self) -> list[int]:
        """The kernels that have not announced the current barrier."""
        absent = self._everyone & ~self._announced.get(self.number, 0)
        return [k for k in range(absent.bit_length()) if absent >> k & 1]
