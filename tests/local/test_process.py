"""One process over several kernels: its threads move, find their memory, wait for each other, and end everywhere."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.local.test_run_local import ROOT, command, environment, run, summary_of

ADDERS = """\
from guest.process import Thread


class Adder(Thread):
    def __init__(self, counter, mutex, cell, moves):
        self.counter, self.mutex, self.cell, self.moves = counter, mutex, cell, moves
        self.way = []

    def step(self):
        self.way.append(self.kernel)
        self.counter.add()
        with self.mutex:
            self.cell[0] += 1
        if not self.moves:
            self.exit(self.way)
            return
        self.moves -= 1
        self.migrate((self.kernel + 1) % self.process.kernels)


def main(process):
    counter, mutex, cell = process.counter(), process.mutex(), process.array("q", 1)
    threads = [process.start(Adder(counter, mutex, cell, 5), on=number % process.kernels) for number in range(6)]
    for number, thread in enumerate(threads):
        assert thread.join() == [(number + step) % process.kernels for step in range(6)]
        assert not thread.is_alive()
    assert cell[0] == counter.value == 36, (cell[0], counter.value)
    process.figure("adds", cell[0])
"""
ONE = """\
from guest.process import Thread


class Mute(Exception):
    def __str__(self):
        return 1 / 0


class Traveller(Thread):
    def __init__(self, cell):
        self.cell = cell
        self.steps = 0

    def step(self):
        self.steps += 1
        self.cell[0] += 1
        BODY


def main(process):
    cell = process.array("q", 4)
    found = process.start(Traveller(cell)).join()
    assert cell[0] == found == process.parameters["steps"], (cell[0], found)
"""
NAMES = ("x86", "arm", "third", "fourth")


def text(kernels: int = 2, more: str = "") -> str:
    nodes = ", ".join(f"{name}: {{arch: x86_64}}" for name in NAMES[:kernels])
    return f"""\
name: own
testbed:
  nodes: {{{nodes}}}
  links: {{shm0: {{kind: ivshmem-doorbell, size: 32MiB, nodes: [{", ".join(NAMES[:kernels])}]}}}}
coherency: {{link: shm0, region: 1MiB, trace: true}}
workload: {{kind: process, file: own.py{more}}}
timeout_s: 40
"""


def answers(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the agents, in the order of the kernels."""
    lines = (Path(summary["results"]) / "events.jsonl").read_text().splitlines()
    found = {event["node"]: event["answer"] for event in map(json.loads, lines) if event["event"] == "agent_finished"}
    return [found[name] for name in NAMES if name in found]


def moves(summary: dict[str, Any], event: str) -> Counter[str]:
    return Counter(move["placement"] for each in answers(summary) for move in each["moves"] if move["event"] == event)


def assert_replays(tmp_path: Path, summary: dict[str, Any]) -> None:
    line = command("replay", summary["results"])
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kernels", [2, 3, 4])
def test_threads_move_share_memory_and_exclude_each_other_on_any_number_of_kernels(
    tmp_path: Path, kernels: int
) -> None:
    (tmp_path / "own.py").write_text(ADDERS)
    summary = summary_of(run(tmp_path, text(kernels) + "expect: [figures.adds == 36]\n", "--json"))
    (point,) = summary["points"]
    started_elsewhere = sum(1 for number in range(6) if number % kernels)
    assert point["messages"]["THREAD_MIGRATE"] == point["messages"]["THREAD_PLACED"] == 30 + started_elsewhere
    assert_replays(tmp_path, summary)
    placed = moves(summary, "placed")
    assert placed["CREATED"] >= kernels - 1
    assert placed["BACK"] > 0
    assert point["messages"]["JOIN"] >= kernels - 1


def test_a_thread_finds_its_state_and_its_old_place_when_it_returns(tmp_path: Path) -> None:
    body = "self.migrate(self.steps % 2) if self.steps < 7 else self.exit(self.steps)"
    (tmp_path / "own.py").write_text(ONE.replace("BODY", body))
    summary = summary_of(run(tmp_path, text(more=", parameters: {steps: 7}"), "--json"))
    assert moves(summary, "left") == {"CREATED": 1, "BACK": 5}
    (point,) = summary["points"]
    assert point["messages"]["THREAD_MIGRATE"] == 6
    assert "THREAD_COUNT" in point["messages"]
    assert point["messages"]["JOIN"] == 1


