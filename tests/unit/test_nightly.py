"""A night before anything of it is started, and what is made of it afterwards."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from orchestrator.errors import FileError, InputError
from orchestrator.experiments.durations import seconds_of
from orchestrator.nightly import outputs, retention
from orchestrator.nightly.carry_out import note, worth_another
from orchestrator.nightly.compared import BASELINE_RUNS, compare_run, confirm
from orchestrator.nightly.night import Entry, Night, NightOutcome, State, read_nights
from orchestrator.nightly.schedule import files_of, scheduled, why_not
from orchestrator.nightly.summary import as_markdown, as_text
from orchestrator.report.page import render
from orchestrator.results.baseline import read_baselines, set_baseline
from orchestrator.results.directories import RunDirectory, read_summary
from orchestrator.results.past_run import read_run
from tests.unit.past_runs import past_run
from tests.unit.test_cli import command_line
from tests.unit.test_experiment_errors import GOOD

MANY = "matrix: {workload.iterations: [1, 2, 3, 4, 5, 6], coherency.notify: [poll, adaptive]}\nrepeat: 6\n"


def entry(name: str = "pair", state: State = State.PASSED, **fields: Any) -> Entry:
    begun = "" if state in (State.WAITING, State.SKIPPED) else "2026-01-31T02:00:00+00:00"
    known: dict[str, Any] = {"planned_points": 72, "expected_s": 10.0, "state": state, "begun": begun}
    return Entry(name, f"{name}.yaml", **(known | fields))


def night(*entries: Entry, number: int = 1, **fields: Any) -> Night:
    told = Night(f"2026013{number}T020000Z-night-4f1c", "vm", 7200.0, list(entries), **fields)
    told.judge(complete=not any(each.state in (State.INTERRUPTED, State.WAITING) for each in entries))
    return told


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90min", 5400), ("2h", 7200), ("1h30m", 5400), ("1.5 h", 5400), ("1d", 86400)]
)
def test_budgets_are_written_as_people_do(text: str, seconds: float) -> None:
    assert seconds_of(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0s", "-1h", "2h x"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"found --budget {text}, expected a length of time"):
        seconds_of(text, "--budget")


def written(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.yaml").write_text(GOOD.replace("name: pair", f"name: {name}"))
    return files_of([folder])


def order(files: list[Path], nights: list[Night], folder: Path) -> list[str]:
    return [each.plan.name for each in scheduled(files, nights, "vm", folder / "results", None)]


def test_what_waited_longest_comes_first_and_what_never_ran_before_all(tmp_path: Path) -> None:
    files = written(tmp_path / "set", "a", "b", "c", "d")
    assert order(files, [], tmp_path) == ["a", "b", "c", "d"]
    first = night(
        entry("a", begun="2026-01-01T02:00:00+00:00"),
        entry("b", begun="2026-01-01T02:10:00+00:00"),
        entry("c", State.SKIPPED),
    )
    assert order(files, [first], tmp_path) == ["c", "d", "a", "b"]
    second = night(
        entry("c", State.CUT, begun="2026-01-02T02:00:00+00:00"),
        entry("d", State.ERROR, begun="2026-01-02T02:30:00+00:00"),
        entry("a", State.SKIPPED),
        entry("b", State.SKIPPED),
    )
    assert order(files, [first, second], tmp_path) == ["a", "b", "c", "d"]
    elsewhere = night(entry("a", begun="2026-01-03T02:00:00+00:00"))
    elsewhere.stage = "local"
    assert order(files, [first, second, elsewhere], tmp_path) == ["a", "b", "c", "d"]


def test_an_experiment_takes_as_long_as_it_took(tmp_path: Path) -> None:
    files = written(tmp_path / "set", "a")
    (each,) = scheduled(files, [], "vm", tmp_path / "results", "tcg")
    assert each.basis == "computed"
    took = [night(entry("a", planned_points=1, duration_s=own, runs=["r"])) for own in (100.0, 30.0, 20.0)]
    twice = night(entry("a", planned_points=1, duration_s=80.0, runs=["r", "s"]))  # confirmed: 40 s each
    other = night(entry("a", planned_points=2, duration_s=900.0, runs=["r"]))  # of another file
    failed = night(entry("a", State.ERROR, planned_points=1, duration_s=900.0, runs=["r"]))
    (each,) = scheduled(files, [*took, twice, other, failed], "vm", tmp_path / "results", "tcg")
    assert (each.expected_s, each.basis) == (35.0, "median of 4 nights")


def test_why_something_is_skipped_is_told() -> None:
    assert why_not(60.0, 60.0, 600.0) == ""
    assert why_not(None, 1.0, 600.0) == ""
    assert why_not(61.0, 60.0, 600.0) == "needs about 1 min 1 s, 1 min 0 s of 10 min 0 s were left"
    assert why_not(601.0, 60.0, 600.0) == "needs about 10 min 1 s, the whole budget is 10 min 0 s"
    assert why_not(None, 0.0, 600.0) == "the budget of 10 min 0 s was over"


def test_the_problems_of_all_files_are_told_at_once_and_nothing_is_left_behind(tmp_path: Path) -> None:
    files = written(tmp_path / "set", "a", "b", "c")
    for path in files[:2]:
        path.write_text(path.read_text().replace("x86_64", "x86-64"))
    with pytest.raises(FileError) as caught:
        scheduled(files, [], "vm", tmp_path / "results", None)
    assert [Path(problem.partition(":")[0]).name for problem in caught.value.problems] == ["a.yaml", "b.yaml"]
    done = command_line("nightly", "set", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "results").exists()


def test_two_experiments_of_one_name_are_refused(tmp_path: Path) -> None:
    files = written(tmp_path / "set", "a", "b")
    files[1].write_text(files[0].read_text())
    with pytest.raises(InputError, match=r"b\.yaml: found name 'a', which .*a\.yaml has too"):
        scheduled(files, [], "vm", tmp_path / "results", None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "2 hours"], "found --budget 2 hours, expected a length of time"),
        (["empty"], "found no *.yaml in empty/, expected experiment files"),
        (["gone.yaml"], "gone.yaml"),
        (["--accel", "xen"], "found --accel xen, expected auto, kvm or tcg"),
        (["--accel", "tcg", "--stage", "local"], "--accel: found with --stage local"),
        (["--keep", "0"], "--keep"),
        (["--template", "jenkins"], "jenkins"),
    ],
)
def test_wrong_words_are_refused_and_leave_nothing(tmp_path: Path, words: list[str], said: str) -> None:
    written(tmp_path / "configs", "a")
    (tmp_path / "configs").rename(tmp_path / "nightly")
    (tmp_path / "configs").mkdir()
    (tmp_path / "nightly").rename(tmp_path / "configs" / "nightly")
    (tmp_path / "empty").mkdir()
    done = command_line("nightly", *words, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "results").exists()


def test_the_list_says_what_will_be_skipped_and_why(tmp_path: Path) -> None:
    written(tmp_path / "set", "a", "b")
    long = [entry("b", planned_points=1, duration_s=90.0, runs=["r"])]
    directory = RunDirectory.create(tmp_path / "results" / "nights", "night")
    night(*long).write(directory)
    said = command_line("nightly", "set", "--list", "--budget", "1min", cwd=tmp_path).stdout
    assert [line.split()[0] for line in said.splitlines()] == ["experiment", "a", "b"]
    assert said.splitlines()[2].endswith(
        "median of 1 night  2026-01-31 02:00:00  skipped: needs about 1 min 30 s, the whole budget is 1 min 0 s"
    )
    rows = json.loads(command_line("nightly", "set", "--list", "--budget", "2min", "--json", cwd=tmp_path).stdout)
    assert [(row["experiment"], row["skipped"]) for row in rows] == [("a", ""), ("b", "")]


@pytest.mark.parametrize(
    ("states", "outcome", "code"),
    [
        ([State.PASSED, State.SKIPPED, State.CUT], NightOutcome.PASSED, 0),
        ([State.PASSED, State.FAILED, State.SKIPPED], NightOutcome.FAILED, 1),
        ([State.FAILED, State.ERROR], NightOutcome.ERROR, 3),
        ([State.SKIPPED, State.CUT], NightOutcome.ERROR, 3),
        ([State.PASSED, State.INTERRUPTED, State.SKIPPED], NightOutcome.INTERRUPTED, 3),
        ([State.PASSED, State.WAITING], NightOutcome.INTERRUPTED, 3),
    ],
)
def test_a_night_is_as_good_as_its_worst_experiment(states: list[State], outcome: NightOutcome, code: int) -> None:
    told = night(*(entry(str(number), state) for number, state in enumerate(states)))
    assert (told.outcome, told.exit_code) == (outcome, code)


def test_what_got_worse_fails_the_night_and_what_is_flaky_does_not() -> None:
    assert night(entry(flaky=["point 1"])).outcome is NightOutcome.PASSED
    told = night(entry(flaky=["point 1"], worse=["duration_s"]))
    assert (told.outcome, told.entries[0].word) == (NightOutcome.FAILED, "worse and flaky")


def test_a_night_is_read_back_as_it_was(results: Path) -> None:
    told = night(entry(flaky=["x"], runs=["r"]), entry("other", State.SKIPPED, reason="why"), removed="2 nights")
    directory = RunDirectory.create(results / "nights", "night")
    told.write(directory)
    (results / "nights" / "spoilt").mkdir()
    (results / "nights" / "spoilt" / "night.json").write_text('{"entries": [{"odd": 1}]}')
    assert [each for _, each in read_nights(results)] == [told]


def lost(message: str) -> dict[str, str]:
    return {"kind": "guest", "message": f"{message}\nits console", "hint": ""}


def test_points_that_were_repeated_make_an_experiment_flaky(tmp_path: Path, results: Path) -> None:
    summary = read_summary(past_run(tmp_path, results))
    summary["points"][2]["lost"] = [lost("node arm has ended")]
    told = entry(runs=[summary["run_id"]])
    note(told, summary)
    assert (told.word, told.points_passed) == ("flaky", 8)
    assert told.flaky == ["point 3, iterations 1, notify adaptive: node arm has ended"]
    again = entry()
    summary["points"][2]["lost"] = []
    note(
        again, summary | {"earlier_ends": [lost("no banner"), {"kind": "interrupted", "message": "SIGINT", "hint": ""}]}
    )
    assert again.flaky == ["no banner"]
    cut = {"outcome": "error", "error": {"kind": "OutOfTime", "message": "time was over", "hint": ""}}
    note(again, summary | cut | {"earlier_ends": [lost("no banner")]})
    assert again.state is State.CUT
    assert again.reason == "time was over\nthe attempt before had ended with: no banner"


def test_only_guests_are_tried_again_and_only_once(tmp_path: Path, results: Path) -> None:
    summary = read_summary(past_run(tmp_path, results))
    ended = summary | {"outcome": "error", "error": lost("x") | {"kind": "GuestError"}}
    assert not worth_another(summary)
    assert worth_another(ended)
    assert worth_another(ended | {"error": lost("x") | {"kind": "PointsFailed"}})
    assert not worth_another(ended | {"error": lost("x") | {"kind": "HostError"}})
    assert not worth_another(ended | {"outcome": "failed", "error": lost("x") | {"kind": "check"}})
    twice = [summary["points"][0] | {"error": lost("again"), "lost": [lost("once")]}, *summary["points"][1:]]
    assert not worth_another(ended | {"points": twice})


def compared(folder: Path, results: Path, read_us: float, told: Entry) -> list[Any]:
    run = past_run(folder, results, GOOD + MANY, read_us)
    told.runs.append(run.name)
    return compare_run(told, results, run.name)


def test_the_first_runs_become_the_baseline_and_later_ones_are_compared(tmp_path: Path, results: Path) -> None:
    for number in range(1, BASELINE_RUNS + 1):
        told = entry()
        assert compared(tmp_path, results, 20.0 + number / 10, told) == []
        assert told.baseline == f"run {number} of 3 that become the baseline"
    base = read_baselines(results)["pair/vm"]["runs"]
    assert len(base) == 3
    same = entry()
    assert compared(tmp_path, results, 20.2, same) == []
    assert same.baseline.startswith("no change in ")
    assert same.worse == []
    told = entry()
    worse = compared(tmp_path, results, 60.0, told)
    assert {each.metric for each in worse} == {"remote_read_us"}
    assert len(told.worse) == len(worse) > 1
    assert told.baseline == f"{len(worse)} worse"
    assert read_baselines(results)["pair/vm"]["runs"] == base
    confirm(told, worse, worse[:1])
    assert (len(told.worse), told.baseline) == (1, "1 worse, measured twice")
    confirm(told, worse, [replace(worse[0], metric="messages")])
    assert (told.word, told.baseline) == ("passed", "no change: what was worse was not so again")


def test_a_baseline_that_a_person_set_stays(tmp_path: Path, results: Path) -> None:
    run = past_run(tmp_path, results, GOOD + MANY)
    set_baseline(results, [run])
    told = entry()
    compared(tmp_path, results, 20.0, told)
    assert told.baseline.startswith("no change in ")
    assert read_baselines(results)["pair/vm"]["runs"] == [run.name]


def test_another_host_is_neither_compared_nor_taken_into_the_baseline(tmp_path: Path, results: Path) -> None:
    compared(tmp_path, results, 20.0, entry())
    run = past_run(tmp_path, results, GOOD + MANY, 60.0)
    summary = json.loads((run / "run.json").read_text())
    summary["provenance"]["host"]["cpu"] = "another"
    (run / "run.json").write_text(json.dumps(summary))
    told = entry()
    assert compare_run(told, results, run.name) == []
    assert (told.baseline, told.remarks) == ("not comparable: another host", ["processor: None → another"])
    assert len(read_baselines(results)["pair/vm"]["runs"]) == 1


def test_a_baseline_whose_runs_are_gone_is_told(tmp_path: Path, results: Path) -> None:
    compared(tmp_path, results, 20.0, entry())
    shutil.rmtree(results / read_baselines(results)["pair/vm"]["runs"][0])
    told = entry()
    compared(tmp_path, results, 20.0, told)
    assert told.baseline.startswith("cannot be compared: ")


def test_summaries_tell_the_outcome_first_and_what_was_not_run(tmp_path: Path) -> None:
    bad = entry("bad|one", State.FAILED, reason="1 of 72 points failed\n  x <b>", runs=["r1"], points_passed=71)
    told = night(bad, entry("late", State.SKIPPED, reason="needs about 10 min"), entry(flaky=["point 1: gone\x1b[31m"]))
    text, markdown = as_text(told), as_markdown(told)
    assert text.splitlines()[0] == f"Night of {told.started[:10]}: failed"
    assert text.splitlines()[1].startswith("1 failed, 1 skipped, 1 flaky; 0 s of 2 h 0 min, stage vm")
    assert "late: skipped\n  needs about 10 min\n" in text
    assert "pair: flaky\n  passed at the second attempt: point 1: gone\\x1b[31m\n" in text
    assert markdown.splitlines()[0] == f"# Night of {told.started[:10]}: failed"
    assert "| bad\\|one | failed | 71 of 72 | – |" in markdown
    assert "\n    1 of 72 points failed\n      x <b>\n    run: r1\n" in markdown
    assert as_text(night(entry(), entry("l", State.SKIPPED))).splitlines()[0].endswith("passed, as far as it came")
    assert as_text(night(entry())).splitlines()[0].endswith(": passed")
    assert "load 7.5" in as_text(night(entry(), load=7.5, busy=True))


def test_junit_and_report_of_a_night_say_what_its_runs_do_and_more(tmp_path: Path, results: Path) -> None:
    run = past_run(tmp_path, results)
    summary = read_summary(run)
    summary["points"][0]["lost"] = [lost("node arm has ended")]
    summary["earlier_ends"] = [lost("no banner")]
    (run / "run.json").write_text(json.dumps(summary))
    ran = entry(runs=[run.name], baseline="1 worse", worse=["duration_s: 1 → 2"])
    told = night(ran, entry("late", State.SKIPPED, reason="no time"), entry("cut", State.INTERRUPTED, runs=["gone"]))
    pair, late = ET.fromstring(outputs.junit(told, results))
    assert [pair.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == ["10", "1", "0", "0"]
    assert [each.attrib["message"] for each in pair.iter("flakyError")] == ["node arm has ended", "no banner"]
    (failure,) = pair.iter("failure")
    assert (failure.attrib["message"], failure.text) == ("1 worse", "duration_s: 1 → 2")
    assert late.attrib["skipped"] == late.attrib["tests"] == "1"
    outputs.write_outputs(told, tmp_path, results)
    page = (tmp_path / outputs.REPORT).read_text()
    assert "<li>worse than the baseline: duration_s: 1 → 2</li>" in page
    assert "<li>The run was gone on with after: no banner</li>" in page


def test_a_report_of_one_run_tells_of_repeated_points(tmp_path: Path, results: Path) -> None:
    run = past_run(tmp_path, results)
    assert 'class="remarks"' not in render([read_run(run)])
    lines = (run / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    finished = next(event for event in events if event["event"] == "point_finished")
    finished["result"]["lost"] = [lost("node arm has ended")]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    page = render([read_run(run)])
    assert "<li>Point 1, iterations 1, notify poll, was repeated: node arm has ended</li>" in page


def test_only_what_nights_say_is_theirs_is_removed_and_baselines_stay(tmp_path: Path, results: Path) -> None:
    own = past_run(tmp_path, results)
    runs = [past_run(tmp_path, results) for _ in range(4)]
    set_baseline(results, [runs[0]])
    for number, run in enumerate(runs[:3]):
        path = results / "nights" / f"2026013{number}T020000Z-night-0000"
        path.mkdir(parents=True)
        hostile = [f"../{results.name}/{own.name}"] if number < 2 else []
        night(entry(runs=[run.name, *hostile])).write(RunDirectory(path))
    assert retention.prune(results, 3) == ""
    said = retention.prune(results, 1)
    assert said.startswith("2 nights and 1 run, ")
    stay = [own.name, *(runs[each].name for each in (0, 2, 3))]
    assert sorted(path.name for path in results.glob("2*")) == sorted(stay)
    assert [path.name for path, _ in read_nights(results)] == ["20260132T020000Z-night-0000"]
