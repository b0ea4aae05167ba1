"""Clocks of kernels brought together, and what a kernel notes for it."""

import random
from typing import Any

from guest.memory.samples import LOCAL_FAULT, REMOTE_READ, REMOTE_WRITE, FaultLog
from guest.runs.timeline import BARRIERS_KEPT, FAULTS_SHOWN, Timeline, by_page
from orchestrator.results.clocks import beside_first, beside_host


def timelines(offsets_ns: list[int], latencies_ns: dict[tuple[int, int], list[int]], barriers: int) -> list[Any]:
    """What kernels whose clocks show `offsets_ns` at the same moment tell, barriers being a millisecond apart."""
    return [
        {
            "announced_ns": [[barrier, barrier * 1_000_000 + own] for barrier in range(barriers)],
            "heard_ns": [
                [other, barrier, barrier * 1_000_000 + latencies_ns[other, kernel][barrier] + own]
                for other in range(len(offsets_ns))
                if other != kernel
                for barrier in range(barriers)
            ],
        }
        for kernel, own in enumerate(offsets_ns)
    ]


def test_the_offset_of_each_kernel_is_found_within_the_error_it_states(seed: int) -> None:
    choose = random.Random(seed)
    offsets_ns = [0, 7_300_000, -12_345_678]
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    latencies = {pair: [choose.randrange(20_000, 3_000_000) for _ in range(40)] for pair in pairs}
    for clock, own_ns in zip(beside_first(timelines(offsets_ns, latencies, 40)), offsets_ns, strict=True):
        assert abs(clock.offset_s * 1e9 + own_ns) <= clock.error_s * 1e9 + 1
    best = {pair: min(taken) for pair, taken in latencies.items()}
    widths_ns = round(beside_first(timelines(offsets_ns, latencies, 40))[1].error_s * 2e9)
    assert widths_ns == best[0, 1] + best[1, 0]


def test_kernels_that_never_heard_of_each_other_are_taken_to_have_begun_together() -> None:
    silent: dict[str, Any] = {"announced_ns": [], "heard_ns": []}
    assert [clock.offset_s for clock in beside_first([silent, silent])] == [0.0, 0.0]


def test_the_host_asks_for_the_time_and_says_how_wrong_it_may_be() -> None:
    import time

    clock = beside_host(lambda: time.monotonic_ns() - 5_000_000_000)
    assert abs(clock.offset_s - 5.0) <= clock.error_s + 1e-6
    assert 0 <= clock.error_s < 5.0


def test_faults_are_counted_by_page_and_told_in_order_of_time() -> None:
    logs = [FaultLog(), FaultLog()]
    logs[0].add((300, 7, REMOTE_READ, 40))
    logs[1].add((100, 7, REMOTE_WRITE, 20))
    logs[1].add((200, 2, LOCAL_FAULT, 10))
    assert by_page(logs) == [[2, 1, 0, 0], [7, 0, 1, 1]]
    told = Timeline().told(50, logs)["faults"]
    assert told == {
        "begin_ns": [50, 150, 250], "page": [7, 2, 7], "kind": [2, 0, 1], "duration_ns": [20, 10, 40],
        "thread": [1, 1, 0],
    }  # fmt: skip


def test_a_timeline_has_a_bound_and_keeps_the_last() -> None:
    timeline, log = Timeline(), FaultLog()
    for number in range(BARRIERS_KEPT + 3):
        timeline.announced(number)
        timeline.heard(1, number)
    for number in range(FAULTS_SHOWN + 5):
        log.add((number, 0, REMOTE_READ, 1))
    told = timeline.told(0, [log])
    assert [len(told["announced_ns"]), told["announced_ns"][-1][0]] == [BARRIERS_KEPT, BARRIERS_KEPT + 2]
    assert told["heard_ns"][0][:2] == [1, 3]
    assert told["faults"]["begin_ns"][0] == 5
