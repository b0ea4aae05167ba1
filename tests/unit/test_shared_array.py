"""The workload shared-array: which elements are whose, which values are right, and that wrong ones are found."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import workloads
from guest.workloads import Mismatch, Place, WorkloadError
from guest.workloads.shared_array import MISMATCHES_KEPT, Extent, SharedArray, value_base
from guest.workloads.workload import Gone

Roles = tuple[tuple[str, ...], ...]


class Accesses:
    """Takes down the pages that were accessed."""

    def __init__(self) -> None:
        self.stores: list[int] = []
        self.loads: list[int] = []
        self.lost_pages: set[int] = set()

    def lost(self, page: int) -> bool:
        return page in self.lost_pages

    def record(self, start_ns: int, end_ns: int, page: int, store: bool) -> None:
        assert 0 < start_ns <= end_ns
        (self.stores if store else self.loads).append(page)

    def keep(self, history: bytes) -> None:
        raise AssertionError("a shared array is checked in place and keeps no history")


def nothing() -> Gone:
    """A barrier for a thread that is alone."""
    return frozenset()


shapes = st.builds(
    SharedArray,
    array_bytes=st.integers(8, 40_000),
    stride=st.integers(1, 1500).map(lambda words: words * 8),
    iterations=st.just(1),
)


@given(shapes)
def test_every_element_lies_in_exactly_one_page(array: SharedArray) -> None:
    seen: list[int] = []
    for page, first, end in array.extents():
        for element in range(first, end):
            assert page * 4096 <= element * array.stride <= (page + 1) * 4096 - 8
            assert element * array.stride + 8 <= array.array_bytes
            seen.append(element)
    assert seen == list(range(array.elements))


@given(shapes, st.integers(0, 5), st.integers(0, 100))
def test_expected_values_name_writer_and_element(array: SharedArray, writers: int, iteration: int) -> None:
    for extent in array.extents():
        expected = array.expected(extent, iteration, writers)
        for element, value in zip(range(extent.first, extent.end), expected, strict=True):
            want = value_base(iteration, element % writers) + element if writers else 0
            assert value == want


@given(shapes, st.integers(1, 4))
def test_what_all_writers_store_is_what_a_reader_expects(array: SharedArray, writers: int) -> None:
    memory = memoryview(bytearray(array.pages * 4096))
    roles: Roles = (("reader",), *((("writer",),) * writers))
    for writer in range(writers):
        array._store(memory.cast("Q"), array.extents(), 0, writer, writers, Accesses())
    assert array.run(memory, Place(0, 0, roles), nothing, Accesses()) == (0, [])


def test_values_of_iterations_and_writers_never_meet() -> None:
    array = SharedArray(4096, 8, 3)
    values = {
        value_base(iteration, writer) + element
        for iteration in range(3)
        for writer in range(3)
        for element in range(array.elements)
    }
    assert len(values) == 3 * 3 * array.elements
    assert 0 not in values


def test_a_stale_value_is_reported_with_its_place() -> None:
    array = SharedArray(array_bytes=8192, stride=64, iterations=1)
    roles: Roles = (("writer",), ("reader",))
    memory = memoryview(bytearray(8192))
    writer = Accesses()
    array.run(memory, Place(0, 0, roles), nothing, writer)
    assert writer.stores == writer.loads == [0, 1]
    memory.cast("Q")[(4096 + 128) // 8] = value_base(0, 0)
    wrong, mismatches = array.run(memory, Place(1, 0, roles), nothing, Accesses())
    assert wrong == 1
    assert mismatches == [Mismatch(1, 0, 0, 1, 128, value_base(0, 0) + 66, value_base(0, 0))]


def test_readers_without_writers_expect_zeros() -> None:
    array = SharedArray(array_bytes=4096, stride=64, iterations=2)
    memory = memoryview(bytearray(4096))
    roles: Roles = (("reader",), ("reader",))
    assert array.run(memory, Place(1, 0, roles), nothing, Accesses()) == (0, [])
    memory[64] = 1
    assert array.run(memory, Place(1, 0, roles), nothing, Accesses())[0] == 2


def test_wrong_values_are_all_counted_and_the_first_are_kept() -> None:
    array = SharedArray(array_bytes=4096, stride=64, iterations=1)
    wrong, mismatches = array.run(memoryview(bytearray(b"\1" * 4096)), Place(0, 0, (("reader",),)), nothing, Accesses())
    assert wrong == 64
    assert len(mismatches) == MISMATCHES_KEPT


def test_an_idle_thread_touches_nothing_and_meets_every_barrier() -> None:
    met: list[None] = []

    def barrier() -> Gone:
        met.append(None)
        return frozenset()

    accesses = Accesses()
    SharedArray(4096, 64, 3).run(memoryview(bytearray(4096)), Place(0, 0, (("idle",),)), barrier, accesses)
    assert (accesses.loads, accesses.stores, len(met)) == ([], [], 6)


WRITER_AND_READER: Roles = (("writer",), ("reader",))


def reader_after(died_at: int, store: Callable[[memoryview, int], None], iterations: int = 3) -> int:
    """How many values a reader finds wrong if the writer is found dead at barrier `died_at` (two an iteration).

    `store(words, iteration)` is what happens before an iteration's first barrier.
    """
    array = SharedArray(array_bytes=4096, stride=64, iterations=iterations)
    memory = memoryview(bytearray(4096))
    met = 0

    def barrier() -> Gone:
        nonlocal met
        if met % 2 == 0:
            store(memory.cast("Q"), met // 2)
        met += 1
        return frozenset([(0, 0)]) if met > died_at else frozenset()

    return array.run(memory, Place(1, 0, WRITER_AND_READER), barrier, Accesses())[0]


def stored(words: memoryview, iteration: int, elements: int = 64) -> None:
    for element in range(elements):
        words[element * 8] = value_base(iteration, 0) + element


def test_a_dead_writers_elements_may_be_of_the_iteration_in_which_it_died_or_the_one_before() -> None:
    def half_of_the_second(words: memoryview, iteration: int) -> None:
        if iteration < 2:
            stored(words, iteration, 64 if iteration == 0 else 30)

    assert reader_after(2, half_of_the_second) == 0
    assert reader_after(3, half_of_the_second) == 34 * 2  # it had stored all of the second one, so the rest is stale
    assert reader_after(6, half_of_the_second) == 34 + 64


def test_a_dead_writers_elements_stay_as_they_were() -> None:
    def all_of_the_first_and_something_else_later(words: memoryview, iteration: int) -> None:
        stored(words, 0)
        if iteration == 2:
            words[0] = value_base(2, 0)

    assert reader_after(2, all_of_the_first_and_something_else_later) == 1


def test_what_a_writer_stored_before_anybody_touched_its_page_may_be_gone() -> None:
    def zeros(words: memoryview, iteration: int) -> None:
        pass

    assert reader_after(0, zeros) == 0
    assert reader_after(1, zeros) == 64  # in the first iteration it was still alive


def test_what_is_loaded_from_a_lost_page_is_not_checked() -> None:
    array = SharedArray(array_bytes=2 * 4096, stride=64, iterations=1)
    accesses = Accesses()
    accesses.lost_pages.add(1)
    wrong, mismatches = array.run(memoryview(bytearray(8192)), Place(1, 0, WRITER_AND_READER), nothing, accesses)
    assert wrong == 64
    assert {mismatch.page for mismatch in mismatches} == {0}
    assert accesses.loads == [0]


def test_a_page_without_elements_is_not_visited() -> None:
    assert SharedArray(5 * 4096, 2 * 4096, 1).extents() == [Extent(0, 0, 1), Extent(2, 1, 2), Extent(4, 2, 3)]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "shared-aray"}, "workload kind 'shared-aray', expected one of: shared-array"),
        ({"kind": "shared-array"}, "array_bytes None, expected a whole number from 8"),
        ({"kind": "shared-array", "array_bytes": 4096, "stride": 12}, "stride 12, expected a multiple of 8"),
        (
            {"kind": "shared-array", "array_bytes": 4096, "iterations": 0},
            "iterations 0, expected a whole number from 1",
        ),
        ({"kind": "shared-array", "array_bytes": True}, "array_bytes True"),
    ],
)
def test_a_wrong_description_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        workloads.parse(fields)


def test_unknown_roles_and_too_many_writers_are_refused() -> None:
    array = SharedArray(4096, 64, 1)
    with pytest.raises(WorkloadError, match="role 'writter', expected one of: reader, writer, idle"):
        array.check_roles([["reader"], ["writter"]])
    with pytest.raises(WorkloadError, match="256 writers, at most 255"):
        array.check_roles([["writer"] * 256])
    array.check_roles([["writer"] * 255, ["reader"]])
