"""A segment driven by Hypothesis: formatted, opened, used, overwritten, mended, formatted half and formatted again.

Whatever came before, a segment opens exactly if its header is whole and fits what is mapped, and then it says what its
kernels said last; anything else is refused in words that name what was found and what was expected.
"""

from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from guest.errors import SegmentError
from guest.link import segment
from guest.link.segment import ISA, LAYOUT_VERSION, MAGIC, PAGE_BYTES, Layout, NodeState, Segment, format_segment

KERNELS_MOST = 4
SIZE_BYTES = Layout(KERNELS_MOST, 64, 4).size_bytes
WORD = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
HEADER = ("magic", "version", "kernels", "ring slots", "page slots", "page size", "size")
"""The header's words; the one behind them, the generation, may have any value."""
REFUSALS = {
    "magic": r"magic 0x[0-9a-f]{16} .* expected 0x",
    "version": rf"layout version \d+, this side knows {LAYOUT_VERSION}",
}
DISAGREES = r"header says \d+ kernels, \d+ message slots, \d+ page slots .* do not belong together"
NODE_WORDS = {"beats": 0, "doorbells": 0, "sleeps": 0, "state": NodeState.ABSENT, "peer": None, "isa": ISA.UNKNOWN}


class PowerCut(Exception):
    """Formatting ends here."""


class Machine(RuleBasedStateMachine):
    """One segment, its host, its kernels, and somebody who overwrites things."""

    open: Callable[[memoryview], Segment] = staticmethod(Segment.open)

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(SIZE_BYTES + 100))  # a link is hardly ever used to its last byte
        self.words = self.buffer[:64].cast("Q")
        self.whole: list[int] = []
        """The header as it was formatted; empty as long as it was not."""
        self.nodes: list[dict[str, object]] = []
        self.generation = 0

    @initialize(noise=st.binary(max_size=64))
    def power_on(self, noise: bytes) -> None:
        """With whatever the memory holds."""
        self.buffer[: len(noise)] = noise

    @rule(kernels=st.integers(2, KERNELS_MOST))
    def format(self, kernels: int) -> None:
        formatted = format_segment(self.buffer, kernels)
        assert formatted.generation != self.generation, "a daemon could not see that it was formatted"
        self.generation = formatted.generation
        self.whole = self.words[: len(HEADER)].tolist()
        self.nodes = [dict(NODE_WORDS) for _ in range(kernels)]

    @rule(kernels=st.integers(2, KERNELS_MOST), fence=st.integers(1, 2))
    def format_halfway(self, kernels: int, fence: int) -> None:
        fences = iter(range(1, fence))

        def cut() -> None:
            if next(fences, None) is None:
                raise PowerCut

        with patch.object(segment, "full_fence", cut), pytest.raises(PowerCut):
            format_segment(self.buffer, kernels)
        self.whole = []

    @precondition(lambda self: self.whole)
    @rule(place=st.integers(0, len(HEADER) - 1), value=WORD)
    def overwrite(self, place: int, value: int) -> None:
        self.words[place] = value

    @precondition(lambda self: self.whole)
    @rule()
    def mend(self) -> None:
        for place, value in enumerate(self.whole):
            self.words[place] = value

    @precondition(lambda self: self.whole and self.header() == self.whole)
    @rule(kernel=st.integers(0, KERNELS_MOST - 1), what=st.sampled_from(["beats", "doorbells", "sleeps"]))
    def count(self, kernel: int, what: str) -> None:
        node, said = self.node(kernel)
        {"beats": node.beat, "doorbells": node.count_doorbell, "sleeps": node.count_sleep}[what]()
        said[what] = int(str(said[what])) + 1

    @precondition(lambda self: self.whole and self.header() == self.whole)
    @rule(kernel=st.integers(0, KERNELS_MOST - 1), isa=st.sampled_from(ISA), peer=st.integers(0, 1 << 16))
    def publish(self, kernel: int, isa: ISA, peer: int) -> None:
        node, said = self.node(kernel)
        node.publish(isa, peer)
        said |= {"isa": isa, "peer": peer, "state": NodeState.OPEN}

    @invariant()
    def opens_exactly_if_it_is_whole(self) -> None:
        header = self.header()
        wrong = [name for name, found, right in zip(HEADER, header, self.whole, strict=False) if found != right]
        if not self.whole:
            if header[0] != MAGIC:  # noise could be a header, if hardly so
                self.refused(REFUSALS["magic"])
        elif wrong and not self.is_another_layout():
            self.refused(REFUSALS.get(wrong[0], DISAGREES))
        elif not wrong:
            opened = self.open(self.buffer)
            assert opened.layout.size_bytes == header[6] <= self.buffer.nbytes
            assert (opened.generation, len(opened.nodes)) == (self.generation, len(self.nodes))
            assert [said_by(node) for node in opened.nodes] == self.nodes
            for mapped in (0, PAGE_BYTES - 1, PAGE_BYTES, header[6] - 1):
                with pytest.raises(SegmentError, match=rf"(?s)bytes, only {mapped} are|of {mapped} bytes cannot hold"):
                    self.open(self.buffer[:mapped])

    def is_another_layout(self) -> bool:
        """Whether the header, overwritten word by word, has become that of another segment."""
        magic, version, kernels, ring_slots, page_slots, page_bytes, size_bytes = self.header()
        layout = Layout(kernels, ring_slots, page_slots)
        ours = (magic, version, page_bytes) == (MAGIC, LAYOUT_VERSION, PAGE_BYTES)
        return ours and kernels >= 2 and layout.size_bytes == size_bytes

    def header(self) -> list[int]:
        return self.words[: len(HEADER)].tolist()

    def node(self, kernel: int) -> tuple[segment.Node, dict[str, object]]:
        kernel %= len(self.nodes)
        return self.open(self.buffer).nodes[kernel], self.nodes[kernel]

    def refused(self, expected: str) -> None:
        with pytest.raises(SegmentError, match=f"(?s){expected}") as refusal:
            self.open(self.buffer)
        assert refusal.value.hint


def said_by(node: segment.Node) -> dict[str, object]:
    counts = {"beats": node.heartbeat, "doorbells": node.doorbells, "sleeps": node.sleeps}
    return {**counts, "state": node.state, "peer": node.peer, "isa": node.isa}


def test_a_segment_opens_exactly_if_it_is_whole_and_says_what_was_said_last() -> None:
    run(Machine, settings=settings(max_examples=100, stateful_step_count=40))


def trusting(buffer: memoryview) -> Segment:
    """Looks at the magic only."""
    words = buffer.cast("B")[:64].cast("Q").tolist() if buffer.nbytes >= 64 else [0] * 8
    if words[0] != MAGIC:
        raise SegmentError(f"magic {words[0]:#018x} at the start, expected {MAGIC:#018x}", "another's memory?")
    return Segment(buffer, Layout(*words[2:5]))


def credulous(buffer: memoryview) -> Segment:
    """Believes a segment before it is formatted to its end."""
    words = buffer.cast("B")[:8].cast("Q")
    if words[0] == 0 and buffer.nbytes == SIZE_BYTES + 100:
        words[0] = MAGIC
    return Segment.open(buffer)


@pytest.mark.parametrize("opening", [trusting, credulous])
def test_the_machine_would_notice_a_header_that_is_not_looked_at(opening: Callable[[memoryview], Segment]) -> None:
    wanted = settings(max_examples=500, stateful_step_count=40, phases=[Phase.generate], derandomize=True)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(type("Machine", (Machine,), {"open": staticmethod(opening)}), settings=wanted)
