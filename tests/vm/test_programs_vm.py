"""Programs of the user's on real guests of both instruction sets: C, Python with NumPy, and command lines.

Those for which the machines of the quickstart will do, one after the other, run on the same ones.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.live import LiveTestbed, Ran, live
from tests.local.test_run_local import ROOT, command, environment

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def guests(state_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveTestbed]:
    with live(ROOT / "configs" / "quickstart.yaml", results=tmp_path_factory.mktemp("programs")) as testbed:
        yield testbed


def ran_on(guests: LiveTestbed, name: str, *sets: str) -> Ran:
    """An experiment of `configs/`, or of another path, on the machines that are up."""
    same = [f"testbed.nodes.{guest.name}.memory=512MiB" for guest in guests]
    ran = guests.run_experiment(*same, "testbed.links.shm0.size=64MiB", *sets, file=ROOT / "configs" / name)
    assert all(point["verified"] for point in ran.points)
    return ran


def ran(tmp_path: Path, name: str, *words: str) -> tuple[dict[str, Any], Path]:
    line = command("run", str(ROOT / "configs" / name), "--json", *words)
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=800, env=environment())
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    assert all(point["verified"] for point in summary["points"])
    return summary, Path(summary["results"]) / "output" / "1"


def test_integer_sort_in_c_runs_on_both_isas_and_is_verified(guests: LiveTestbed) -> None:
    ran = ran_on(guests, "integer-sort.yaml", "workload.threads={x86: sorter, arm: sorter}")
    said = (ran.directory / "output" / "1" / "x86.txt").read_text()
    assert "IS class S on 2 threads of 2 kernels: 65536 keys" in said
    assert "0 wrong ranks" in said


def test_a_numpy_stencil_runs_on_both_isas_and_is_right_to_the_last_bit(tmp_path: Path) -> None:
    summary, _ = ran(tmp_path, "stencil.yaml", "--set", "workload.parameters.size=64")
    assert summary["points"][0]["messages_total"] > 0


def test_both_isas_have_one_address_space_whichever_changes_it(guests: LiveTestbed, tmp_path: Path) -> None:
    ran = ran_on(guests, "mapping.yaml")
    assert len(ran.points) == 2
    replayed = command("replay", str(ran.directory))
    done = subprocess.run(replayed, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def test_threads_of_both_isas_synchronise(guests: LiveTestbed) -> None:
    messages = ran_on(guests, "synchronisation.yaml", "workload.iterations=10").points[0]["messages"]
    assert all(messages[name] > 0 for name in ("FUTEX_WAIT", "FUTEX_ANSWER", "FUTEX_WAKE"))


def test_under_a_mutex_both_isas_see_one_part_after_the_other(guests: LiveTestbed) -> None:
    ran_on(guests, "locked-shapes.yaml", "workload.iterations=20")


ADDERS = """\
import os
from guest.memory.atomic import AARCH64_EXCLUSIVE, AARCH64_SINGLE, CODES, Atomics


def adder(part):
    here = [CODES["x86_64"]] if os.uname().machine == "x86_64" else [AARCH64_EXCLUSIVE, AARCH64_SINGLE]
    everything = [Atomics(codes) for codes in here]
    added, exchanged = part.address, part.address + 4096
    for number in range(part.iterations):
        atomic = everything[number % len(everything)]
        atomic.fetch_add(added, -3)
        while not atomic.compare_exchange(exchanged, found := atomic.load(exchanged), found + 1):
            pass
    part.barrier()
    for atomic in everything:
        assert atomic.load(added) == (-3 * part.ranks * part.iterations) % 2**64
        assert not atomic.compare_exchange(added, 1, 2)
    part.check(4096, part.ranks * part.iterations, atomic.load(exchanged))
"""


def test_atomic_instructions_of_both_isas_lose_no_addition(guests: LiveTestbed, tmp_path: Path) -> None:
    """Those of x86_64, and both ways of aarch64, on pages that are taken away all the time."""
    text = (ROOT / "configs" / "synchronisation.yaml").read_text()
    text = text.replace("programs/synchronisation.py", "adders.py").replace("worker", "adder")
    (tmp_path / "adders.py").write_text(ADDERS)
    (tmp_path / "adders.yaml").write_text(text)
    ran = ran_on(guests, str(tmp_path / "adders.yaml"), "workload.iterations=200")
    assert ran.points[0]["messages"]["INVALIDATE"] > 0


def test_commands_run_on_both_isas_and_their_files_come_back(tmp_path: Path) -> None:
    _, output = ran(tmp_path, "commands.yaml")
    assert (output / "arm.txt").read_text() == "aarch64\n"
    assert (output / "x86" / "sorted.txt").read_text() == "4\n5\n9\n15\n26\n31\n"


def test_a_thread_goes_through_more_memory_than_either_guest_keeps(guests: LiveTestbed) -> None:
    """The example takes a minute; with a twentieth of the memory everything happens that happens there."""
    smaller = ["coherency.region=2MiB", "coherency.resident=1200KiB", 'expect=["resident_most <= 340"]']
    (point,) = ran_on(guests, "larger-than-memory.yaml", *smaller).points
    assert point["figures"]["array_pages"] == 495
    assert point["messages"]["EVICT"] >= 2 * (495 - 340)


def test_a_process_forks_onto_the_other_isa(guests: LiveTestbed) -> None:
    """Its child finds the memory as it was, at the same addresses, and changes its own."""
    (point,) = ran_on(guests, "forks.yaml", "matrix.workload.parameters.pages=[8]").points
    assert point["messages"]["SPACE_OP"] == 4  # two copies, and two ends


def test_a_thread_follows_its_data_from_one_isa_to_the_other(guests: LiveTestbed) -> None:
    """What it must have moved and sent, the file expects."""
    points = ran_on(guests, "walk.yaml").points
    for followed, stayed in (points[:2], points[2:]):
        assert followed["messages"]["PAGE_DATA"] < stayed["messages"]["PAGE_DATA"]
    assert not any(point["lost"] for point in points)


def test_a_skewed_load_is_balanced_over_both_isas(guests: LiveTestbed) -> None:
    """How much time that saves, and how much is done where, depends on what else the host does."""
    fixed, load = ran_on(guests, "balance.yaml").points
    assert fixed["figures"]["away_percent"] == 0
    assert 0 < load["figures"]["away_percent"] < 100
