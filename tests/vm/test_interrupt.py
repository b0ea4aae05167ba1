"""Ended from outside, at any point of its life: what is left is shown by `testbed ps` and removed by `testbed down`."""

import json
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
    ENDLESS.replace("endless", "mortal").replace("1000000", "2000").replace("1MiB}", "1MiB, failure_deadline_s: 1}")
    + "retries: 0\n"
)
"""One guest alone comes to its end in a short time, both together do not."""
MOMENTS = {
    "while machines boot": "stage initramfs",
    "while the daemon is deployed": "deploying the daemon",
    "while the workload runs": "running 1 point",
}
"""What the command says when it has come that far."""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    (tmp_path / "endless.yaml").write_text(ENDLESS)
    (tmp_path / "mortal.yaml").write_text(MORTAL)
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def run_until(cockpit: Cockpit, moment: str, file: str = "endless.yaml") -> tuple[subprocess.Popen[str], list[str]]:
    """A run that has come to `moment`, and the folders of its testbed. It boots: a saved state has no such moments."""
    process = cockpit.start("run", file, "--cold", "--verbose")
    assert process.stderr is not None
    for said in process.stderr:
        if moment in said:
            break
    (testbed,) = cockpit.testbeds()
    return process, [testbed["run_directory"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "TERM"])
@pytest.mark.parametrize("moment", MOMENTS)
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
    process, places = run_until(cockpit, MOMENTS["while the workload runs"])
    for _ in range(100):  # each look takes a third of a second
        seen = json.loads(cockpit.command("top", "--json").stdout)
        faults = {each["node"]: each["faults"]["remote_read"] for each in seen["kernels"]}
        if all(faults.values()) and faults:
            break
    assert set(faults) == {"x86", "arm"}
    assert all(each["messages"] for each in seen["kernels"])
    assert {each["state"] for each in seen["kernels"]} == {"running"}
    assert "reads" in cockpit.command("top", "--once").stdout
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    cockpit.assert_nothing_left(places)


def test_killed_while_it_tidies_up_the_rest_is_left_to_down(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, MOMENTS["while the workload runs"])
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("stopping the guests" in said for said in process.stderr)
    process.kill()
    process.communicate(timeout=60)
    assert cockpit.command("down", "--all").returncode == 0
    cockpit.assert_nothing_left(places)


def test_down_that_is_killed_itself_is_finished_by_the_next_one(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, MOMENTS["while the workload runs"])
    process.kill()
    process.communicate(timeout=60)
    with cockpit.start("down", "--all") as removing:
        assert removing.stderr is not None
        assert any("ending" in said for said in removing.stderr)
        removing.kill()
    assert cockpit.command("down", "--stale").returncode == 0
    cockpit.assert_nothing_left(places)


def test_down_from_elsewhere_ends_a_run_with_three_and_leaves_nothing(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, MOMENTS["while the workload runs"])
    assert cockpit.command("down", "--all").returncode == 0
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert "was taken down by another command" in said
    assert "Traceback" not in said
    cockpit.assert_nothing_left(places)


def test_a_guest_that_dies_is_named_with_its_last_words_and_the_other_goes_on(cockpit: Cockpit) -> None:
    process, places = run_until(cockpit, MOMENTS["while the workload runs"], "mortal.yaml")
    machine = next(pid for pid, line in cockpit.processes(places).items() if "qemu-system-aarch64" in line)
    subprocess.run(["kill", "-KILL", str(machine)], check=True)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 3, said
    assert "node arm" in said
    cockpit.assert_nothing_left(places)
