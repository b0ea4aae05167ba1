"""Heat that spreads over a plate: a five-point stencil in NumPy on coherent memory, checked bit for bit.

Two grids lie one behind the other in the memory. In each iteration every thread computes its rows of one grid from the
other, for which it needs a row of each neighbour's, and all meet. At the end each computes everything by itself, in
memory of its own, and compares its rows.
"""

import numpy as np


def worker(part):
    size = int(part.parameters["size"])
    grids = np.frombuffer(part.memory, np.float64, 2 * size * size).reshape(2, size, size)
    first, end = (size * rank // part.ranks for rank in (part.rank, part.rank + 1))
    grids[:, first:end] = plate(part.seed, size)[first:end]
    part.barrier()
    for iteration in range(part.iterations):
        step(grids[iteration % 2], grids[1 - iteration % 2], first, end)
        part.barrier()

    alone = np.stack([plate(part.seed, size)] * 2)
    for iteration in range(part.iterations):
        step(alone[iteration % 2], alone[1 - iteration % 2], 0, size)
    result = part.iterations % 2
    found, expected = grids[result].view(np.uint64), alone[result].view(np.uint64)
    for row, column in np.argwhere(found[first:end] != expected[first:end]):
        offset = 8 * ((result * size + first + int(row)) * size + int(column))
        part.check(offset, int(expected[first + row, column]), int(found[first + row, column]), part.iterations)
    part.figure("mean", float(alone[result].mean()))


def plate(seed, size):
    """Random inside, hot at the upper edge."""
    start = np.random.default_rng(seed).random((size, size))
    start[0] = 100.0
    return start


def step(old, new, first, end):
    """Rows `first` to `end` of the new grid; the edges stay as they are."""
    low, high = max(first, 1), min(end, len(old) - 1)
    inside = old[low - 1 : high - 1, 1:-1] + old[low + 1 : high + 1, 1:-1] + old[low:high, :-2] + old[low:high, 2:]
    new[low:high, 1:-1] = 0.25 * inside
