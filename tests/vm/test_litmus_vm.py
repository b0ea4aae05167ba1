"""Litmus tests across the instruction sets, on real guests."""

import json
import os
import signal
from pathlib import Path

from tests.vm.leftovers import ROOT, Cockpit

CONFIG = str(ROOT / "configs/litmus.yaml")


def test_two_instruction_sets_show_nothing_forbidden_on_coherent_memory_or_behind_fences(tmp_path: Path) -> None:
    cockpit = Cockpit(tmp_path)
    done = cockpit.command("litmus", CONFIG, "--shape", "SB,IRIW", "--iterations", "64", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {node["arch"] for node in found["nodes"]} == {"x86_64", "aarch64"}
    assert len(found["rows"]) == found["planned_rows"] == 2 * 2 * 3
    for row in found["rows"]:
        assert row["instances"] >= 64
        if row["memory"] != "bare":  # what shows there is the emulator's
            assert row["violation_count"] == 0, row
    for memory in ("coherent", "bare", "bare+fences"):
        rows = [row for row in found["rows"] if row["memory"] == memory]
        assert any(len(row["outcomes"]) > 1 for row in rows), f"nothing ever raced on {memory} memory"
    cockpit.assert_nothing_left([])


def test_a_guest_that_dies_leaves_the_complete_rows_and_its_name(tmp_path: Path) -> None:
    cockpit = Cockpit(tmp_path)
    process = cockpit.start("litmus", CONFIG, "--iterations", "64", "--no-control", "--json")
    assert process.stderr is not None
    for said in process.stderr:
        if "row 1 of " in said and "instances" in said:
            break
    places = [each["run_directory"] for each in cockpit.testbeds()]
    machine = next(pid for pid, line in cockpit.processes(places).items() if "qemu-system-aarch64" in line)
    os.kill(machine, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 3, stderr
    found = json.loads(stdout)
    (kept,) = tmp_path.glob("results/*/litmus.json")
    assert json.loads(kept.read_text()) == found
    assert found["outcome"] == "error"
    assert "node arm: its agent was gone" in found["error"]["message"]
    assert 1 <= len(found["rows"]) < found["planned_rows"]
    cockpit.assert_nothing_left(places)
