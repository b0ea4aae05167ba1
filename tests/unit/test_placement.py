"""Policies of placement, one decision at a time."""

from collections import Counter

import pytest

from guest.memory.samples import FaultLog
from guest.runs.stays import Stays
from guest.workloads.distributed import Distributed
from guest.workloads.placement import POLICIES, Fixed, Load, Locality, RoundRobin, View
from guest.workloads.workload import WorkloadError
from orchestrator.experiments.workloads import Placement

HERE = View(1, {0: 3, 1: 3, 2: 0})


def test_files_name_the_policies_that_there_are() -> None:
    assert [each.value for each in Placement] == list(POLICIES)
    fields = {"pages": 64, "iterations": 1, "seed": 1}
    assert Distributed.parse(fields).policy is Fixed
    assert Distributed.parse(fields | {"placement": "locality"}).policy is Locality
    with pytest.raises(WorkloadError, match="placement 'best', expected one of fixed, round-robin, load, locality"):
        Distributed.parse(fields | {"placement": "best"})


def test_fixed_leaves_threads_where_they_are() -> None:
    assert Fixed().begins(5, HERE) == 1
    assert Fixed().moves(5, HERE, {0: 1000}) == 1


def test_round_robin_deals_threads_to_the_living_kernels_wherever_they_are_started() -> None:
    dealt = [RoundRobin().begins(thread, View(thread % 2, {0: 0, 1: 9, 3: 0})) for thread in range(1, 7)]
    assert dealt == [1, 3, 0, 1, 3, 0]


@pytest.mark.parametrize(
    ("loads", "begins", "moves"),
    [
        ({0: 0, 1: 0, 2: 0}, 1, 1),
        ({0: 1, 1: 2, 2: 1}, 0, 1),  # a difference of one would only change sides
        ({0: 2, 1: 3, 2: 1}, 2, 2),
        ({0: 1, 1: 0}, 1, 1),
    ],
)
def test_load_makes_numbers_equal(loads: dict[int, int], begins: int, moves: int) -> None:
    view = View(1, loads)
    assert (Load().begins(1, view), Load().moves(1, view, {})) == (begins, moves)


def test_locality_moves_to_the_kernel_of_most_pages_when_these_are_enough() -> None:
    assert Locality().moves(1, HERE, {0: 7}) == 1
    assert Locality().moves(1, HERE, {0: 8}) == 0
    assert Locality().moves(1, HERE, {0: 8, 2: 8}) == 1  # as many from elsewhere
    assert Locality().moves(1, HERE, {0: 9, 2: 20}) == 2
    assert Locality().moves(1, HERE, {3: 50}) == 1  # it is dead


def test_locality_forgets_what_is_long_ago() -> None:
    rare, often = Locality(), Locality()
    assert {rare.moves(1, HERE, {0: 1} if step % 4 == 0 else {}) for step in range(1000)} == {1}
    assert 0 in [often.moves(1, HERE, {0: 1} if step % 4 else {0: 2}) for step in range(30)]


def test_locality_counts_each_stay_and_each_thread_by_itself() -> None:
    policy = Locality()
    assert policy.moves(1, HERE, {0: 7}) == 1
    assert policy.moves(2, HERE, {0: 7}) == 1
    policy.leaves(1)
    assert policy.moves(1, HERE, {0: 7}) == 1
    assert policy.moves(2, HERE, {0: 7}) == 0


def test_a_thread_that_wants_pages_of_both_sides_soon_stops_to_move() -> None:
    policies = {kernel: Locality() for kernel in (0, 1)}
    kernel, moves = 0, Counter[int]()
    for step in range(2000):
        to = policies[kernel].moves(1, View(kernel, {0: 0, 1: 0}), {1 - kernel: 10})
        if to != kernel:
            policies[kernel].leaves(1)
            moves[step // 1000] += 1
        kernel = to
    assert 2 <= moves[0] <= 12
    assert moves[1] == 0


def test_a_stay_has_the_faults_of_its_own_time() -> None:
    log, stays = FaultLog(), Stays()
    log.add((0, 5, 1, 100))
    log.pages_from = {1: 3}
    stays.begins(7, log)
    assert stays.pages(7) == {}
    log.add((0, 6, 2, 30))
    log.pages_from = {1: 4, 2: 2}
    assert stays.pages(7) == {1: 1, 2: 2}
    assert stays.pages(7) == {}
    log.pages_from = {1: 4, 2: 3}
    assert stays.pages(7) == {2: 1}
    log.pages_from = {1: 4, 2: 5}
    stays.ends(7)
    log.add((0, 6, 0, 5))
    stays.begins(8, log)
    stays.ends(9)
    seven, eight = stays.told(0)
    assert seven["faults"] == {"local_fault": 0, "remote_read": 0, "remote_write": 1}
    assert (seven["thread"], seven["waited_ns"], seven["pages_from"]) == (7, 30, {"1": 1, "2": 5})
    assert (eight["thread"], eight["pages_from"], eight["waited_ns"]) == (8, {}, 0)
    assert 0 < seven["begin_ns"] <= seven["end_ns"] <= eight["begin_ns"] <= eight["end_ns"]
