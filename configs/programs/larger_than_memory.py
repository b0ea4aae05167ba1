"""An array that no kernel has room for: one thread writes a number into each page of it, and reads them all again.

It reads backwards, as the last pages that it wrote are still where it is; the first ones come back from other kernels.
"""

from guest.process import Thread

NUMBERS = 512  # in a page


class Writer(Thread):
    """Writes one number into each page, 64 pages a step."""

    def __init__(self, numbers):
        self.numbers, self.page = numbers, 0

    def step(self):
        pages = len(self.numbers) // NUMBERS
        end = min(self.page + 64, pages)
        for page in range(self.page, end):
            self.numbers[page * NUMBERS] = page * page
        self.page = end
        if end == pages:
            self.exit()


class Reader(Thread):
    """Reads them, from the last to the first, and adds them up."""

    def __init__(self, numbers):
        self.numbers, self.page, self.sum = numbers, len(numbers) // NUMBERS, 0

    def step(self):
        end = max(self.page - 64, 0)
        for page in reversed(range(end, self.page)):
            assert self.numbers[page * NUMBERS] == page * page, page
            self.sum += page * page
        self.page = end
        if end == 0:
            self.exit(self.sum)


def main(process):
    numbers = process.array("q", process.size // 8)
    process.start(Writer(numbers)).join()
    total = process.start(Reader(numbers)).join()
    pages = len(numbers) // NUMBERS
    assert total == sum(page * page for page in range(pages)), total
    process.figure("array_pages", pages)
