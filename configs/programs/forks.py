"""A process that forks onto every kernel: each child has the memory as it was at its fork, at the same addresses.

The parent fills an array, forks, and goes on changing it. Each child sorts its own copy, on its own kernel, and reports
how many numbers it has found out of order; neither the parent nor another child ever sees that.
"""

from guest.process import Thread


class Sorter(Thread):
    """The first thread of a child."""

    def __init__(self, numbers, round_):
        self.numbers, self.round = numbers, round_

    def step(self):
        found = list(self.numbers)
        assert sorted(found) == list(range(self.round, self.round + len(found))), "not the memory of the fork"
        self.numbers[:] = sorted(found)
        self.process.figure(
            f"kernel_{self.kernel}_moved", sum(a != b for a, b in zip(found, self.numbers.view, strict=True))
        )
        self.exit()


def main(process):
    length = 512 * process.parameters["pages"]
    numbers = process.array("q", length)
    children = []
    for kernel in range(process.kernels):
        step = 2 * kernel + 3  # odd, and so without a common divisor with the length
        numbers[:] = [kernel + index * step % length for index in range(length)]
        before = numbers[1]
        children.append(process.fork(Sorter(numbers, kernel), on=kernel))
        assert numbers[1] == before, "a child has written to its parent's memory"
    for child in children:
        child.join()
    assert numbers[1] == before, "a child has written to its parent's memory"
