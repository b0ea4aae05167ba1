"""Faults on request, on real machines, and what `ps` and `down` make of them."""

import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from images import Image
from testbed import Testbed, list_all, up
from tests.vm.conftest import say
from tests.vm.leftovers import Cockpit, shared_memory_files
from tests.vm.test_access import command
from tests.vm.test_lifecycle import ONE


def states() -> dict[str, dict[str, str]]:
    """What `testbed ps --json` says each machine does."""
    return {each["name"]: {node["name"]: node["state"] for node in each["nodes"]} for each in _listed()}


def _listed() -> list[dict[str, Any]]:
    done = command("ps", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_paused_node_stands_still_and_goes_on_where_it_stood(pair: Testbed) -> None:
    uptime = "cut -d. -f1 /proc/uptime"
    before = int(command("exec", "arm", "--", uptime).stdout.split("|")[1])
    assert command("fault", "pause", "arm").returncode == 0
    assert states()["pair"] == {"x86": "running", "arm": "paused"}
    assert re.search(r"arm \(aarch64, [^)]*, paused\)", command("ps").stdout)
    assert command("exec", "x86", "--", "true").returncode == 0
    held = command("ssh", "arm", "true")
    assert (held.returncode, "node arm is paused" in held.stderr) == (3, True)
    resumed = command("fault", "resume", "--all")
    assert resumed.returncode == 0, resumed.stderr
    assert states()["pair"] == {"x86": "running", "arm": "running"}
    done = command("exec", "arm", "--", uptime)
    assert int(done.stdout.split("|")[1]) >= before


@pytest.mark.parametrize(("node", "other"), [("arm", "x86"), ("x86", "arm")])
def test_a_reset_node_boots_anew_and_the_other_one_notices_nothing(pair: Testbed, node: str, other: str) -> None:
    leave = command("exec", "--all", "--", "echo here > /run/mark")
    assert leave.returncode == 0
    done = command("fault", "reset", node)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{node}\.pair: ready for SSH \d+\.\d s after its reset", done.stdout)
    assert command("exec", node, "--", "test ! -e /run/mark").returncode == 0
    assert command("exec", other, "--", "rm /run/mark").returncode == 0
    assert states()["pair"] == {"x86": "running", "arm": "running"}


def test_frames_are_delayed_and_lost_in_the_direction_asked_for_until_it_is_mended(pair: Testbed) -> None:
    address = "192.168.77.2"

    def ping() -> str:
        line = ["exec", "x86", "--", "busybox", "ping", "-c", "2", "-W", "2", address]
        return command(*line).stdout

    done = command("fault", "network", "x86", "--delay", "300", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["link"] == "net0"
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", ping())]
    assert times
    assert min(times) >= 300
    assert command("fault", "network", "x86", "--loss", "100").returncode == 0
    assert "0 packets received" in ping()
    mended = command("fault", "network", "x86")
    assert mended.stdout == "x86.pair on net0: nothing is delayed or lost\n"
    assert "2 packets received" in ping()
    wrong = command("fault", "network", "x86", "--loss", "200")
    assert (wrong.returncode, "expected 0 to 100" in wrong.stderr) == (2, True)


def test_a_killed_node_has_ended_and_stale_testbeds_are_removed_alone(
    pair: Testbed, images: Mapping[str, Image]
) -> None:
    up(ONE, images, say)
    try:
        assert command("fault", "kill", "arm.one").returncode == 0
        assert states()["one"] == {"arm": "ended"}
        assert {each.name: each.condition.value for each in list_all()} == {"one": "ended", "pair": "running"}
        again = command("fault", "pause", "arm.one")
        assert again.returncode == 3
        assert "node arm (aarch64, tcg) has ended" in again.stderr
        assert command("down", "--stale", "--quiet").returncode == 0
        assert list(states()) == ["pair"]
    finally:
        command("down", "one")


FAILS = """\
name: fails
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}}
coherency: {link: shm0, region: 1MiB}
workload: {kind: shared-array, threads: {x86: writer, arm: reader}, array: 4KiB, iterations: 2}
expect: [messages.protocol == 0]
"""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    (tmp_path / "fails.yaml").write_text(FAILS)
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def test_at_a_failure_the_guests_stay_as_they_were_until_somebody_has_looked(cockpit: Cockpit) -> None:
    before = shared_memory_files()
    with cockpit.start("run", "fails.yaml", "--pause-on-failure") as process:
        assert process.stderr is not None
        ways = []
        for line in process.stderr:
            if found := re.search(r"testbed (ssh \S+)", line):
                ways.append(found[1])
            if "paused until" in line:
                break
        assert len(ways) == 2
        inside = cockpit.command(*ways[1].split(), "--", "pgrep -f 'guest[.](agent|resident)'")
        assert (inside.returncode, len(inside.stdout.split()) > 0) == (0, True), inside.stderr
        places = [each["run_directory"] for each in cockpit.testbeds()]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "does not hold" in said
    cockpit.assert_nothing_left(places)
    assert shared_memory_files() <= before
