"""A load that is skewed: of the threads, which all count for themselves, every other one has six times as much to do.

Each goes through a range of numbers and looks for the one that takes the most steps down to 1 (half of an even
number, three times an odd one and one more). No thread says where it runs: that is what `placement` is for.
"""

from time import monotonic

from guest.process import Thread

NUMBERS_A_STEP = 64
HEAVY, LIGHT = 6, 1


class Searcher(Thread):
    """Searches its range, some numbers a step."""

    def __init__(self, first, end):
        self.next, self.end = first, end
        self.longest = (0, 0)
        self.steps_at = {}

    def step(self):
        self.steps_at[self.kernel] = self.steps_at.get(self.kernel, 0) + 1
        end = min(self.next + NUMBERS_A_STEP, self.end)
        for start in range(self.next, end):
            number, steps = start, 0
            while number != 1:
                number = 3 * number + 1 if number % 2 else number // 2
                steps += 1
            self.longest = max(self.longest, (steps, -start))
        self.next = end
        if end == self.end:
            self.exit((self.longest, self.steps_at))


def main(process):
    share, count = process.parameters["share"], process.parameters["threads"]
    begun, first, searchers = monotonic(), 1, []
    for number in range(count):
        end = first + share * (HEAVY if number % 2 else LIGHT)
        searchers.append(process.start(Searcher(first, end)))
        first = end
    found = [searcher.join() for searcher in searchers]
    process.figure("searched_ms", round((monotonic() - begun) * 1e3, 1))
    steps, start = max(longest for longest, _ in found)
    process.figure("longest", steps)
    process.figure("start", -start)
    every = sum(sum(steps_at.values()) for _, steps_at in found)
    away = sum(steps_at.get(kernel, 0) for _, steps_at in found for kernel in range(1, process.kernels))
    process.figure("away_percent", round(100 * away / every))
