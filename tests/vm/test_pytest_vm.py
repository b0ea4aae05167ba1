"""The fixture `testbed` on real guests: the page about it, followed literally, and sessions that end badly."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.leftovers import ROOT, Cockpit

PAGE = ROOT / "docs" / "pytest.md"
MORE = """

def test_that_fails(testbed):
    testbed["arm"].run("sh", "-c", "echo seen; echo said to its console >/dev/console; exit 3")


def test_experiments_begin_with_clean_memory_and_say_what_does_not_hold(testbed):
    ran = testbed.run_experiment("expect=[messages.protocol < 1]", "workload.array=4KiB", check=False)
    assert not ran.passed
    assert [point["verified"] for point in ran.points] == [True] * 3
    assert (ran.directory / "consoles" / "arm.log").exists()


def test_other_machines_are_refused(testbed):
    testbed.run_experiment("testbed.nodes.arm.memory=256MiB")
"""
ALONE = "name: alone\ntestbed: {nodes: {x86: {arch: x86_64, memory: 256MiB}}}\n"
ENDLESS = """
import time
def test_it(testbed):
    print("is up", flush=True)
    while True:
        testbed["x86"].run("sleep", "1")
"""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def session(cockpit: Cockpit, text: str, *words: str) -> "subprocess.Popen[str]":
    (cockpit.folder / "test_kernels.py").write_text(text)
    # The plugin is there by itself, as it is for whoever has the project installed.
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_kernels.py", "--rootdir=.", *words],
        cwd=cockpit.folder,
        env=cockpit.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_page_about_it_is_right_and_what_fails_tells_why(cockpit: Cockpit) -> None:
    example = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    command = next(line for line in PAGE.read_text().splitlines() if line.startswith("    .venv/bin/pytest"))
    _, option, config, file = command.split()
    assert file == "test_kernels.py"
    with session(cockpit, example + MORE, option, str(ROOT / config)) as process:
        said, _ = process.communicate(timeout=280)
    assert "2 failed, 5 passed" in said, said
    assert "CommandFailed: node arm: `sh -c " in said
    assert re.search(r"ended with exit code 3\n.* seen\n", said)
    consoles = said[said.index("console of arm (its end)") :]
    assert "said to its console" in consoles[: consoles.index("_ test_other_machines_are_refused")]
    assert "found other machines than those that are up" in said
    cockpit.assert_nothing_left([])


def test_a_session_that_is_stopped_takes_its_guests_down_and_what_a_killed_one_left_the_next_one_removes(
    cockpit: Cockpit,
) -> None:
    (cockpit.folder / "alone.yaml").write_text(ALONE)
    with session(cockpit, ENDLESS, "-s", "--testbed-config", "alone.yaml") as process:
        until_up(process)
        process.kill()
    (left,) = cockpit.testbeds()
    assert (left["condition"], left["name"].startswith("pytest-alone-")) == ("left over", True)
    with session(cockpit, ENDLESS, "-s", "--testbed-config", "alone.yaml") as process:
        until_up(process)
        (now,) = cockpit.testbeds()
        assert now["name"] != left["name"]
        process.terminate()
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, said
    cockpit.assert_nothing_left([left["run_directory"], now["run_directory"]])


def until_up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "is up" in line:
            return
    raise AssertionError("".join(said))