def test_moving_to_where_it_is_costs_nothing_and_the_process_stays_on_one_kernel(tmp_path: Path) -> None:
    body = "self.migrate(0) if self.steps < 5 else self.exit(self.steps)"
    (tmp_path / "own.py").write_text(ONE.replace("BODY", body))
    summary = summary_of(run(tmp_path, text(more=", parameters: {steps: 5}"), "--json"))
    (point,) = summary["points"]
    assert set(point["messages"]) <= {"THREAD_COUNT", "GROUP_EXIT"}, point["messages"]


def test_one_thread_ends_the_whole_process_wherever_the_others_are(tmp_path: Path) -> None:
    program = ONE.replace("BODY", "self.migrate(1 - self.kernel)").replace(
        "    found = process", "    process.start(Traveller(cell))\n    process.exit()\n    found = process"
    )
    (tmp_path / "own.py").write_text(program)
    summary = summary_of(run(tmp_path, text(more=", parameters: {steps: 1}"), "--json"))
    assert summary["points"][0]["messages"]["GROUP_EXIT"] >= 2


def test_more_threads_than_the_pool_has_processes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ADDERS)
    summary_of(run(tmp_path, text(more=", pool: 1"), "--json"))


def test_the_process_of_the_pool_that_waited_least_takes_the_next_thread(tmp_path: Path) -> None:
    """Nothing of the others has to be brought back: their memory is copied at the first use, as they were forked.

    The one before may not be back yet, but mostly is.
    """
    (tmp_path / "own.py").write_text(
        """\
import os
from guest.process import Thread


class Who(Thread):
    def step(self):
        self.exit(os.getpid())


def main(process):
    who = [process.start(Who(), on=1).join() for _ in range(40)]
    assert sum(now in before for now, *before in zip(who[2:], who[1:], who)) > 19, who
"""
    )
    summary_of(run(tmp_path, text(more=", pool: 3"), "--json"))


def test_memory_is_mapped_and_unmapped_by_threads_wherever_they_are(tmp_path: Path) -> None:
    body = """if self.steps == 1:
            self.migrate(1)
        elif self.steps == 2:
            self.process.unmap(0, 4096 * 8)
            self.process.map(0, 4096)
            self.migrate(0)
        else:
            self.exit(self.cell[0] + 2)"""
    program = ONE.replace("BODY", body).replace("self.cell[0] += 1", "self.cell[0] += 1 if self.steps == 3 else 0")
    program = program.replace("cell[0] == found == process", "found == process")
    (tmp_path / "own.py").write_text(program)
    summary = summary_of(run(tmp_path, text(more=", parameters: {steps: 3}"), "--json"))
    assert summary["points"][0]["messages"]["SPACE_OP"] == 2


def test_the_example_follows_its_data(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path, dirs_exist_ok=True)
    points = summary_of(run(tmp_path, (tmp_path / "walk.yaml").read_text(), "--json"))["points"]
    assert [point["figures"]["follows"] for point in points] == [1, 0, 1, 0]
    for followed, stayed in (points[:2], points[2:]):
        assert followed["messages"]["PAGE_DATA"] < stayed["messages"]["PAGE_DATA"]


def test_the_example_of_a_skewed_load_is_balanced(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "balance.yaml").read_text()
    fixed, load = summary_of(run(tmp_path, text, "--json"))["points"]
    assert (fixed["figures"]["away_percent"], fixed["messages"].get("THREAD_MIGRATE", 0)) == (0, 0)
    assert 0 < load["figures"]["away_percent"] < 100  # how many it is depends on what else the host has to do
    assert load["messages"]["THREAD_MIGRATE"] > 0
    assert [each["figures"]["longest"] for each in (fixed, load)] == [307, 307]


