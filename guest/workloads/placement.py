"""Placement of a process's threads: where one begins that was not told, and whether one that can move does.

A policy is one small class. Every kernel has its own policy, which decides about the threads that are there, with what
this kernel knows: nobody is asked for a decision, and policies of two kernels may decide at the same moment.

Where a program says so itself (`on=` of `Process.start`, `Thread.migrate`), no policy is asked, but after later
steps.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple


class View(NamedTuple):
    """What a kernel knows at this moment."""

    kernel: int
    """This one."""
    loads: Mapping[int, int]
    """Of each living kernel, this one included: how many threads run there, or are on their way there, without those
    that sleep until they are woken."""

    @property
    def least(self) -> int:
        """The living kernel with the fewest threads: this one, if no other has fewer; otherwise the lowest of them."""
        return min(self.loads, key=lambda kernel: (self.loads[kernel], kernel != self.kernel, kernel))


class Fixed:
    """Threads begin where they are started, and go only where they themselves want to."""

    name: ClassVar[str] = "fixed"
    asks: ClassVar[bool] = False
    """Whether `moves` has anything to say: otherwise nobody is asked between two steps."""
    weighs: ClassVar[bool] = False
    """Whether it compares the numbers of `View.loads`: otherwise kernels tell each other theirs only now and then."""

    def begins(self, _thread: int, view: View) -> int:
        """The living kernel at which this thread begins; threads have the numbers 1, 2, … in the whole process."""
        return view.kernel

    def moves(self, _thread: int, view: View, _pages: Mapping[int, int]) -> int:
        """The living kernel to which the thread, which is here and between two steps, moves; this one if it stays.

        `pages`: by kernel, how many pages it has sent for faults of the thread since this was called of the thread for
        the last time, or since it has been here.
        """
        return view.kernel

    def leaves(self, _thread: int) -> None:
        """The thread is not here any more."""


class RoundRobin(Fixed):
    """Each thread begins on the kernel behind that of the thread before it."""

    name = "round-robin"

    def begins(self, thread: int, view: View) -> int:
        """By its number, which all kernels know without talking: so it does not matter where threads are started."""
        kernels = sorted(view.loads)
        return kernels[thread % len(kernels)]


class Load(Fixed):
    """Threads go to where the fewest are: when they begin, and whenever that makes the numbers more equal."""

    name = "load"
    asks = True
    weighs = True

    def begins(self, _thread: int, view: View) -> int:
        """The kernel with the fewest."""
        return view.least

    def moves(self, _thread: int, view: View, _pages: Mapping[int, int]) -> int:
        """A difference of one would only change sides."""
        least = view.least
        return least if view.loads[view.kernel] - view.loads[least] > 1 else view.kernel


class Locality(Fixed):
    """Threads go to where their pages come from.

    What counts are the pages of the last moments: of what was counted at a call, `KEPT` is left at the next. A thread
    moves when `ENOUGH` pages of one kernel, and more than of all others together, are on the account. It may have left
    pages behind that it wants again, or a thread that it shares pages with has changed places with it: so each time
    that it is sent away from a kernel, twice as many pages are needed there to send it away again.
    """

    name = "locality"
    asks = True
    ENOUGH = 8
    """A move costs a page for the state, four messages, and what the thread needs of the place that it leaves."""
    KEPT = 7 / 8

    def __init__(self) -> None:
        self._accounts: dict[int, dict[int, float]] = {}
        self._sent_away: dict[int, int] = {}

    def moves(self, thread: int, view: View, pages: Mapping[int, int]) -> int:
        """To the kernel of most pages, if they are enough."""
        account = self._accounts.setdefault(thread, {})
        for kernel in account:
            account[kernel] *= self.KEPT
        for kernel, count in pages.items():
            account[kernel] = account.get(kernel, 0.0) + count
        living = [kernel for kernel in account if kernel in view.loads and kernel != view.kernel]
        if not living:
            return view.kernel
        most = max(living, key=lambda kernel: (account[kernel], -kernel))
        times = self._sent_away.get(thread, 0)
        if account[most] < self.ENOUGH << times or 2 * account[most] <= sum(account.values()):
            return view.kernel
        account.clear()
        self._sent_away[thread] = times + 1
        return most

    def leaves(self, thread: int) -> None:
        """Pages that it asks for when it is here again are others."""
        self._accounts.pop(thread, None)


Policy = Fixed
"""What all of them are."""
POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Fixed, RoundRobin, Load, Locality)}
"""By the name that experiment files use."""
