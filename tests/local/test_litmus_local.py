"""Litmus tests with real page faults, in processes of this host."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from orchestrator.litmus.command import run_and_keep, settings_of, stage_of
from orchestrator.litmus.run import Litmus
from orchestrator.litmus.table import violations
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.stages import local as stage_local

ROOT = Path(__file__).parents[2]


def litmus(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    line = [sys.executable, "-m", "orchestrator", "litmus", str(ROOT / "configs/litmus.yaml"), "--stage", "local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*line, "--json", *words], capture_output=True, text=True, cwd=folder, timeout=100, env=environment
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command, once its first row is complete."""
    line = [sys.executable, "-m", "orchestrator", "litmus", str(ROOT / "configs/litmus.yaml"), "--stage", "local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line += ["--json", "--no-control", *words]
    process = subprocess.Popen(line, stdout=PIPE, stderr=PIPE, text=True, cwd=folder, env=environment)
    assert process.stderr is not None
    said = ""
    for said in process.stderr:
        if "row 1 of " in said and "instances" in said:
            return process
    process.wait()
    raise AssertionError(f"it ended before its first row was complete: {said}")


def kept(folder: Path) -> dict[str, Any]:
    """What the one run in `folder` has left."""
    (file,) = folder.glob("results/*/litmus.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_complete_rows_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "--iterations", "64")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    found = json.loads(stdout)
    assert found == kept(tmp_path)
    assert (found["outcome"], found["planned_rows"]) == ("error", 20)
    assert found["error"] == {"kind": "interrupted", "message": f"stopped by {number.name}", "hint": ""}
    assert 1 <= len(found["rows"]) < 20
    assert all(row["instances"] >= 64 and row["verdict"] for row in found["rows"])


def test_an_agent_that_dies_leaves_the_complete_rows_and_its_name(tmp_path: Path) -> None:
    process = started(tmp_path, "--iterations", "64")
    agents = [child for child in children(process.pid) if "guest.agent" in commandline(child)]
    os.kill(agents[-1], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    found = json.loads(stdout)
    assert found == kept(tmp_path)
    assert found["outcome"] == "error"
    assert found["error"]["kind"] == "GuestError"
    assert "node arm: its agent was gone" in found["error"]["message"]
    assert found["error"]["message"] in stderr
    assert 1 <= len(found["rows"]) < 20


def test_a_command_that_is_killed_leaves_the_complete_rows(tmp_path: Path) -> None:
    process = started(tmp_path, "--iterations", "64")
    pidfds = [os.pidfd_open(child) for child in children(process.pid)]
    process.kill()
    process.communicate(timeout=60)
    found = kept(tmp_path)
    assert found["error"]["kind"] == "interrupted"
    assert 1 <= len(found["rows"]) < 20
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 30)[0], "an agent outlived the command"
        os.close(pidfd)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def commandline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize(("shapes", "protocol"), [("SB,MP,LB,R", "voting"), ("IRIW,false-sharing,2+2W", "origin")])
def test_coherent_memory_shows_nothing_forbidden_and_more_than_one_outcome(
    tmp_path: Path, shapes: str, protocol: str
) -> None:
    words = ("--shape", shapes, "--iterations", "96", "--no-control", "--set", f"coherency.protocol={protocol}")
    code, found = litmus(tmp_path, *words)
    assert (code, found["protocol"]) == (0, protocol)
    assert {row["shape"] for row in found["rows"]} == set(shapes.split(","))
    for row in found["rows"]:
        assert row["violation_count"] == 0, row
        assert row["instances"] >= 96
    # One row may be unlucky, on a busy machine; all of them are not.
    assert any(len(row["outcomes"]) > 1 for row in found["rows"]), "nothing ever raced"


def test_a_protocol_that_lets_a_stale_copy_live_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real faults, rings and processes; only the engine has a rule broken. What it shows is told, and fails the run."""
    monkeypatch.setattr(stage_local, "AGENT", "tests.local.forgetful_agent")
    settings = settings_of(ROOT / "configs/litmus.yaml", (), "SB,CoRR", 96, False, 1, "local")
    directory = RunDirectory.create(tmp_path, "litmus")
    found = Litmus("local", 1, "adaptive", "voting")
    with Progress(quiet=True) as progress:
        run_and_keep(settings, stage_of("local", settings, directory, progress), directory, found, progress)
    assert found.broken == found.rows
    assert "is not sequentially consistent (x86 p0: store x=1 at " in violations(found)


def test_the_control_tells_memories_apart_and_fences_leave_nothing_to_forbid(tmp_path: Path) -> None:
    """What bare memory shows without fences is the processors' own, and never fails the command."""
    code, found = litmus(tmp_path, "--shape", "SB", "--iterations", "96")
    assert code == 0
    rows = {(row["memory"], tuple(row["placement"])): row for row in found["rows"]}
    assert {memory for memory, _ in rows} == {"coherent", "bare", "bare+fences"}
    for (memory, _), row in rows.items():
        assert (row["messages"] > 0) == (memory == "coherent")
        if memory != "bare":
            assert row["violation_count"] == 0, row
