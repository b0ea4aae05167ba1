"""The harness's barrier, seen from one kernel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.runs.barrier import Barrier


def test_opens_when_the_last_thread_and_the_last_kernel_are_here() -> None:
    barrier = Barrier(0, [0, 1, 2], threads=2)
    assert not barrier.arrive(0)
    barrier.announce(1, 0)
    assert barrier.arrive(1)
    assert not barrier.open()
    assert barrier.missing() == [2]
    barrier.announce(2, 0)
    assert barrier.open()
    assert barrier.number == 1
    assert barrier.missing() == [0, 1, 2]


def test_a_kernel_may_be_one_barrier_ahead() -> None:
    barrier = Barrier(0, [0, 1], threads=1)
    barrier.arrive(0)
    barrier.announce(1, 0)
    barrier.announce(1, 1)
    assert barrier.open()
    assert not barrier.open()
    assert barrier.arrive(0)
    assert barrier.open()


def test_two_ahead_is_a_fault_of_the_protocol() -> None:
    with pytest.raises(AssertionError, match="kernel 1 is at barrier 2, not 0"):
        Barrier(0, [0, 1], threads=1).announce(1, 2)


def test_a_dead_thread_is_not_waited_for_and_named_to_the_others() -> None:
    barrier = Barrier(0, [0, 1], threads=3)
    barrier.arrive(0)
    assert not barrier.leave(2)
    assert barrier.arrive(1)
    assert barrier.gone_here == 0b100
    barrier.announce(1, 0, gone=0b1)
    assert barrier.open()
    assert barrier.gone == {0: 0b100, 1: 0b1}


def test_the_last_one_missing_may_die_instead_of_arriving() -> None:
    barrier = Barrier(0, [0, 1], threads=2)
    assert not barrier.arrive(0)
    assert barrier.leave(1)


def test_who_dies_after_a_barrier_was_announced_does_not_announce_it_again() -> None:
    barrier = Barrier(0, [0, 1], threads=2)
    assert not barrier.arrive(0)
    assert barrier.arrive(1)
    assert not barrier.leave(1)
    barrier.announce(1, 0)
    assert barrier.open()
    assert barrier.arrive(0)


def test_a_kernel_without_living_threads_is_at_every_barrier_at_once() -> None:
    barrier = Barrier(0, [0, 1], threads=1)
    assert barrier.leave(0)
    barrier.announce(1, 0)
    assert barrier.open()
    assert barrier.complete()
    assert not barrier.complete()


def test_a_dead_kernel_is_not_waited_for() -> None:
    barrier = Barrier(0, [0, 1, 2], threads=1)
    barrier.arrive(0)
    barrier.announce(1, 0)
    assert not barrier.open()
    barrier.bury(2, threads=2)
    assert barrier.open()
    assert barrier.gone == {2: 0b11}
    assert barrier.missing() == [0, 1]


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 3))
def test_no_thread_passes_before_every_thread_arrived(random, kernels: int, threads: int) -> None:  # type: ignore[no-untyped-def]
    """Threads and links move in any order; nobody is ever more than one barrier away from anybody."""
    barriers = [Barrier(k, range(kernels), threads) for k in range(kernels)]
    waiting = [0] * kernels
    passed = [0] * kernels
    links: dict[tuple[int, int], list[int]] = {(i, j): [] for i in range(kernels) for j in range(kernels) if i != j}
    while min(passed) < 4:
        moves: list[tuple[str, object]] = [("arrive", k) for k in range(kernels) if waiting[k] < threads]
        moves += [("deliver", pair) for pair, queue in links.items() if queue]
        what, where = random.choice(moves)
        if what == "arrive":
            kernel = where
            waiting[kernel] += 1
            if barriers[kernel].arrive(waiting[kernel] - 1):
                for other in range(kernels):
                    if other != kernel:
                        links[kernel, other].append(barriers[kernel].number)
        else:
            sender, kernel = where
            barriers[kernel].announce(sender, links[where].pop(0))
        if barriers[kernel].open():
            assert all(w == threads or p > passed[kernel] for w, p in zip(waiting, passed, strict=True))
            waiting[kernel] = 0
            passed[kernel] += 1
        assert max(passed) - min(passed) <= 1
