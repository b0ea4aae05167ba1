"""The script of `testbed bench mutex`: two threads hand a mutex to each other, over and over.

Each takes its next place in the queue before it lets go, so the mutex goes to the other one and comes back, whatever
the two are at. A sample is the time from one's release until one holds it again, in microseconds: two hand-overs.
Samples are printed as JSON.
"""

import json
import sys
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guest.workloads.program import Part

WARM_UP = 8
"""Samples that do not count."""


def partner(part: "Part") -> None:
    """One of the two threads."""
    mutex = part.mutex(0)
    samples = []
    if part.rank == 0:
        mutex.acquire()
    part.barrier()
    if part.rank == 1:
        mutex.enqueue()
    part.barrier()
    if part.rank == 1:
        mutex.acquire()
    for _ in range(WARM_UP + part.iterations):
        following = part.mutex(0)
        following.enqueue()
        begun_ns = perf_counter_ns()
        mutex.release()
        following.acquire()
        samples.append((perf_counter_ns() - begun_ns) / 1e3)
        mutex = following
    mutex.release()
    sys.stdout.write(json.dumps(samples[WARM_UP:]) + "\n")
