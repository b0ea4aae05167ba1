"""The quickstart on real guests: an x86_64 and an aarch64 machine, one coherent memory, three workloads across both."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from orchestrator.results.past_run import read_run
from orchestrator.results.timeline import Timeline, timeline
from tests.vm.leftovers import ROOT, Cockpit, shared_memory_files

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    cockpit: Cockpit
    exit_code: int
    summary: dict[str, Any]
    said: str
    directory: Path
    new_shared_memory_files: set[str]

    def point(self, x86: str, arm: str, pages: int) -> dict[str, Any]:
        (found,) = [
            point
            for point in self.summary["points"]
            if (point["roles"], point["pages"]) == ({"x86": [x86], "arm": [arm]}, pages)
        ]
        chosen: dict[str, Any] = found
        return chosen


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    cockpit = Cockpit(tmp_path_factory.mktemp("run"))
    before = shared_memory_files()
    done = cockpit.command("run", str(ROOT / "configs/quickstart.yaml"), "--json")
    assert done.stdout, done.stderr
    summary = json.loads(done.stdout)
    directory = cockpit.folder / "results" / summary["run_id"]
    yield Ran(cockpit, done.returncode, summary, done.stderr, directory, shared_memory_files() - before)
    cockpit.command("down", "--all")


def test_it_passes_and_every_value_was_verified(ran: Ran) -> None:
    assert (ran.exit_code, ran.summary["outcome"]) == (0, "passed"), ran.said
    assert len(ran.summary["points"]) == 6
    assert all(point["verified"] for point in ran.summary["points"])


def test_little_time_passes_between_points(ran: Ran) -> None:
    """Between most of them: what disturbs one point or two is the host's own."""
    # The goal is half a second, on a machine that has nothing else to do.
    assert median(point["overhead_s"] for point in ran.summary["points"]) < 2, ran.summary["points"]


def test_the_guests_are_machines_of_two_instruction_sets_with_kernels_of_their_own(ran: Ran) -> None:
    x86, arm = ran.summary["nodes"]
    assert (x86["arch"], x86["facts"]["isa"]) == ("x86_64", "x86_64")
    assert (arm["arch"], arm["facts"]["isa"]) == ("aarch64", "aarch64")
    host = ran.summary["versions"]["host_kernel"]
    for node in (x86, arm):
        assert node["facts"]["kernel_release"] not in ("", host)
        assert node["accelerator"] in ("kvm", "tcg")
        assert node["accelerator_reason"]
        assert 0 < node["boot_s"] < 120
    assert arm["accelerator"] == "tcg"  # no host runs both instruction sets


def test_reading_twice_costs_nothing_after_the_first_iteration(ran: Ran) -> None:
    for pages in (1, 64):
        assert 2 * pages <= ran.point("reader", "reader", pages)["messages_total"] <= 4 * pages


def test_one_writer_and_one_reader_cost_four_messages_a_page_and_iteration(ran: Ran) -> None:
    for pages in (1, 64):
        point = ran.point("writer", "reader", pages)
        later = point["iterations"] - 1
        assert point["messages"]["INVALIDATE"] == point["messages"]["VOTE"] == pages * later
        assert 4 * pages * later <= point["messages_total"] <= 4 * pages * (later + 1)


def test_two_writers_cost_more_than_one(ran: Ran) -> None:
    for pages in (1, 64):
        one, two = (ran.point("writer", arm, pages)["messages_total"] for arm in ("reader", "writer"))
        assert two > one


def test_remote_faults_were_measured_and_are_far_from_a_time_out(ran: Ran) -> None:
    latency = ran.point("writer", "reader", 64)["latency_us"]
    for kind in ("remote_read", "remote_write"):
        assert latency[kind]["count"] >= 64 * 15
        assert 0 < latency[kind]["median"] <= latency[kind]["p99"] < 1e6


