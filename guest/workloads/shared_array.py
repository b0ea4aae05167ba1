"""The array of the Popcorn experiments: writers fill it, everyone reads it and checks each value.

The array has u64 elements, `stride` bytes apart. In each iteration every writer stores its own elements (element *i*
belongs to writer *i* mod W), all threads meet at a barrier, every thread loads all elements and checks them, and all
meet again. A value names its iteration, its writer and its element, so a stale value cannot pass for a fresh one.

With a `write_share` below 1 a writer stores to a page or, by chance, loads it in that step instead: then other writers
are at work, and what it finds is of this iteration or of the one before.

Writers may die. Then their elements stay as they were: in the iteration in which one died it had stored all of them,
some, or none. Pages may be lost, too; what is loaded there is not checked.

Accesses are made page by page, each in bulk through one strided memoryview slice: the time of such an access is what
the program itself sees of a page fault.
"""

from array import array
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import NamedTuple

from guest.workloads.workload import PAGE_BYTES, AccessRecorder, Barrier, Gone, Mismatch, Place, WorkloadError

ELEMENT_BYTES = 8
ROLES = ("reader", "writer", "idle")
MISMATCHES_KEPT = 16
"""Wrong values recorded in full by each thread; the rest is only counted."""

_WORD = (1 << 64) - 1
_ELEMENT_BITS = 32
_WRITER_BITS = 8
_ITERATION_BITS = 24


def value_base(iteration: int, writer: int) -> int:
    """What `writer` stores in element 0 of `iteration`; element *i* gets *i* more. Never zero."""
    return (iteration + 1) << (_ELEMENT_BITS + _WRITER_BITS) | (writer + 1) << _ELEMENT_BITS


class Extent(NamedTuple):
    """The elements that lie in one page."""

    page: int
    first: int
    end: int


