"""The program of `testbed bench migration`: threads of a process that go to the other kernel and come back, twice.

Each thread notes when it leaves and when it goes on: by the clock of the kernel where it is at that moment, in ns. The
first time it finds a place in the other kernel's pool (where the process is created for the first thread of all), from
then on it takes its old place again. Before it leaves for the first time the thread that started it is given the time
to fall asleep: its wait is no part of a migration. Each prints what it noted as JSON, a list of [thread, from, left,
to, arrived].
"""

import json
import sys
from time import monotonic_ns, sleep

from guest.process import Process, Thread

HOPS = 4
REST_S = 0.002
"""For its starter to fall asleep in."""


class Traveller(Thread):
    """Goes there and back, and does nothing else."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.source = self.left_ns = 0
        self.hops: list[tuple[int, int, int, int, int]] = []

    def step(self) -> None:
        """Where it has just arrived, or begins."""
        arrived_ns = monotonic_ns()
        if self.left_ns:
            self.hops.append((self.number, self.source, self.left_ns, self.kernel, arrived_ns))
        else:
            sleep(REST_S)
        if len(self.hops) == HOPS:
            sys.stdout.write(json.dumps(self.hops) + "\n")
            self.exit()
            return
        self.source = self.kernel
        self.migrate(1 - self.kernel)
        self.left_ns = monotonic_ns()


def main(process: Process) -> None:
    """One traveller after the other: their numbers here are those of the runtime."""
    for number in range(1, process.iterations + 1):
        handle = process.start(Traveller(number))
        assert handle.number == number, handle.number
        handle.join()
