"""Whether a machine is at work: what tells a guest that hangs from one that is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from testbed.process import PROC

SAMPLE_S = 1.0
AT_WORK = 0.15
"""Share of a CPU. An idle guest, emulated, takes some percent for its clock; one that boots takes what it gets."""


class Activity:
    """Of the process `pid`, from now on. `work_ns` says how long its threads have worked, or wanted to, since ever."""

    def __init__(self, pid: int, work_ns: Callable[[int], int | None] | None = None) -> None:
        self._pid = pid
        self._work_ns = work_ns or work_of
        self._seen_s = time.monotonic()
        self._seen_ns = self._work_ns(pid)
        self._still_s = 0.0

    def still_s(self, now_s: float | None = None) -> float:
        """For how many seconds it has done next to nothing. Cheap to ask: it looks once a second."""
        now_s = time.monotonic() if now_s is None else now_s
        elapsed_s = now_s - self._seen_s
        if elapsed_s >= SAMPLE_S:
            before, self._seen_ns = self._seen_ns, self._work_ns(self._pid)
            at_work = before is None or self._seen_ns is None or self._seen_ns - before > AT_WORK * elapsed_s * 1e9
            self._still_s = 0.0 if at_work else self._still_s + elapsed_s
            self._seen_s = now_s
        return self._still_s

    def forget(self) -> None:
        """Begin to count anew: there is a reason why it is still."""
        self._still_s = 0.0


def work_of(pid: int) -> int | None:
    """Nanoseconds that the threads of a process ran or waited for a CPU (man 5 proc, /proc/PID/schedstat).

    The time they wait for counts: on a busy host a guest that wants to run is not still. None when a thread waits for
    a disk, or nothing can be read: then nothing is known.
    """
    total = 0
    try:
        for thread in Path(PROC, str(pid), "task").iterdir():
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                return None
            ran, waited, _ = (thread / "schedstat").read_text().split()
            total += int(ran) + int(waited)
    except (OSError, ValueError):
        return None
    return total
