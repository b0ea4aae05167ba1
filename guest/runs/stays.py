"""Where threads of a process were: each stay of one on this kernel, and the faults that it had meanwhile."""

from collections import deque
from time import monotonic_ns
from typing import Any

from guest.memory.samples import KINDS, FaultLog

STAYS_KEPT = 4096
"""Stays that an answer carries, the last ones."""


class _Stay:
    """From the moment when the thread ran here until it was gone."""

    def __init__(self, log: FaultLog) -> None:
        self.begun_ns = monotonic_ns()
        self.log = log
        self.before = list(log.counts), list(log.total_ns), dict(log.pages_from)
        self.asked = dict(log.pages_from)


class Stays:
    """All of one run on one kernel. Whoever asks settles the faults before (`Daemon.settle`)."""

    def __init__(self) -> None:
        self._here: dict[int, _Stay] = {}
        self._past: deque[dict[str, Any]] = deque(maxlen=STAYS_KEPT)

    def begins(self, thread: int, log: FaultLog) -> None:
        """The thread runs here, and `log` has its faults from now on."""
        self._here[thread] = _Stay(log)

    def pages(self, thread: int) -> dict[int, int]:
        """By kernel, how many pages it has sent for faults of the thread since the last call, or in this stay."""
        stay = self._here[thread]
        before, stay.asked = stay.asked, dict(stay.log.pages_from)
        return _since(stay.asked, before)

    def ends(self, thread: int) -> None:
        """The thread is gone, or has ended. Does nothing if it has never run here."""
        stay = self._here.pop(thread, None)
        if stay is None:
            return
        counts, total_ns, pages = stay.before
        self._past.append(
            {
                "thread": thread,
                "begin_ns": stay.begun_ns,
                "end_ns": monotonic_ns(),
                "faults": {kind: stay.log.counts[number] - counts[number] for number, kind in enumerate(KINDS)},
                "waited_ns": sum(stay.log.total_ns) - sum(total_ns),
                "pages_from": {str(kernel): count for kernel, count in _since(stay.log.pages_from, pages).items()},
            }
        )

    def told(self, begun_ns: int) -> list[dict[str, Any]]:
        """For the agent's answer: times are since `begun_ns`, and threads that are still here stay until now."""
        for thread in list(self._here):
            self.ends(thread)
        return [
            stay | {"begin_ns": stay["begin_ns"] - begun_ns, "end_ns": stay["end_ns"] - begun_ns} for stay in self._past
        ]


def _since(now: dict[int, int], before: dict[int, int]) -> dict[int, int]:
    return {kernel: count - before.get(kernel, 0) for kernel, count in now.items() if count != before.get(kernel, 0)}
