"""The segment's layout: nothing overlaps, nothing is shared that must not be, and a wrong one is refused in words."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import SegmentError
from guest.link import segment
from guest.link.segment import (
    ISA,
    KERNELS_MAX,
    LAYOUT_VERSION,
    MAGIC,
    PAGE_BYTES,
    PAIR_HEAD,
    PAIR_RELEASED,
    PAIR_TAIL,
    Layout,
    NodeState,
    Segment,
    format_segment,
)

LARGE_BYTES = 64 << 20


def memory(size_bytes: int = 2 << 20) -> memoryview:
    return memoryview(bytearray(size_bytes))


@given(st.integers(2, KERNELS_MAX), st.integers(20, 32))
def test_no_two_parts_overlap_and_all_lie_within(kernels: int, size_log2: int) -> None:
    try:
        layout = Layout.fit(1 << size_log2, kernels)
    except SegmentError:
        return
    parts = [(0, PAGE_BYTES)]
    parts += [(layout.node_offset(kernel), PAGE_BYTES) for kernel in range(kernels)]
    for sender in range(kernels):
        for receiver in range(kernels):
            if sender != receiver:
                parts.append((layout.pair_offset(sender, receiver), layout.pair_bytes))
    parts.sort()
    for (start, size), (following, _) in pairwise(parts):
        assert start + size == following
    assert parts[-1][0] + parts[-1][1] == layout.size_bytes <= 1 << size_log2


@given(st.integers(2, 6), st.data())
def test_inside_a_pair_control_ring_and_aligned_pages_follow_each_other(kernels: int, data: st.DataObject) -> None:
    layout = Layout.fit(LARGE_BYTES, kernels)
    sender, receiver = data.draw(st.permutations(range(kernels)))[:2]
    start = layout.pair_offset(sender, receiver)
    assert start % PAGE_BYTES == 0
    assert layout.ring_offset(sender, receiver) == start + PAGE_BYTES
    pages = layout.pages_offset(sender, receiver)
    assert pages % PAGE_BYTES == 0
    assert pages == layout.ring_offset(sender, receiver) + 64 * layout.ring_slots
    assert pages + layout.page_slots * PAGE_BYTES == start + layout.pair_bytes


def test_writer_and_reader_of_a_pair_share_no_cache_line() -> None:
    line = 128
    assert PAIR_HEAD * 8 // line != PAIR_TAIL * 8 // line
    assert PAIR_TAIL * 8 // line == PAIR_RELEASED * 8 // line


def test_two_kernels_get_the_roomiest_layout_of_an_ordinary_segment() -> None:
    assert Layout.fit(LARGE_BYTES, 2) == Layout(2, 256, 32)


def test_more_kernels_get_smaller_pairs_before_they_are_refused() -> None:
    sizes = [Layout.fit(16 << 20, kernels).pair_bytes for kernels in (2, 12, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("kernels", [2, 3, 8])
def test_a_segment_one_byte_too_small_is_refused_with_the_size_that_would_do(kernels: int) -> None:
    needed = Layout(kernels, 64, 4).size_bytes
    with pytest.raises(
        SegmentError, match=rf"{needed - 1} bytes is too small for {kernels} kernels.*at least {needed}"
    ):
        format_segment(memory(needed - 1), kernels)
    assert format_segment(memory(needed), kernels).layout.kernels == kernels


@pytest.mark.parametrize("kernels", [0, 1, 65])
def test_a_number_of_kernels_out_of_range_is_refused(kernels: int) -> None:
    with pytest.raises(SegmentError, match=rf"for {kernels} kernels was asked for, expected 2 to 64"):
        format_segment(memory(), kernels)


def test_opening_gives_what_was_formatted() -> None:
    buffer = memory()
    formatted = format_segment(buffer, 3)
    opened = Segment.open(buffer)
    assert opened.layout == formatted.layout
    assert [node.kernel for node in opened.nodes] == [0, 1, 2]
    assert opened.address == formatted.address != 0


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (0, 0, "magic 0x0000000000000000.*hint: the host formats the segment"),
        (0, MAGIC + 1, "expected 0x"),
        (1, LAYOUT_VERSION + 1, f"layout version {LAYOUT_VERSION + 1}, this side knows {LAYOUT_VERSION}.*deploy again"),
        (2, 3, "header says 3 kernels.*do not belong together"),
        (2, 2**40, "do not belong together"),
        (3, 0, "header says 2 kernels, 0 message slots"),
        (3, 100, "100 message slots"),
        (4, 3, "3 page slots"),
        (5, 16384, "page slots of 16384 bytes"),
        (6, 12345, "12345 bytes in all"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(word: int, value: int, message: str) -> None:
    buffer = memory()
    format_segment(buffer, 2)
    buffer.cast("Q")[word] = value
    with pytest.raises(SegmentError, match=f"(?s){message}"):
        Segment.open(buffer)


def test_a_segment_mapped_in_part_is_refused() -> None:
    buffer = memory()
    size_bytes = format_segment(buffer, 2).layout.size_bytes
    with pytest.raises(SegmentError, match=rf"formatted for {size_bytes} bytes, only {size_bytes - 8} are mapped"):
        Segment.open(buffer[: size_bytes - 8])
    with pytest.raises(SegmentError, match="100 bytes cannot hold even its header"):
        Segment.open(buffer[:100])


def test_formatting_again_leaves_nothing_behind_and_is_noticed() -> None:
    buffer = memory()
    first = format_segment(buffer, 2)
    fresh = bytes(buffer)
    first.nodes[1].publish(ISA.AARCH64, 7)
    first.nodes[1].beat()
    first.nodes[0].count_fault(2)
    layout = first.layout
    buffer[layout.pair_offset(0, 1) : layout.pages_offset(0, 1)] = b"\xff" * (PAGE_BYTES + 64 * layout.ring_slots)
    second = format_segment(buffer, 2)
    assert second.generation == first.generation + 1
    header = 64
    assert bytes(buffer[header:]) == fresh[header:]


def test_a_kernel_is_unknown_until_it_publishes() -> None:
    node = format_segment(memory(), 2).nodes[1]
    assert (node.peer, node.isa, node.state) == (None, ISA.UNKNOWN, NodeState.ABSENT)
    node.publish(ISA.of("aarch64"), 0)
    assert (node.peer, node.isa, node.state) == (0, ISA.AARCH64, NodeState.OPEN)


def test_an_instruction_set_nobody_listed_is_unknown_and_no_error() -> None:
    assert ISA.of("sparc64") is ISA.UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["beat", "doorbell", "sleep", "fault"]))))
def test_counters_of_kernels_do_not_touch_each_other(counted: list[tuple[int, str]]) -> None:
    nodes = format_segment(memory(), 3).nodes
    for kernel, what in counted:
        node = nodes[kernel]
        if what == "fault":
            node.count_fault(15)
        else:
            {"beat": node.beat, "doorbell": node.count_doorbell, "sleep": node.count_sleep}[what]()
    for kernel, node in enumerate(nodes):
        seen = [node.heartbeat, node.doorbells, node.sleeps, node.faults[15]]
        assert seen == [counted.count((kernel, what)) for what in ("beat", "doorbell", "sleep", "fault")]
        assert (node.kernel, sum(node.messages), sum(node.faults[:15]), node.waiting) == (kernel, 0, 0, False)


@pytest.mark.parametrize("kernel", [-1, 2])
def test_a_kernel_that_is_not_there_has_no_place(kernel: int) -> None:
    layout = Layout.fit(LARGE_BYTES, 2)
    with pytest.raises(SegmentError, match=rf"kernel {kernel} is not in this segment.*kernels 0 to 1"):
        layout.node_offset(kernel)
    with pytest.raises(SegmentError, match=f"kernel {kernel} is not in this segment"):
        layout.pair_offset(0, kernel)


def test_no_kernel_has_a_ring_to_itself() -> None:
    with pytest.raises(SegmentError, match="kernel 1 has no ring to itself"):
        Layout.fit(LARGE_BYTES, 2).pair_offset(1, 1)


def test_nobody_can_open_a_segment_while_it_is_formatted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = memory()
    format_segment(buffer, 2)
    magic_at_fences = []
    monkeypatch.setattr(segment, "full_fence", lambda: magic_at_fences.append(buffer.cast("Q")[0]))
    format_segment(buffer, 2)
    assert magic_at_fences == [0, 0]
    assert Segment.open(buffer).layout.kernels == 2
