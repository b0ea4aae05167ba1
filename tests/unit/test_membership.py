"""Kernels agree on who is dead, whatever the order in which they look; who is taken for dead stops."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.link.membership import BEAT_NS, Fenced, Membership
from guest.link.segment import ISA, NodeState, format_segment

DEADLINE_NS = 6 * BEAT_NS


class Kernels:
    """Some kernels that beat and look around, each by a clock of its own."""

    def __init__(self, count: int, deadline_ns: int = DEADLINE_NS) -> None:
        self.segment = format_segment(memoryview(bytearray(8 << 20)), count)
        for node in self.segment.nodes:
            node.publish(ISA.X86_64, node.kernel)
        self.members = [Membership(self.segment, kernel, deadline_ns) for kernel in range(count)]
        self.now_ns = [BEAT_NS * (kernel + 1) for kernel in range(count)]
        self.dead: list[list[int]] = [[] for _ in range(count)]
        self.fenced: set[int] = set()
        for member in self.members:
            member.watch(True)

    def look(self, kernel: int, passed_ns: int = BEAT_NS) -> None:
        self.now_ns[kernel] += passed_ns
        try:
            self.dead[kernel] += self.members[kernel].look(self.now_ns[kernel])
        except Fenced:
            self.fenced.add(kernel)

    def beats(self, kernels: Sequence[int], count: int) -> None:
        for _ in range(count):
            for kernel in kernels:
                if kernel not in self.fenced:
                    self.look(kernel)


def test_while_all_beat_nobody_is_suspected() -> None:
    kernels = Kernels(3)
    kernels.beats(range(3), 50)
    assert kernels.dead == [[], [], []]
    assert all(node.heartbeat == 50 for node in kernels.segment.nodes)


def test_a_silent_kernel_is_dead_to_all_after_the_deadline_and_not_before() -> None:
    kernels = Kernels(3)
    kernels.beats(range(3), 3)
    kernels.beats([0, 1], 5)
    assert kernels.dead[0] == kernels.dead[1] == []
    kernels.beats([0, 1], 3)
    assert kernels.dead[0] == kernels.dead[1] == [2]


def test_nobody_listens_to_a_suspect_before_its_death_is_acted_upon() -> None:
    kernels = Kernels(3)
    kernels.beats(range(3), 3)
    for _ in range(12):
        for kernel in (0, 1):
            kernels.look(kernel)
            if kernels.dead[kernel]:
                assert all(member.suspects == 0b100 for member in kernels.members[:2])
    assert kernels.dead[:2] == [[2], [2]]


def test_a_kernel_that_was_paused_past_the_deadline_stops_at_its_next_look() -> None:
    kernels = Kernels(2)
    kernels.beats([0, 1], 3)
    kernels.beats([0], 10)
    assert kernels.dead[0] == [1]
    with pytest.raises(Fenced, match="kernel 1 was declared dead by kernel 0") as fenced:
        kernels.members[1].look(kernels.now_ns[1] + 10 * BEAT_NS)
    assert "failure_deadline_s" in fenced.value.hint


def test_a_suspicion_is_shared_by_those_who_do_not_watch() -> None:
    kernels = Kernels(3)
    kernels.members[1].watch(False)
    kernels.beats(range(3), 3)
    kernels.beats([0, 1], 10)
    assert kernels.dead[0] == kernels.dead[1] == [2]


def test_a_kernel_that_watches_for_nobody_suspects_nobody() -> None:
    kernels = Kernels(2)
    kernels.members[0].watch(False)
    kernels.beats([0], 30)
    assert kernels.dead[0] == []


def test_a_death_waits_for_the_agreement_of_every_survivor() -> None:
    kernels = Kernels(3)
    kernels.beats(range(3), 3)
    for _ in range(4):  # 1 looks often enough to live, but not to find out
        kernels.beats([0], 2)
        kernels.segment.nodes[1].beat()
    assert kernels.members[0].suspects == 0b100
    assert kernels.dead[0] == []
    kernels.beats([1, 0], 1)
    assert kernels.dead[0] == [2]


def test_a_kernel_that_closes_its_memory_in_a_run_is_dead_at_once() -> None:
    kernels = Kernels(2)
    kernels.beats([0, 1], 2)
    kernels.segment.nodes[1].state = NodeState.CLOSED
    kernels.beats([0], 1)
    assert kernels.dead[0] == [1]


def test_who_left_is_listened_to_until_all_it_sent_has_been_read() -> None:
    kernels = Kernels(2)
    kernels.beats([0, 1], 2)
    kernels.segment.nodes[1].state = NodeState.LEFT
    member = kernels.members[0]
    now_ns = kernels.now_ns[0]
    assert member.look(now_ns + BEAT_NS) == []
    assert member.look(now_ns + 2 * BEAT_NS, unread=0b10) == []
    assert member.suspects == 0
    assert member.look(now_ns + 3 * BEAT_NS) == [1]


def test_a_kernel_that_has_not_come_yet_is_not_dead() -> None:
    kernels = Kernels(2)
    kernels.segment.nodes[1].state = NodeState.ABSENT
    kernels.beats([0], 30)
    assert kernels.dead[0] == []


@pytest.mark.parametrize("deadline_ns", [DEADLINE_NS, 2 * BEAT_NS], ids=["usual", "shortest"])
def test_a_pause_of_all_kernels_is_nobodys_death(deadline_ns: int) -> None:
    kernels = Kernels(3, deadline_ns)
    kernels.beats(range(3), 3)
    for kernel in (2, 1, 0):  # the first to look has heard nothing since its last look
        kernels.look(kernel, passed_ns=1000 * DEADLINE_NS)
    kernels.beats(range(3), 3)
    assert kernels.fenced == set()
    assert kernels.dead == [[], [], []]


def test_of_two_kernels_that_suspect_each_other_the_lower_goes_on() -> None:
    kernels = Kernels(2)
    kernels.segment.nodes[0].suspects = 0b10
    kernels.members[0].suspects = 0b10
    kernels.segment.nodes[1].suspects = 0b01
    kernels.members[1].suspects = 0b01
    kernels.look(0)
    kernels.look(1)
    assert kernels.fenced == {1}
    assert kernels.dead[0] == [1]


@given(st.integers(2, 5), st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=400), st.data())
@settings(deadline=None, max_examples=200)
def test_whoever_is_paused_the_survivors_agree(count: int, turns: list[tuple[int, int]], data: st.DataObject) -> None:
    """Any order of looks, so any pauses; then those that are not fenced go on in step, and must come to one mind."""
    kernels = Kernels(count)
    for kernel, beats in turns:
        kernels.beats([kernel % count], beats)
    stopped = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    going = [kernel for kernel in range(count) if kernel not in stopped]
    kernels.beats(going, 40)
    survivors = [kernel for kernel in going if kernel not in kernels.fenced]
    gone = {kernel for kernel in range(count) if kernel not in survivors}
    for kernel in survivors:
        assert set(kernels.dead[kernel]) == gone, (survivors, gone, kernels.dead)
        assert len(kernels.dead[kernel]) == len(gone)
