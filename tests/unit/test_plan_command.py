"""`testbed plan`: what a file amounts to, known before anything is started."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.durations import duration
from tests.unit.test_cli import command_line
from tests.unit.test_experiment_errors import GOOD

MATRIX = "matrix: {workload.array: [4KiB, 8KiB], testbed.nodes.arm.memory: [256MiB, 512MiB]}\nrepeat: 2\nwarm_up: 1\n"


def planned(folder: Path, *options: str, text: str = GOOD + MATRIX) -> dict[str, Any]:
    (folder / "pair.yaml").write_text(text)
    done = command_line("plan", "pair.yaml", "--json", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_point_is_listed_with_the_machines_it_shares(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan["points"] == 8
    indices = [[point["index"] for point in each["points"]] for each in plan["testbeds"]]
    assert indices == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert [each["memory_bytes"] >> 20 for each in plan["testbeds"]] == [832, 1088]
    assert plan["memory_bytes"] == 1088 << 20


def test_the_warm_up_comes_before_the_first_repetition_and_the_time_out_is_that_of_emulated_guests(
    tmp_path: Path,
) -> None:
    first, second = planned(tmp_path, "--accel", "tcg", "--set", "timeout_s=7.0")["testbeds"][0]["points"][:2]
    assert (first["warm_up"], first["limit_s"]) == (1, 140.0)
    assert (second["warm_up"], second["limit_s"]) == (0, 70.0)
    assert (first["seed"], second["seed"]) == (0, 1)


def test_what_was_measured_before_is_what_is_expected(tmp_path: Path) -> None:
    text = GOOD + "matrix: {workload.array: [4KiB, 8KiB]}\n"
    for number, duration_s in enumerate((3.0, 5.0, 4.0)):
        folder = tmp_path / "results" / f"2026-{number}"
        folder.mkdir(parents=True)
        point = {"parameters": {"workload.array": "4KiB"}, "verified": True, "duration_s": duration_s}
        (folder / "run.json").write_text(json.dumps({"experiment": "pair", "stage": "vm", "points": [point]}))
    (tmp_path / "results" / "2026-0" / "spoilt").mkdir()
    first, second = planned(tmp_path, text=text)["testbeds"][0]["points"]
    assert (first["expected_s"], first["basis"]) == (4.1, "measured 3 times")
    assert second["basis"] == "computed"
    assert 0 < second["expected_s"] < 4


def test_the_table_says_the_same_in_words(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD + MATRIX)
    said = command_line("plan", "pair.yaml", "--stage", "local", cwd=tmp_path).stdout
    assert "testbed 2 of 2: x86 (x86_64), arm (aarch64)" in said
    assert "array 4KiB, arm.memory 256MiB, repetition 1 of 2, after 1 warm-up" in said
    assert "pair on stage local: 8 points, about" in said


def test_wrong_input_ends_with_two(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD)
    done = command_line("plan", "pair.yaml", "--set", "repaet=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--set repaet=2: found 'repaet', which is no path of this file" in done.stderr
    assert "(did you mean 'repeat'?)" in done.stderr


@pytest.mark.parametrize(("seconds", "shown"), [(42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_shown_in_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_how_long_a_simulation_takes_nobody_knows(tmp_path: Path) -> None:
    plan = planned(tmp_path, "--stage", "sim")
    assert (plan["points"], plan["expected_s"]) == (8, None)