def test_a_thread_goes_through_more_memory_than_its_kernel_keeps(tmp_path: Path) -> None:
    """The shipped example, with less memory."""
    shutil.copy(ROOT / "configs" / "programs" / "larger_than_memory.py", tmp_path / "own.py")
    expect = "expect: [figures.array_pages == 495, resident_most <= 300 + 34]\n"
    file = text().replace("1MiB", "2MiB, resident: 1200KiB") + expect
    summary = summary_of(run(tmp_path, file, "--json"))
    assert summary["points"][0]["messages"]["EVICT"] >= 2 * (495 - 334)
    assert_replays(tmp_path, summary)


def test_the_example_of_the_page_about_workloads_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "workloads.md").read_text().partition("## A process over several kernels")[2]
    workload, program = re.findall(r"^```(?:yaml|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "summers.py").write_text(program)
    head = text().partition("workload:")[0]
    assert summary_of(run(tmp_path, head + workload, "--json"))["points"][0]["figures"]["sum"] == 499500


def test_a_region_that_is_too_small_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ADDERS)
    done = run(tmp_path, text().replace("1MiB", "64KiB"))
    assert "found 16 pages that the region has, expected more than 17" in done.stderr, done.stderr


def test_the_same_program_runs_on_one_kernel_without_a_message(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(ADDERS)
    summary = summary_of(run(tmp_path, text(more=", kernels: 1") + "expect: [figures.adds == 36]\n", "--json"))
    (point,) = summary["points"]
    assert set(point["messages"]) <= {"THREAD_COUNT", "GROUP_EXIT"}, point["messages"]


STUCK = """\
from guest.process import Thread


class Holder(Thread):
    def __init__(self, mutex, event):
        self.mutex, self.event = mutex, event

    def step(self):
        self.mutex.acquire()
        self.event.set()
        self.exit()


class Stuck(Thread):
    def __init__(self, mutex, number):
        self.mutex, self.number = mutex, number

    def step(self):
        if self.number < 2:
            self.process.start(Stuck(self.mutex, self.number + 1), on=1)
        with self.mutex:
            raise AssertionError("it was let go of")


def main(process):
    mutex, event = process.mutex(), process.event()
    process.start(Holder(mutex, event), on=1)
    event.wait()
    process.fork(Stuck(mutex, 1), on=1).join()
"""


def test_threads_that_nobody_wakes_are_named_with_their_processes_on_all_nodes(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(STUCK)
    done = run(tmp_path, text(more=", processes: 2").replace("timeout_s: 40", "timeout_s: 3"))
    assert done.returncode == 3, done.stderr
    assert "node x86: 'run' failed: " in done.stderr
    assert "the process is not over in time" in done.stderr
    assert "thread 0 waits for the end of process 1" in done.stderr
    names = re.search(r"threads \[([^]]*)\] here sleep until they are woken", done.stderr)
    assert names is not None, done.stderr
    assert sorted(names[1].split(", ")) == ["0 of process 1", "2 of process 1"]


def test_an_error_names_the_thread_as_the_program_knows_it(tmp_path: Path) -> None:
    body = "assert self.steps < 4; self.migrate(self.steps % 2)"
    (tmp_path / "own.py").write_text(ONE.replace("BODY", body))
    done = run(tmp_path, text())
    assert done.returncode == 1, done.stderr
    assert "node arm: 'run' failed: check: thread 1: AssertionError" in done.stderr


READER = """\
import subprocess
import sys


def main(process):
    process.figure("own=", len(sys.stdin.read()))
    process.figure("other", len(subprocess.run(["cat"], capture_output=True).stdout))
"""


def test_a_program_has_nothing_on_its_standard_input(tmp_path: Path) -> None:
    """The agent's is its commands: who reads them would be the end of the next point."""
    (tmp_path / "own.py").write_text(READER)
    points = summary_of(run(tmp_path, text() + "repeat: 2\n", "--json"))["points"]
    assert [point["figures"] for point in points] == [{"own=": 0, "other": 0}] * 2


def test_a_figure_that_is_no_number_is_told_with_the_line_that_reports_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def main(process):\n    process.figure('x', 3)\n    process.figure('x', 0 * 1e999)\n"
    )
    done = run(tmp_path, text())
    assert done.returncode == 3
    assert "thread 0: ValueError: figure 'x' is nan, expected a finite number" in done.stderr, done.stderr
    assert 'File "own.py", line 3, in main' in done.stderr, done.stderr