def test_the_result_directory_tells_the_story(ran: Ran) -> None:
    assert json.loads((ran.directory / "run.json").read_text()) == ran.summary
    events = [json.loads(line)["event"] for line in (ran.directory / "events.jsonl").read_text().splitlines()]
    assert events[0] == "run_started"
    assert events[-1] == "run_finished"
    assert events.count("point_finished") == 6
    for node, arch in (("x86", "x86_64"), ("arm", "aarch64")):
        assert "stage=sshd" in (ran.directory / "consoles" / f"{node}.log").read_text()
        domain = ET.parse(ran.directory / "domains" / f"{node}.xml").getroot()
        kind = domain.find("os/type")
        assert kind is not None
        assert kind.get("arch") == arch
        assert domain.find("devices/shmem/model[@type='ivshmem-doorbell']") is not None


def test_nothing_is_left_of_it(ran: Ran) -> None:
    ran.cockpit.assert_nothing_left([])
    assert ran.new_shared_memory_files == set()


def test_the_tool_itself_stays_small(ran: Ran) -> None:
    assert ran.summary["tool"]["peak_rss_mib"] < 200


SMALL = """\
name: small
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links:
    spare: {kind: ivshmem-doorbell, size: 16MiB, nodes: [arm, x86]}
    shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}
coherency: {link: shm0, region: 1MiB}
workload: {kind: shared-array, threads: {x86: writer, arm: reader}, array: 4KiB, iterations: 2}
"""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    (tmp_path / "small.yaml").write_text(SMALL)
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def test_guests_that_are_kept_can_be_entered_and_then_removed(cockpit: Cockpit) -> None:
    done = cockpit.command("run", "small.yaml", "--keep")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout  # over the second of two links of the same size
    (testbed,) = cockpit.testbeds()
    assert testbed["condition"] == "running"
    inside = cockpit.command("ssh", "arm", "--", "uname", "-m")
    assert (inside.returncode, inside.stdout) == (0, "aarch64\n"), inside.stderr
    assert cockpit.command("ssh", "x86", "sh", "-c", "exit $0", "7").returncode == 7
    assert cockpit.command("ssh", "x86", "--", "echo one | wc -l; exit 3").returncode == 3
    assert cockpit.command("ssh", "x68", "--", "true").returncode == 2
    assert cockpit.command("down").returncode == 0
    cockpit.assert_nothing_left([testbed["run_directory"]])


def test_what_up_starts_is_found_by_the_next_command_and_its_name_is_taken(cockpit: Cockpit) -> None:
    done = cockpit.command("up", "small.yaml", "--name", "by-hand")
    assert done.returncode == 0, done.stderr
    (testbed,) = cockpit.testbeds()
    assert (testbed["name"], [node["name"] for node in testbed["nodes"]]) == ("by-hand", ["x86", "arm"])
    again = cockpit.command("up", "small.yaml", "--name", "by-hand")
    assert again.returncode == 2
    assert "found a testbed by-hand already" in again.stderr
    assert cockpit.command("down", "by-hnad").returncode == 2
    assert cockpit.command("down", "by-hand").returncode == 0
    cockpit.assert_nothing_left([testbed["run_directory"]])


def straddling(told: Timeline, late_s: float = 0.0) -> int:
    """How many faults of the last kernel, moved by `late_s`, begin before a barrier and end after it."""
    error_s = told.error_s
    faults = [fault for fault in told.faults if fault.node == told.nodes[-1]]
    return sum(
        fault.begin_s + late_s + error_s < barrier_s < fault.begin_s + fault.duration_s + late_s - error_s
        for fault in faults
        for _, barrier_s in told.barriers
    )


def test_on_the_common_clock_no_fault_reaches_across_a_barrier(ran: Ran) -> None:
    """A thread in a fault is not at the barrier, and a barrier has all threads of both machines: cause and effect."""
    run = read_run(ran.directory)
    told = [found for point in run.points if (found := timeline(point, run.directory)) is not None]
    assert len(told) == 6
    assert all(len({fault.node for fault in each.faults}) == 2 for each in told)
    assert sum(straddling(each) for each in told) == 0
    # Were the clocks wrong by the length of a fault, it would show.
    longest_s = [max(fault.duration_s for fault in each.faults) for each in told]
    assert sum(straddling(each, 2 * each.error_s + long_s) for each, long_s in zip(told, longest_s, strict=True)) > 0
