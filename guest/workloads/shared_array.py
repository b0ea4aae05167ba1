"""The array of the Popcorn experiments: writers fill it, everyone reads it and checks each value.

The array has u64 elements, `stride` bytes apart. In each iteration every writer stores its own elements (element *i*
belongs to writer *i* mod W), all threads meet at a barrier, every thread loads all elements and checks them, and all
meet again. A value names its iteration, its writer and its element, so a stale value cannot pass for a fresh one.

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

    @classmethod
    def parse(cls, fields: dict[str, object]) -> "SharedArray":
        """From the fields of a run command. Raises WorkloadError."""
        stride = _whole(fields, "stride", 64, ELEMENT_BYTES, 1 << 30)
        if stride % ELEMENT_BYTES:
            raise WorkloadError(f"shared-array: stride {stride}, expected a multiple of {ELEMENT_BYTES} (u64 elements)")
        array_bytes = _whole(fields, "array_bytes", None, ELEMENT_BYTES, stride << _ELEMENT_BITS)
        return cls(array_bytes, stride, _whole(fields, "iterations", 1, 1, (1 << _ITERATION_BITS) - 2))

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

    def expected(self, extent: Extent, iteration: int, writers: int) -> list[int]:
        """What every element of the page must hold after the writers' barrier of `iteration`."""
        _, first, end = extent
        if writers == 1:
            base = value_base(iteration, 0)
            return list(range(base + first, base + end))
        values = [0] * (end - first)
        for writer in range(writers):
            start = first + (writer - first) % writers
            base = value_base(iteration, writer)
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
            if writer is not None:
                self._store(words, extents, iteration, writer, len(writers), accesses)
            _note_halted(halted, writers, barrier(), iteration - 1)
            if place.role != "idle":
                for mismatch in self._load(words, extents, iteration, len(writers), halted, place, accesses):
                    wrong += 1
                    if len(mismatches) < MISMATCHES_KEPT:
                        mismatches.append(mismatch)
            _note_halted(halted, writers, barrier(), iteration)
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
    ) -> list[Mismatch]:
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
            if halted:
                expected = _left_behind(expected, found, extent.first, writers, halted)
            if found != expected:
                wrong += self._mismatches(extent, iteration, place, expected, found)
        return wrong

    def _mismatches(
        self, extent: Extent, iteration: int, place: Place, expected: list[int], found: list[int]
    ) -> list[Mismatch]:
        wrong = []
        for element, want, got in zip(range(extent.first, extent.end), expected, found, strict=True):
            if want != got:
                offset = element * self.stride - extent.page * PAGE_BYTES
                wrong.append(Mismatch(place.kernel, place.thread, iteration, extent.page, offset, want, got))
        return wrong


def _note_halted(halted: dict[int, int], writers: list[tuple[int, int]], gone: Gone, whole: int) -> None:
    """Of writers that have died since the last look, note the last iteration that they stored in `whole`, -1 if none;
    they may have stored some of the next one."""
    if gone:
        for writer, thread in enumerate(writers):
            if thread in gone:
                halted.setdefault(writer, whole)


def _left_behind(
    expected: list[int], found: list[int], first: int, writers: int, halted: Mapping[int, int]
) -> list[int]:
    """`expected`, but for the elements of dead writers: there, what was found if it is one of the things they may hold.

    Zero is one if a writer died in the first two iterations: a page that nobody else had touched is gone with it.
    """
    expected = list(expected)
    for index, got in enumerate(found):
        element = first + index
        writer = element % writers
        if writer in halted:
            whole = halted[writer]
            possible = [value_base(whole + 1, writer) + element]
            if whole >= 0:
                possible.append(value_base(whole, writer) + element)
            if whole <= 0:
                possible.append(0)
            expected[index] = got if got in possible else possible[0]
    return expected


def _whole(fields: dict[str, object], name: str, default: int | None, least: int, most: int) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise WorkloadError(f"shared-array: {name} {value!r}, expected a whole number from {least} to {most}")
    return value
