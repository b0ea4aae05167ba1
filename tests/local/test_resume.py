"""Points that fail, guests that die, and runs that are gone on with: nothing is lost, mixed or overwritten."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.local.test_run_local import QUICK, agents_alive, command, environment, run, summary_of

POINTS = "matrix: {workload.iterations: [2, 3, 4, 5]}\n"
ENDLESS = "matrix: {workload.iterations: [2, 3, 100000, 4]}\ntimeout_s: 600\n"
"""Its third point does not end by itself."""
SLOW = "matrix: {zip: {workload.iterations: [2, 3, 100000, 4], timeout_s: [90, 90, 1, 90]}}\n"
"""Its third point has less time than it needs."""
BIG = QUICK.replace("16KiB", "1MiB")


def resume(folder: Path, name: str = "last", *words: str) -> subprocess.CompletedProcess[str]:
    line = command("run", "--resume", name, *words)
    return subprocess.run(line, capture_output=True, text=True, cwd=folder, timeout=100, env=environment())


def events(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("results/*/events.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def started(folder: Path) -> list[int]:
    return [event["index"] for event in events(folder) if event["event"] == "point_started"]


def while_running(folder: Path, text: str, said: str, strike: Callable[["subprocess.Popen[str]"], None]) -> str:
    """Run `text`, strike when it says `said`, and return the rest of what it says."""
    (folder / "quick.yaml").write_text(text)
    line = command("run", "quick.yaml", "--stage", "local", "--verbose")
    with subprocess.Popen(line, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if said in told:
                break
        strike(process)
        return process.stderr.read()


def test_a_point_that_fails_does_not_stop_the_others_unless_asked(tmp_path: Path) -> None:
    text = BIG + SLOW
    done = run(tmp_path, text, "--json")
    assert done.returncode == 3
    summary = json.loads(done.stdout)
    assert [point["verified"] for point in summary["points"]] == [True, True, False, True]
    assert summary["points"][2]["error"]["kind"] in ("deadline", "guest")
    assert "1 of 4 points failed" in done.stderr
    stopped = json.loads(run(tmp_path, text, "--json", "--fail-fast").stdout)
    assert [point["index"] for point in stopped["points"]] == [0, 1, 2]
    assert (stopped["outcome"], stopped["planned_points"]) == ("error", 4)


def test_an_expectation_that_does_not_hold_stops_with_fail_fast_too(tmp_path: Path) -> None:
    done = run(tmp_path, QUICK + POINTS + "expect: [iterations < 3]\n", "--json", "--fail-fast")
    assert done.returncode == 1
    assert [point["index"] for point in json.loads(done.stdout)["points"]] == [0, 1]


def test_a_guest_that_dies_is_replaced_and_its_point_repeated_and_the_results_say_so(tmp_path: Path) -> None:
    def kill_one(process: "subprocess.Popen[str]") -> None:
        os.kill(min(agents_alive(tmp_path)), signal.SIGKILL)

    text = QUICK.replace("iterations: 4", "iterations: 200") + "repeat: 3\n"
    rest = while_running(tmp_path, text, "point 1 of 3", kill_one)
    assert rest.count("lost, repeated on new guests: ") == 1, rest
    assert "guests: point " not in rest, rest  # it is named at the line's begin
    told = events(tmp_path)
    (failed,) = [event for event in told if event["event"] == "attempt_failed"]
    (path,) = tmp_path.glob("results/*/run.json")
    summary = json.loads(path.read_text())
    assert summary["outcome"] == "passed"
    lost = [(point["index"], len(point["lost"])) for point in summary["points"] if point["lost"]]
    assert lost == [(failed["index"], 1)]
    assert "agent was gone" in failed["message"]
    assert len([event for event in told if event["event"] == "stage_started" and event["name"] == "provision"]) == 2
    assert sorted(each.name for each in path.parent.glob("consoles/*")) == [
        "arm.2.log",
        "arm.log",
        "x86.2.log",
        "x86.log",
    ]


def test_a_run_that_was_killed_goes_on_after_its_last_complete_point(tmp_path: Path) -> None:
    while_running(tmp_path, BIG + ENDLESS, "point 2 of 4", lambda process: process.kill())
    (path,) = tmp_path.glob("results/*/events.jsonl")
    before = path.read_text()
    with path.open("a") as log:
        log.write('{"sequence":99,"wa')  # as a full disk leaves it
    (resolved,) = tmp_path.glob("results/*/resolved.yaml")
    resolved.write_text(
        resolved.read_text().replace("100000", "5").replace("timeout_s: 1\n", "timeout_s: 90\n")
    )  # so that it ends
    summary = summary_of(resume(tmp_path, "last", "--json"))
    assert [(point["index"], point["verified"]) for point in summary["points"]] == [(n, True) for n in range(4)]
    assert (summary["outcome"], summary["resumed"]) == ("passed", 1)
    assert path.read_text().startswith(before)
    told = events(tmp_path)
    assert [event["sequence"] for event in told] == list(range(len(told)))
    (again,) = [event for event in told if event["event"] == "run_resumed"]
    assert again["torn"] == '{"sequence":99,"wa'
    after = told[told.index(again) :]
    assert [event["index"] for event in after if event["event"] == "point_started"] == [2, 3]
    assert len(list(tmp_path.glob("results/*"))) == 1


def test_a_point_that_did_not_end_is_run_again_and_a_whole_run_is_not(tmp_path: Path) -> None:
    assert run(tmp_path, BIG + SLOW).returncode == 3
    (resolved,) = tmp_path.glob("results/*/resolved.yaml")
    resolved.write_text(resolved.read_text().replace("100000", "5").replace("timeout_s: 1\n", "timeout_s: 90\n"))
    first = summary_of(resume(tmp_path, "last", "--json"))
    assert started(tmp_path) == [0, 1, 2, 3, 2]
    assert [point["error"] for point in first["points"]] == [None] * 4
    second = summary_of(resume(tmp_path, first["run_id"], "--json"))
    assert started(tmp_path) == [0, 1, 2, 3, 2]
    assert (second["outcome"], second["points"], second["resumed"]) == ("passed", first["points"], 2)


def test_wrong_values_of_an_earlier_part_still_fail_the_run(tmp_path: Path) -> None:
    assert run(tmp_path, QUICK + POINTS + "expect: [iterations < 3]\n", "--fail-fast").returncode == 1
    done = resume(tmp_path, "last", "--json")
    assert done.returncode == 1
    assert "3 of 4 points failed" in done.stderr
    assert started(tmp_path) == [0, 1, 2, 3]


def test_a_run_that_is_still_going_on_cannot_be_gone_on_with(tmp_path: Path) -> None:
    def try_it(process: "subprocess.Popen[str]") -> None:
        done = resume(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert done.returncode == 2
        assert "found a run that is still going on, expected one that has ended" in done.stderr

    while_running(tmp_path, BIG + ENDLESS, "point 2 of 4", try_it)
    assert [event["event"] for event in events(tmp_path)][-1] == "run_finished"


def test_a_run_that_found_its_disk_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK + "repeat: 30\n")
    (tmp_path / "full").mkdir()
    private = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    script = (
        'mount -t tmpfs -o size=128k tmpfs full && head -c 56K /dev/zero >full/other; run="$*"; '
        "$run quick.yaml --stage local --results full --json >first; code=$?; rm full/other; "
        "mount -o remount,size=4m full; $run --resume last --results full --json >second && exit $code"
    )
    line = [*private, "sh", "-c", script, "sh", *command("run")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=100, env=environment())
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("first", "second"))
    complete = [point for point in first["points"] if point["error"] is None]
    assert 0 < len(complete) < 30
    assert (second["outcome"], len(second["points"]), second["resumed"]) == ("passed", 30, 1)


def test_traces_of_a_lost_attempt_are_set_aside(tmp_path: Path) -> None:
    text = BIG.replace("region: 1MiB", "region: 1MiB, trace: true") + SLOW
    assert run(tmp_path, text).returncode == 3
    (resolved,) = tmp_path.glob("results/*/resolved.yaml")
    resolved.write_text(resolved.read_text().replace("100000", "5").replace("timeout_s: 1\n", "timeout_s: 90\n"))
    assert resume(tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.glob("results/*/traces/*")) == ["1", "2", "3", "3-lost-1", "4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "found no FILE, expected an experiment file, or --resume RUN"),
        (("run", "quick.yaml", "--resume", "last"), "found --resume with FILE, --set or --stage"),
        (("run", "--resume", "last", "--stage", "local"), "found --resume with FILE, --set or --stage"),
        (("run", "--resume", "nothing"), "found 0 runs called 'nothing' in results/, expected one"),
    ],
)
def test_what_cannot_be_gone_on_with_is_wrong_input(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(command(*words), capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    assert done.returncode == 2
    assert said in done.stderr


ON_A_SMALL_DISK = """
set -e
testbed() { "$PYTHON" -m orchestrator "$@"; }
mkdir results
mount -t tmpfs -o size=1m tmpfs results
head -c 960K /dev/zero >results/other
testbed run quick.yaml --stage local --json >full.json || echo $? >exit-code
testbed run --resume last || echo $? >exit-code-again
rm results/other
testbed run --resume last --json >resumed.json
cp results/*/events.jsonl .
"""


def test_a_run_goes_on_when_the_full_disk_has_room_again(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK.replace("16KiB", "64KiB") + POINTS.replace("5]", "5, 6, 7, 8, 9]"))
    apart = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    tried = subprocess.run([*apart, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no file system of a test's own: {tried.stderr.strip()}")
    line = [*apart, "sh", "-c", ON_A_SMALL_DISK]
    variables = environment() | {"PYTHON": sys.executable}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / name).read_text() for name in ("exit-code", "exit-code-again")] == ["3\n", "3\n"]
    assert done.stderr.count("cannot be written: No space left on device") == 2, done.stderr
    run = json.loads((tmp_path / "full.json").read_text())["results"]
    assert f"hint: make room there (`df -h`); `testbed run --resume {run}` goes on after that" in done.stderr
    assert "Traceback" not in done.stderr
    full, resumed = (json.loads((tmp_path / name).read_text()) for name in ("full.json", "resumed.json"))
    assert 0 < len(full["points"]) < 8
    assert resumed["outcome"] == "passed"
    assert [point["index"] for point in resumed["points"]] == list(range(8))
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    finished = [event["index"] for event in told if event["event"] == "point_finished"]
    assert finished == list(range(8))
    assert [event["sequence"] for event in told] == list(range(len(told)))