class SharedArray(NamedTuple):
    """The workload `shared-array`."""

    array_bytes: int
    stride: int
    iterations: int
    write_share: float = 1.0
    """Of a writer's accesses in the first half of an iteration, how many are stores; the others are loads."""
    seed: int = 0
    """Decides which."""

    @classmethod
    def parse(cls, fields: dict[str, object]) -> "SharedArray":
        """From the fields of a run command. Raises WorkloadError."""
        stride = _whole(fields, "stride", 64, ELEMENT_BYTES, 1 << 30)
        if stride % ELEMENT_BYTES:
            raise WorkloadError(f"shared-array: stride {stride}, expected a multiple of {ELEMENT_BYTES} (u64 elements)")
        array_bytes = _whole(fields, "array_bytes", None, ELEMENT_BYTES, stride << _ELEMENT_BITS)
        share = fields.get("write_share", 1.0)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise WorkloadError(f"shared-array: write_share {share!r}, expected a number from 0 to 1")
        iterations = _whole(fields, "iterations", 1, 1, (1 << _ITERATION_BITS) - 2)
        return cls(array_bytes, stride, iterations, float(share), _whole(fields, "seed", 0, 0, 1 << 62))

    @property
    def elements(self) -> int:
        """Elements that fit in the array whole."""
        return (self.array_bytes - ELEMENT_BYTES) // self.stride + 1

    @property
    def pages(self) -> int:
        """Pages from the array's first byte to its last."""
        return -(-self.array_bytes // PAGE_BYTES)

    @property
    def meeting_bytes(self) -> int:
        """Barriers are all it needs."""
        return 0

    def extents(self) -> list[Extent]:
        """The pages that hold elements, with their elements. No element straddles pages: strides are multiples of 8."""
        starts = [min(-(-page * PAGE_BYTES // self.stride), self.elements) for page in range(self.pages + 1)]
        found = (Extent(page, starts[page], starts[page + 1]) for page in range(self.pages))
        return [extent for extent in found if extent.first < extent.end]

    @property
    def spares_threads(self) -> bool:
        """Yes: everybody else's elements go on changing."""
        return True

    def check_roles(self, roles: Sequence[Sequence[str]]) -> None:
        """Raise WorkloadError on an unknown role or more writers than a value can name."""
        names = [name for kernel in roles for name in kernel]
        for name in names:
            if name not in ROLES:
                raise WorkloadError(f"shared-array: role {name!r}, expected one of: {', '.join(ROLES)}")
        if names.count("writer") >= 1 << _WRITER_BITS:
            raise WorkloadError(f"shared-array: {names.count('writer')} writers, at most {(1 << _WRITER_BITS) - 1}")

    def stores(self, page: int, iteration: int, writer: int) -> bool:
        """Whether the writer stores to the page in this iteration, and does not load it."""
        if self.write_share >= 1:
            return True
        drawn = _mixed(_mixed(_mixed(self.seed + iteration) + page) + writer)
        return drawn >> 11 < self.write_share * (1 << 53)

    def last_stored(self, page: int, iteration: int, writer: int) -> int:
        """The last iteration, up to this one, in which the writer stored to the page; -1 if there was none."""
        while iteration >= 0 and not self.stores(page, iteration, writer):
            iteration -= 1
        return iteration

    def expected(self, extent: Extent, iteration: int, writers: int) -> list[int]:
        """What every element of the page must hold after the writers' barrier of `iteration`."""
        page, first, end = extent
        values = [0] * (end - first)
        for writer in range(writers):
            last = self.last_stored(page, iteration, writer)
            if last >= 0:
                start = first + (writer - first) % writers
                base = value_base(last, writer)
                values[start - first :: writers] = range(base + start, base + end, writers)
        return values

    def run(
        self, memory: memoryview, place: Place, barrier: Barrier, accesses: AccessRecorder
    ) -> tuple[int, list[Mismatch]]:
        """One thread's part; `memory` is the shared memory as bytes."""
        extents = self.extents()
        words = memory.cast("Q")
        writers = place.members("writer")
        writer = writers.index((place.kernel, place.thread)) if place.role == "writer" else None
        wrong = 0
        mismatches: list[Mismatch] = []
        halted: dict[int, int] = {}
        for iteration in range(self.iterations):
            found: list[Mismatch] = []
            if writer is not None:
                stored = [extent for extent in extents if self.stores(extent.page, iteration, writer)]
                self._store(words, stored, iteration, writer, len(writers), accesses)
                loaded = [extent for extent in extents if extent not in stored] if self.write_share < 1 else []
                found += self._load(words, loaded, iteration, len(writers), halted, place, accesses, racing=True)
            _note_halted(halted, writers, barrier(), iteration - 1)
            if place.role != "idle":
                found += self._load(words, extents, iteration, len(writers), halted, place, accesses)
            _note_halted(halted, writers, barrier(), iteration)
            wrong += len(found)
            mismatches += found[: MISMATCHES_KEPT - len(mismatches)]
        return wrong, mismatches

    def _store(
        self,
        words: memoryview,
        extents: list[Extent],
        iteration: int,
        writer: int,
        writers: int,
        accesses: AccessRecorder,
    ) -> None:
        step = self.stride // ELEMENT_BYTES
        base = value_base(iteration, writer)
        for page, first, end in extents:
            start = first + (writer - first) % writers
            if start >= end:
                continue  # fewer elements in the page than writers: none of them is this writer's
            values = memoryview(array("Q", range(base + start, base + end, writers)))
            target = words[start * step : (end - 1) * step + 1 : writers * step]
            begin_ns = perf_counter_ns()
            target[:] = values
            end_ns = perf_counter_ns()
            if not accesses.lost(page):
                accesses.record(begin_ns, end_ns, page, True)

    def _load(
        self,
        words: memoryview,
        extents: list[Extent],
        iteration: int,
        writers: int,
        halted: Mapping[int, int],
        place: Place,
        accesses: AccessRecorder,
        *,
        racing: bool = False,
    ) -> list[Mismatch]:
        """`racing`: while writers are at work, so that values of the iteration before are right, too."""
        step = self.stride // ELEMENT_BYTES
        wrong: list[Mismatch] = []
        for extent in extents:
            page, first, end = extent
            source = words[first * step : (end - 1) * step + 1 : step]
            begin_ns = perf_counter_ns()
            found = source.tolist()
            end_ns = perf_counter_ns()
            if accesses.lost(page):
                continue
            accesses.record(begin_ns, end_ns, page, False)
            expected = self.expected(extent, iteration, writers)
            if racing and found != expected:
                before = self.expected(extent, iteration - 1, writers)
                expected = [old if old == got else new for old, new, got in zip(before, expected, found, strict=True)]
            if halted:
                expected = self._left_behind(extent, expected, found, writers, halted)
            if found != expected:
                wrong += self._mismatches(extent, iteration, place, expected, found)
        return wrong

    def _left_behind(
        self, extent: Extent, expected: list[int], found: list[int], writers: int, halted: Mapping[int, int]
    ) -> list[int]:
        """`expected`, but for the elements of dead writers: what was found there, if they may hold it.

        Zero is one such thing if a writer died in the first two iterations: a page that nobody else had touched is gone
        with it.
        """
        expected = list(expected)
        for index, got in enumerate(found):
            element = extent.first + index
            writer = element % writers
            if writer in halted:
                whole = halted[writer]
                last = [self.last_stored(extent.page, iteration, writer) for iteration in (whole + 1, whole)]
                possible = [value_base(each, writer) + element if each >= 0 else 0 for each in last]
                if whole <= 0:
                    possible.append(0)
                expected[index] = got if got in possible else possible[0]
        return expected

    def _mismatches(
        self, extent: Extent, iteration: int, place: Place, expected: list[int], found: list[int]
    ) -> list[Mismatch]:
        wrong = []
        for element, want, got in zip(range(extent.first, extent.end), expected, found, strict=True):
            if want != got:
                offset = element * self.stride - extent.page * PAGE_BYTES
                wrong.append(Mismatch(place.kernel, place.thread, iteration, extent.page, offset, want, got))
        return wrong


def _mixed(number: int) -> int:
    """64 bits that look random, of any number: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _WORD
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _WORD
    return number ^ number >> 31


def _note_halted(halted: dict[int, int], writers: list[tuple[int, int]], gone: Gone, whole: int) -> None:
    """Of writers that have died since the last look, note the last iteration that they stored in `whole`, -1 if none;
    they may have stored some of the next one."""
    if gone:
        for writer, thread in enumerate(writers):
            if thread in gone:
                halted.setdefault(writer, whole)


def _whole(fields: dict[str, object], name: str, default: int | None, least: int, most: int) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise WorkloadError(f"shared-array: {name} {value!r}, expected a whole number from {least} to {most}")
    return value
