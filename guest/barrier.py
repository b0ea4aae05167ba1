"""The harness's barrier: all threads of all kernels meet, announced kernel to kernel by BARRIER messages.

A kernel announces barrier n to every other kernel when the last of its own threads has arrived there; threads go on
when all kernels have announced n. Barriers carry increasing numbers, so that a kernel that is already at the next one
is never taken for a straggler of this one. Pure: who sends the messages and wakes the threads is the daemon's business.
"""

from collections.abc import Iterable


class Barrier:
    """One kernel's view of a sequence of barriers, numbered from 0."""

    def __init__(self, kernel: int, kernels: Iterable[int], threads: int) -> None:
        self._kernel = kernel
        self._everyone = sum(1 << k for k in kernels)
        self._threads = threads
        self._arrived = 0
        self._announced: dict[int, int] = {}
        self.number = 0
        """The barrier that threads arrive at now."""

    def arrive(self) -> bool:
        """A local thread arrived; true when it was the last one: this barrier is to be announced now."""
        self._arrived += 1
        assert self._arrived <= self._threads, f"barrier {self.number}: more arrivals than {self._threads} threads"
        if self._arrived < self._threads:
            return False
        self.announce(self._kernel, self.number)
        return True

    def announce(self, kernel: int, number: int) -> None:
        """All threads of `kernel` are at barrier `number`."""
        assert number in (self.number, self.number + 1), f"kernel {kernel} is at barrier {number}, not {self.number}"
        self._announced[number] = self._announced.get(number, 0) | 1 << kernel

    def open(self) -> bool:
        """Whether everyone is here; if so the next barrier begins, and all local threads are to be released."""
        if self._announced.get(self.number, 0) != self._everyone:
            return False
        del self._announced[self.number]
        self.number += 1
        self._arrived = 0
        return True

    def missing(self) -> list[int]:
        """The kernels that have not announced the current barrier."""
        absent = self._everyone & ~self._announced.get(self.number, 0)
        return [k for k in range(absent.bit_length()) if absent >> k & 1]
