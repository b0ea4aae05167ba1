"""Litmus tests with real page faults, in processes of this host."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import stage_local
from orchestrator.litmus.command import settings_of, stage_of
from orchestrator.litmus.run import Litmus, run
from orchestrator.litmus.table import violations
from orchestrator.progress import Progress
from orchestrator.results import RunDirectory

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


@pytest.mark.parametrize("shapes", ["SB,MP,LB,R", "IRIW,false-sharing"])
def test_coherent_memory_shows_nothing_forbidden_and_more_than_one_outcome(tmp_path: Path, shapes: str) -> None:
    code, found = litmus(tmp_path, "--shape", shapes, "--iterations", "160", "--no-control")
    assert code == 0
    assert {row["shape"] for row in found["rows"]} == set(shapes.split(","))
    for row in found["rows"]:
        assert row["violation_count"] == 0, row
        assert row["instances"] >= 160
    # One row may be unlucky, on a busy machine; all of them are not.
    assert any(len(row["outcomes"]) > 1 for row in found["rows"]), "nothing ever raced"


def test_a_protocol_that_lets_a_stale_copy_live_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real faults, rings and processes; only the engine has a rule broken. What it shows is told, and fails the run."""
    monkeypatch.setattr(stage_local, "AGENT", "tests.local.forgetful_agent")
    settings = settings_of(ROOT / "configs/litmus.yaml", "SB,CoRR", 96, None, False, 1, "local")
    directory = RunDirectory.create(tmp_path, "litmus")
    found = Litmus("local", 1, "adaptive", "voting")
    with Progress(quiet=True) as progress:
        run(settings, stage_of("local", settings, directory, progress), directory, found, progress)
    assert found.broken == found.rows
    assert "is not sequentially consistent (x86 p0: store x=1, load y=" in violations(found)


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
