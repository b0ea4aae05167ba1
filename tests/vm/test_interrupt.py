"""Ended from outside, at any point of its life: what is left is shown by `testbed ps` and removed by `testbed down`."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.leftovers import Cockpit, shared_memory_files

pytestmark = pytest.mark.timeout(300)
ENDLESS = """\
name: endless
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}}
coherency: {link: shm0, region: 1MiB}
workload: {kind: shared-array, threads: {x86: writer, arm: reader}, array: 256KiB, iterations: 1000000}
timeout_s: 600
"""
MORTAL = (
    ENDLESS.replace("endless", "mortal")
    .replace("1000000", "1000, stride: 4096")
    .replace("1MiB}", "1MiB, failure_deadline_s: 1}")
    + "retries: 0\n"
)
"""One guest alone soon comes to its end, both together do not: with one element a page, all they do is fault."""
TWO = MORTAL.replace("mortal", "two").replace("retries: 0", "matrix: {workload.iterations: [1, 12]}")
RUNNING = "running 1 point"
MOMENTS = {
    "while machines boot": "stage initramfs",
    "while the daemon is deployed": "deploying the daemon",
    "while the workload runs": RUNNING,
}
"""What the command says when it has come that far."""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    (tmp_path / "endless.yaml").write_text(ENDLESS)
    (tmp_path / "mortal.yaml").write_text(MORTAL)
    (tmp_path / "two.yaml").write_text(TWO)
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def run_until(cockpit: Cockpit, moment: str, file: str = "endless.yaml") -> tuple[subprocess.Popen[str], list[str]]:
    """A run that has come to `moment`, and the folders of its testbed.

    It boots if that is a moment of booting, which a saved state does not have, and does not wait for it otherwise.
    """
    start = "--cold" if moment in MOMENTS.values() and moment != RUNNING else "--warm"
    process = cockpit.start("run", file, start, "--verbose")
    assert process.stderr is not None
    for said in process.stderr:
        if moment in said:
            break
    (testbed,) = cockpit.testbeds()
    return process, [testbed["run_directory"]]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("while machines boot", signal.SIGINT),
        ("while the daemon is deployed", signal.SIGTERM),
        ("while the workload runs", signal.SIGINT),
        ("while the workload runs", signal.SIGTERM),
    ],
)
def test_a_signal_ends_the_run_and_takes_everything_down(cockpit: Cockpit, moment: str, number: signal.Signals) -> None:
    before = shared_memory_files()
    process, places = run_until(cockpit, MOMENTS[moment])
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == 128 + number
    cockpit.assert_nothing_left(places)
    assert shared_memory_files() <= before
    (summary,) = [json.loads(path.read_text()) for path in (cockpit.folder / "results").glob("*/run.json")]
    assert (summary["outcome"], summary["error"]["kind"]) == ("error", "interrupted")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_without_warning_ps_shows_what_is_left_and_down_removes_it(cockpit: Cockpit, moment: str) -> None:
    before = shared_memory_files()
    process, places = run_until(cockpit, MOMENTS[moment])
    process.kill()
    process.communicate(timeout=60)
    assert [testbed["name"][:8] for testbed in cockpit.testbeds()] == ["endless-"]
    assert cockpit.processes(places)
    done = cockpit.command("down", "--all")
    assert done.returncode == 0, done.stderr
    cockpit.assert_nothing_left(places)
    assert shared_memory_files() <= before


def test_top_watches_a_run_which_does_not_notice(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, RUNNING)
    for _ in range(100):  # each look takes a third of a second
        seen = json.loads(cockpit.command("top", "--json").stdout)
        faults = {each["node"]: each["faults"] for each in seen["kernels"]}
        if faults and faults["x86"]["remote_write"] and faults["arm"]["remote_read"]:
            break
    assert faults["x86"]["remote_write"]
    assert faults["arm"]["remote_read"]
    assert all(each["messages"] for each in seen["kernels"])
    assert {each["state"] for each in seen["kernels"]} == {"running"}
    assert "reads" in cockpit.command("top", "--once").stdout
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    cockpit.assert_nothing_left(places)


def test_killed_while_it_tidies_up_the_rest_is_left_to_down(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, RUNNING)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("stopping the guests" in said for said in process.stderr)
    process.kill()
    process.communicate(timeout=60)
    assert cockpit.command("down", "--all").returncode == 0
    cockpit.assert_nothing_left(places)


def test_down_that_is_killed_itself_is_finished_by_the_next_one(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, RUNNING)
    process.kill()
    process.communicate(timeout=60)
    with cockpit.start("down", "--all") as removing:
        assert removing.stderr is not None
        assert any("ending" in said for said in removing.stderr)
        removing.kill()
    assert cockpit.command("down", "--stale").returncode == 0
    cockpit.assert_nothing_left(places)


def test_down_from_elsewhere_ends_a_run_with_three_and_touches_nobody_elses(cockpit: Cockpit, tmp_path: Path) -> None:
    """Two people run the same experiment at once; one of them removes all testbeds."""
    process, places = run_until(cockpit, RUNNING)
    (tmp_path / "other").mkdir()
    other = Cockpit(tmp_path / "other")
    theirs, their_places = run_until(other, RUNNING, str(tmp_path / "endless.yaml"))
    machines = other.processes(their_places)
    assert len(machines) >= 3
    assert not set(machines) & set(cockpit.processes(places))
    assert cockpit.command("down", "--all").returncode == 0
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert "was taken down by another command" in said
    assert "Traceback" not in said
    cockpit.assert_nothing_left(places)
    assert theirs.poll() is None
    assert other.processes(their_places).keys() == machines.keys()
    assert [testbed["condition"] for testbed in other.testbeds()] == ["running"]
    theirs.send_signal(signal.SIGINT)
    theirs.communicate(timeout=120)
    other.assert_nothing_left(their_places)


def test_a_guest_that_dies_is_named_with_its_last_words_and_the_other_goes_on(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, RUNNING, "mortal.yaml")
    kill_arm(cockpit, places)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 3, said
    assert "node arm" in said
    cockpit.assert_nothing_left(places)


def test_a_killed_run_is_gone_on_with_and_a_guest_that_dies_in_it_is_replaced(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, "point 1 of 2", "two.yaml")
    process.kill()
    process.communicate(timeout=60)
    resumed = cockpit.start("run", "--resume", "last", "--warm", "--verbose", "--json")
    assert resumed.stderr is not None
    said = ""
    for line in resumed.stderr:
        said += line
        if RUNNING in line:
            break
    assert "removing what an earlier part of this run left over" in said
    places += re.findall(r"files in (\S+)", said)
    kill_arm(cockpit, places)
    out, more = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, more
    assert "repeated on new guests" in more
    summary = json.loads(out)
    assert (summary["outcome"], summary["resumed"]) == ("passed", 1)
    first, second = summary["points"]
    assert (first["iterations"], first["lost"], second["iterations"]) == (1, [], 12)
    assert [attempt["kind"] for attempt in second["lost"]] == ["guest"]
    assert first["verified"]
    assert second["verified"]
    cockpit.assert_nothing_left(places)


def kill_arm(cockpit: Cockpit, places: list[str]) -> None:
    """The process of the node `arm`."""
    machine = next(pid for pid, line in cockpit.processes(places).items() if "qemu-system-aarch64" in line)
    os.kill(machine, signal.SIGKILL)
