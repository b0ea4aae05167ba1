"""Placement of threads that do not say where they want to be."""

from collections import Counter
from pathlib import Path

import pytest

from tests.local.test_process import answers, moves, text
from tests.local.test_run_local import run, summary_of

HERE = """\
from guest.process import Thread


class Here(Thread):
    def step(self):
        self.exit(self.kernel)


def main(process):
    for number, thread in enumerate([process.start(Here()) for _ in range(6)], 1):
        process.figure(f"kernel_of_{number}", thread.join())
"""
SPINNERS = """\
from time import monotonic

from guest.process import Thread

THREADS, STEPS = range(6), 50
BEGUN, PLACED = 1, 2


class Spinner(Thread):
    \"\"\"Looks where it is after some steps beside all others, and ends when all have looked.\"\"\"

    def __init__(self, number, states):
        self.number, self.states = number, states
        self.steps, self.place = 0, None

    def step(self):
        until = monotonic() + 0.003
        while monotonic() < until:
            pass
        if self.states[512 * self.number] < BEGUN:
            self.states[512 * self.number] = BEGUN
        least = min(self.states[512 * number] for number in THREADS)
        self.steps += least >= BEGUN
        if self.place is None and self.steps >= STEPS:
            self.place = self.kernel
            self.states[512 * self.number] = PLACED
        elif least == PLACED:
            self.exit(self.place)


def main(process):
    states = process.array("q", 512 * len(THREADS))
    for number, thread in enumerate([process.start(Spinner(number, states), on=0) for number in THREADS], 1):
        process.figure(f"kernel_of_{number}", thread.join())
"""
SLEEPERS = """\
from time import sleep

from guest.process import Thread


class Sleeper(Thread):
    def __init__(self, event):
        self.event = event

    def step(self):
        self.event.wait()
        self.exit()


class Here(Thread):
    def step(self):
        self.exit(self.kernel)


def main(process):
    event = process.event()
    sleepers = [process.start(Sleeper(event), on=1) for _ in range(2)]
    begins = [process.start(Here()).join()]
    while begins[-1] == 0 and len(begins) < 100:
        sleep(0.01)
        begins.append(process.start(Here()).join())
    event.set()
    for thread in sleepers:
        thread.join()
    process.figure("begins", begins[-1])
"""
CONSUMER = """\
from guest.process import Thread


class Producer(Thread):
    def __init__(self, numbers, barrier, rounds):
        self.numbers, self.barrier, self.rounds = numbers, barrier, rounds

    def step(self):
        for page in range(0, len(self.numbers), 512):
            self.numbers[page] += page
        self.rounds -= 1
        self.barrier.wait()
        self.barrier.wait()
        if not self.rounds:
            self.exit(self.kernel)


class Consumer(Thread):
    def __init__(self, numbers, barrier, rounds):
        self.numbers, self.barrier, self.rounds = numbers, barrier, rounds
        self.done = 0

    def step(self):
        self.barrier.wait()
        self.done += 1
        for page in range(0, len(self.numbers), 512):
            assert self.numbers[page] == page * self.done
        self.barrier.wait()
        if self.done == self.rounds:
            self.exit(self.kernel)


def main(process):
    numbers, barrier = process.array("q", 512 * 16), process.barrier(2)
    shared = numbers, barrier, process.iterations
    producer, consumer = process.start(Producer(*shared), on=1), process.start(Consumer(*shared), on=0)
    process.figure("producer", producer.join())
    process.figure("consumer", consumer.join())
"""


def kernels(figures: dict[str, int]) -> list[int]:
    return [figures[f"kernel_of_{number}"] for number in range(1, 7)]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("fixed", [0] * 6),
        ("round-robin", [1, 2, 0, 1, 2, 0]),
        ("round-robin, kernels: 2", [1, 0, 1, 0, 1, 0]),
    ],
)
def test_threads_begin_here_or_in_turn(tmp_path: Path, placement: str, expected: list[int]) -> None:
    (tmp_path / "own.py").write_text(HERE)
    (point,) = summary_of(run(tmp_path, text(3, f", placement: {placement}"), "--json"))["points"]
    assert kernels(point["figures"]) == expected


def test_a_skewed_start_is_balanced_by_load(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SPINNERS)
    more = ", pool: 6}\nmatrix: {workload.placement: [fixed, load]"
    fixed, load = summary_of(run(tmp_path, text(2, more), "--json"))["points"]
    assert kernels(fixed["figures"]) == [0] * 6
    assert Counter(kernels(load["figures"])) == {0: 3, 1: 3}


def test_threads_that_have_fallen_asleep_do_not_count_on_other_kernels_either(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SLEEPERS)
    (point,) = summary_of(run(tmp_path, text(2, ", pool: 4, placement: load"), "--json"))["points"]
    assert point["figures"] == {"begins": 1}


def test_a_thread_goes_to_where_its_pages_come_from_and_they_stay(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CONSUMER)
    more = ", iterations: 60, placement: PLACEMENT"
    fixed = summary_of(run(tmp_path, text(2, more.replace("PLACEMENT", "fixed")), "--json"))
    followed = summary_of(run(tmp_path, text(2, more.replace("PLACEMENT", "locality")), "--json"))
    assert fixed["points"][0]["figures"] == {"producer": 1, "consumer": 0}
    figures = followed["points"][0]["figures"]
    assert figures["producer"] == figures["consumer"]
    assert 2 * followed["points"][0]["messages"]["PAGE_DATA"] < fixed["points"][0]["messages"]["PAGE_DATA"]
    assert 1 <= moves(followed, "left").total() - 1 <= 3, "one thread is started elsewhere; one or both follow"
    stays = [stay for each in answers(followed) for stay in each["stays"]]
    assert sum(count for stay in stays for count in stay["pages_from"].values()) > 16
    for stay in stays:
        assert sum(stay["pages_from"].values()) <= stay["faults"]["remote_read"] + stay["faults"]["remote_write"]
