"""Whole nights on the stage `local`: what fails, what is flaky, what does not fit, and nights that are stopped."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from filelock import FileLock

from tests.local.test_run_local import QUICK, agents_alive, command, environment

LONG = QUICK.replace("iterations: 4", "iterations: 100000") + "timeout_s: 600\n"
"""It does not end by itself in the time of a test."""
ONCE = """\
name: once
testbed: {nodes: {x86: {arch: x86_64}}}
workload: {kind: command, commands: {x86: [sh, -c, "test -e PLACE || { touch PLACE; sleep 1000; }"]}}
timeout_s: 2
"""
"""Its first attempt is not over in time, later ones are."""


def once(folder: Path) -> str:
    return ONCE.replace("PLACE", str(folder / "flag"))


def night_set(folder: Path, **texts: str) -> None:
    """Files of these experiments in `set`, each named after its file."""
    (folder / "set").mkdir()
    for name, text in texts.items():
        own = "\n".join(f"name: {name}" if line.startswith("name: ") else line for line in text.splitlines())
        (folder / "set" / f"{name}.yaml").write_text(own + "\n")


def words(*options: str) -> list[str]:
    return command("nightly", "set", "--stage", "local", *options)


def nightly(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(*options), cwd=folder, capture_output=True, text=True, timeout=100, env=environment(folder)
    )


def of(folder: Path) -> dict[str, Any]:
    """The last night of the folder."""
    told: dict[str, Any] = json.loads(max(folder.glob("results/nights/*/night.json")).read_text())
    return told


def states(told: dict[str, Any]) -> dict[str, str]:
    return {entry["experiment"]: entry["state"] for entry in told["entries"]}


def struck(folder: Path, said: str, strike: Callable[["subprocess.Popen[str]"], None]) -> tuple[int, str]:
    """Strike at a night when it says `said`. Its exit code, and the rest of what it says."""
    with subprocess.Popen(words(), cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if said in told:
                break
        strike(process)
        rest = process.stderr.read()
    return process.returncode, rest


def test_a_night_runs_all_of_it_and_leaves_summary_junit_and_report(tmp_path: Path) -> None:
    night_set(tmp_path, good=QUICK, wrong=QUICK + "expect: [messages.protocol < 1]\n", once=once(tmp_path))
    done = nightly(tmp_path, "--json", "--junit", "ci/junit.xml", "--summary", "step.md")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told == of(tmp_path)
    assert states(told) == {"good": "passed", "once": "passed", "wrong": "failed"}
    assert [entry["flaky"] for entry in told["entries"]] == [[], ["1 of 1 point failed"], []]
    assert "does not hold: messages.protocol < 1" in (tmp_path / "step.md").read_text()
    (folder,) = tmp_path.glob("results/nights/*/")
    assert (folder / "summary.txt").read_text().startswith(f"Night of {told['started'][:10]}: failed\n")
    assert (folder / "junit.xml").read_bytes() == (tmp_path / "ci" / "junit.xml").read_bytes()
    suites = {suite.attrib["name"]: suite for suite in ET.parse(folder / "junit.xml").getroot()}
    assert [suites[name].attrib["failures"] for name in ("good", "once", "wrong")] == ["0", "0", "1"]
    assert len((folder / "report.html").read_text()) > 1e6


def test_what_does_not_pass_at_the_second_attempt_either_is_an_error(tmp_path: Path) -> None:
    night_set(tmp_path, never=once(tmp_path).replace("test -e", "test -x").replace("s: 2", "s: 1"))
    done = nightly(tmp_path)
    assert done.returncode == 3
    assert "never: a guest failed, once more: 1 of 1 point failed" in done.stderr
    (log,) = tmp_path.glob("results/*/events.jsonl")
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()].count("run_resumed") == 1
    assert "`sh -c" in done.stdout
    assert states(of(tmp_path)) == {"never": "error"}


def test_a_guest_that_dies_is_replaced_and_its_experiment_marked_flaky(tmp_path: Path) -> None:
    """Its agent is killed by the command that it runs, at the first attempt."""
    text = once(tmp_path).replace("sleep 1000", "kill -KILL $PPID; sleep 1000").replace("s: 2", "s: 40")
    night_set(tmp_path, good=text + "repeat: 2\n")
    done = nightly(tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = of(tmp_path)["entries"]
    assert entry["state"] == "passed"
    assert len(entry["flaky"]) == 1
    assert "agent was gone" in entry["flaky"][0]
    (folder,) = tmp_path.glob("results/nights/*/")
    assert len(list(ET.parse(folder / "junit.xml").getroot().iter("flakyError"))) == 1
    assert "was repeated: " in (folder / "report.html").read_text()


def test_what_does_not_fit_is_skipped_and_comes_first_the_next_night(tmp_path: Path) -> None:
    night_set(tmp_path, a=QUICK + "repeat: 900\n", b=QUICK)
    done = nightly(tmp_path, "--budget", "10s", "-q")
    assert states(of(tmp_path)) == {"b": "passed", "a": "skipped"}, done.stderr
    assert (done.returncode, of(tmp_path)["outcome"]) == (0, "passed")
    assert done.stdout.splitlines()[0].endswith(": passed, as far as it came")
    assert "a: skipped\n  needs about" in done.stdout
    listed = json.loads(nightly(tmp_path, "--list", "--json").stdout)
    assert [each["experiment"] for each in listed] == ["a", "b"]


def test_what_is_cut_short_keeps_its_points_and_is_no_pass(tmp_path: Path) -> None:
    text = ONCE.replace('sh, -c, "test -e PLACE || { touch PLACE; sleep 1000; }"', "sleep, '0.2'").replace(
        "s: 2", "s: 40"
    )
    night_set(tmp_path, a=text + "repeat: 50\n", b=text)  # nobody knows how long commands take
    done = nightly(tmp_path, "--budget", "2s", "-q")
    assert (done.returncode, states(of(tmp_path))) == (3, {"a": "cut short", "b": "skipped"}), done.stderr
    entry, left = of(tmp_path)["entries"]
    assert 0 < entry["points_passed"] < 50
    assert entry["reason"].startswith(
        f"the time given for the run was over after {entry['points_passed']} of 50 points"
    )
    assert left["reason"] == "the budget of 2 s was over"
    assert of(tmp_path)["duration_s"] < 20
    listed = json.loads(nightly(tmp_path, "--list", "--json").stdout)
    assert [each["experiment"] for each in listed] == ["b", "a"]


def test_a_signal_ends_a_night_with_what_was_done_so_far(tmp_path: Path) -> None:
    night_set(tmp_path, a=QUICK, b=LONG, c=QUICK)
    code, rest = struck(tmp_path, "b: 1 point on stage local", lambda process: process.send_signal(signal.SIGINT))
    assert code == 128 + signal.SIGINT, rest
    assert "stopped by SIGINT" in rest
    told = of(tmp_path)
    assert (told["outcome"], states(told)) == ("interrupted", {"a": "passed", "b": "interrupted", "c": "skipped"})
    assert told["entries"][1]["reason"] == "the night was stopped"
    (folder,) = tmp_path.glob("results/nights/2*/")
    assert "c: skipped\n  the night was stopped before\n" in (folder / "summary.txt").read_text()
    assert {path.name for path in folder.iterdir()} >= {"junit.xml", "report.html", "summary.md"}
    assert agents_alive(tmp_path) == set()


def test_a_killed_night_is_followed_by_a_new_one_with_what_it_had_not_run(tmp_path: Path) -> None:
    night_set(tmp_path, a=QUICK, b=LONG, c=QUICK)
    code, _ = struck(tmp_path, "b: 1 point on stage local", lambda process: process.kill())
    assert code == -signal.SIGKILL
    told = of(tmp_path)
    assert (told["outcome"], told["entries"][0]["state"]) == ("interrupted", "passed")
    assert told["entries"][2]["state"] == "waiting"
    (tmp_path / "set" / "b.yaml").write_text((tmp_path / "set" / "b.yaml").read_text().replace("100000", "2"))
    first = sorted(path.name for path in tmp_path.glob("results/2*"))
    done = nightly(tmp_path, "--json", "-q")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["entries"][0]["experiment"] == "c"
    assert not {run for entry in again["entries"] for run in entry["runs"]} & set(first)
    assert len(list(tmp_path.glob("results/nights/2*"))) == 2


def test_two_nights_do_not_run_in_one_place(tmp_path: Path) -> None:
    night_set(tmp_path, a=QUICK)
    (tmp_path / "results" / "nights").mkdir(parents=True)
    with FileLock(tmp_path / "results" / "nights" / ".lock"):
        done = nightly(tmp_path)
    assert (done.returncode, "another `testbed nightly` at work in results/" in done.stderr) == (2, True)
    assert list(tmp_path.glob("results/2*")) == []
