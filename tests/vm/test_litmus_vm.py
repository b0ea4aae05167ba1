"""Litmus tests across the instruction sets, on real guests."""

import json
from pathlib import Path

from tests.vm.leftovers import ROOT, Cockpit


def test_two_instruction_sets_show_nothing_forbidden(tmp_path: Path) -> None:
    cockpit = Cockpit(tmp_path)
    words = ("--shape", "SB,IRIW,false-sharing", "--iterations", "96", "--no-control", "--json")
    done = cockpit.command("litmus", str(ROOT / "configs/litmus.yaml"), *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {node["arch"] for node in found["nodes"]} == {"x86_64", "aarch64"}
    assert {row["shape"] for row in found["rows"]} == {"SB", "IRIW", "false-sharing"}
    for row in found["rows"]:
        assert row["violation_count"] == 0, row
        assert row["instances"] >= 96
    assert any(len(row["outcomes"]) > 1 for row in found["rows"]), "nothing ever raced"
    cockpit.assert_nothing_left([])
