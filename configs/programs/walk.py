"""A thread that walks: it adds up numbers that lie in pages of all kernels, and goes to where they were written.

Each kernel's part of the array is written by a thread of that kernel. The walker then reads all parts, in turn: it
either moves to the kernel that has a part before it reads it, or stays and lets the pages come.
"""

from time import monotonic

from guest.process import Thread


class Filler(Thread):
    """Writes one part of the array, where it is."""

    def __init__(self, numbers, first, end, round_):
        self.numbers, self.first, self.end, self.round = numbers, first, end, round_

    def step(self):
        self.numbers[self.first : self.end] = [index + self.round for index in range(self.first, self.end)]
        self.exit()


class Walker(Thread):
    """Adds up all parts, one a step."""

    def __init__(self, numbers, follows):
        self.numbers, self.follows = numbers, follows
        self.part, self.sum, self.visited = 0, 0, []

    def step(self):
        kernels = self.process.kernels
        if self.follows and self.kernel != self.part:
            self.migrate(self.part)
            return
        size = len(self.numbers) // kernels
        self.sum += sum(self.numbers[self.part * size : (self.part + 1) * size])
        self.visited.append(self.kernel)
        self.part += 1
        if self.part == kernels:
            self.exit((self.sum, self.visited))


def main(process):
    pages = process.parameters.get("pages", 8)
    length = 512 * pages * process.kernels
    numbers = process.array("q", length)
    size = length // process.kernels
    follows, walked_s = process.parameters["follows"], 0.0
    for number in range(process.iterations):
        fillers = [
            process.start(Filler(numbers, kernel * size, (kernel + 1) * size, number), on=kernel)
            for kernel in range(process.kernels)
        ]
        for filler in fillers:
            filler.join()
        begun = monotonic()
        total, visited = process.start(Walker(numbers, follows)).join()
        walked_s += monotonic() - begun
        assert total == length * (length - 1) // 2 + number * length, total
        assert visited == (list(range(process.kernels)) if follows else [0] * process.kernels)
    process.figure("walk_ms", round(walked_s / process.iterations * 1e3, 1))
    process.figure("follows", int(follows))
    process.figure("elsewhere", pages * (process.kernels - 1))
