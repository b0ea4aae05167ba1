"""Faults in flight, and what becomes of their records.

What happens is taken down in one cheap step each, in order, and worked out later, while an answer is awaited and nobody
waits for this kernel: on an emulated machine the bookkeeping of a fault costs as much as a system call, and the next
fault is often there already.
"""

from collections.abc import Callable

from guest.memory.samples import LOCAL_FAULT, REMOTE_READ, REMOTE_WRITE, FaultLog

NOTES_KEPT = 64
"""Notes after which working them out can wait no longer."""

_Note = tuple[int, int, bool | None, FaultLog | None]


class FaultsInFlight:
    """The faults of all threads of one kernel, from the moment they are read to the moment their threads are woken."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._waiting: dict[int, list[tuple[int, bool, FaultLog]]] = {}
        self._senders: dict[int, int] = {}
        """By page that is waited for, who has sent it."""
        self._blocked = 0
        self.notes: list[_Note] = []
        """What is not worked out yet."""
        self._note = self.notes.append

    def begun(self, page: int, begin_ns: int, write: bool, log: FaultLog) -> None:
        """A thread, whose faults `log` keeps, waits for the page."""
        self._note((page, begin_ns, write, log))

    def came(self, page: int, kernel: int) -> None:
        """The page has been sent by that kernel."""
        self._note((page, kernel, None, None))

    def served(self, page: int, end_ns: int, local: bool) -> None:
        """All threads that wait for the page are woken. `local`: within the fault itself, no message was needed."""
        self._note((page, end_ns, local, None))

    def settle(self) -> None:
        """Work out what was taken down."""
        waiting = self._waiting
        for page, time_ns, flag, log in self.notes:  # `came` has a kernel in place of the time
            if log is not None:
                waiting.setdefault(page, []).append((time_ns, bool(flag), log))
                self._blocked += 1
                continue
            if flag is None:
                if page in waiting:
                    self._senders[page] = time_ns
                continue
            sender = self._senders.pop(page, None)
            for begin_ns, write, owner in waiting.pop(page, ()):
                self._blocked -= 1
                kind = LOCAL_FAULT if flag else REMOTE_WRITE if write else REMOTE_READ
                owner.add((begin_ns, page, kind, time_ns - begin_ns))
                if sender is not None:
                    owner.pages_from[sender] = owner.pages_from.get(sender, 0) + 1
                self._count(kind)
        self.notes.clear()

    def blocked(self) -> int:
        """How many threads wait."""
        self.settle()
        return self._blocked

    def since(self) -> list[tuple[int, int]]:
        """(page, since when) of every fault in flight; times in ns of CLOCK_MONOTONIC."""
        self.settle()
        return [(page, waiting[0][0]) for page, waiting in self._waiting.items()]

    def abandon(self, log: FaultLog) -> list[int]:
        """The thread of `log` has ended. Returns the pages that nobody waits for any more."""
        self.settle()
        abandoned = []
        for page, waiting in list(self._waiting.items()):
            left = [entry for entry in waiting if entry[2] is not log]
            self._blocked -= len(waiting) - len(left)
            if left:
                self._waiting[page] = left
            else:
                del self._waiting[page]
                self._senders.pop(page, None)
                abandoned.append(page)
        return abandoned
