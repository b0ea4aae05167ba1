"""When things happened on one kernel: its barriers and its page faults, for a timeline of all kernels.

Every kernel has a clock of its own. Barriers bring them together: a kernel notes when it announced each barrier, and
when it heard the others announce theirs. The host makes one clock of that (`orchestrator.results.clocks`).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic_ns
from typing import Any

from guest.memory.samples import KINDS, FaultLog

BARRIERS_KEPT = 512
"""Barriers, and announcements heard, that a timeline keeps: the last ones."""
FAULTS_SHOWN = 1024
"""Page faults of a kernel that an answer tells one by one: the last ones. `by_page` counts more."""


class Timeline:
    """One kernel's notes during one run. Times are of CLOCK_MONOTONIC, in ns."""

    def __init__(self) -> None:
        self._announced: deque[tuple[int, int]] = deque(maxlen=BARRIERS_KEPT)
        self._heard: deque[tuple[int, int, int]] = deque(maxlen=BARRIERS_KEPT)

    def announced(self, barrier: int) -> None:
        """This kernel is about to announce the barrier."""
        self._announced.append((barrier, monotonic_ns()))

    def heard(self, kernel: int, barrier: int) -> None:
        """Another kernel's announcement has arrived."""
        self._heard.append((kernel, barrier, monotonic_ns()))

    def told(self, begun_ns: int, logs: Sequence[FaultLog]) -> dict[str, Any]:
        """For the agent's answer: all times are since `begun_ns`. Of faults, columns: there are many of them."""
        faults = sorted((*record, thread) for thread, log in enumerate(logs) for record in log.recent)[-FAULTS_SHOWN:]
        return {
            "begun_ns": begun_ns,
            "announced_ns": [[barrier, at_ns - begun_ns] for barrier, at_ns in self._announced],
            "heard_ns": [[kernel, barrier, at_ns - begun_ns] for kernel, barrier, at_ns in self._heard],
            "faults": {
                "begin_ns": [fault[0] - begun_ns for fault in faults],
                "page": [fault[1] for fault in faults],
                "kind": [fault[2] for fault in faults],
                "duration_ns": [fault[3] for fault in faults],
                "thread": [fault[4] for fault in faults],
            },
        }


def by_page(logs: Iterable[FaultLog]) -> list[list[int]]:
    """How many of the faults kept each page had: [page, local_fault, remote_read, remote_write], pages in order."""
    counts: dict[int, list[int]] = {}
    for log in logs:
        for _, page, kind, _ in log.recent:
            if page not in counts:
                counts[page] = [0] * len(KINDS)
            counts[page][kind] += 1
    return [[page, *counts[page]] for page in sorted(counts)]
