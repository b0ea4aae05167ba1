"""Result directories: made once, never overwritten, found again; and the summary in them."""

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from images.errors import Failure, HostError
from orchestrator.errors import CheckFailed, InputError, PointsFailed, Stopped
from orchestrator.experiments.plan import Plan, load
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory, all_runs, find, read_summary
from orchestrator.results.judging import judge
from orchestrator.results.losses import Losses
from orchestrator.results.record import Record
from orchestrator.results.summary import Latency, NodeSummary, PointError, PointResult, Report, Verdict, summed
from orchestrator.results.summary import Mismatch as WrongValue
from orchestrator.results.summary_table import render
from tests.unit.test_experiment_errors import GOOD


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "experiment.yaml"
    path.write_text(GOOD)
    return load(path)


def reports(wrong: tuple[WrongValue, ...] = ()) -> list[Report]:
    latencies = {"remote_read": [10.0, 20.0], "remote_write": [], "local_fault": []}
    return [
        Report("x86", True, 0, (), {"VOTE": 2, "PAGE_DATA": 3}, {"BARRIER": 9}, latencies, 1.5),
        Report("arm", not wrong, len(wrong), wrong, {"VOTE": 5}, {"BARRIER": 9}, {"remote_read": [30.0]}, 2.5),
    ]


def result(plan: Plan, wrong: tuple[WrongValue, ...] = ()) -> PointResult:
    return summed(plan.points[0], {"x86": ["writer"], "arm": ["reader"]}, reports(wrong))


def record_of(plan: Plan, tmp_path: Path) -> Record:
    return Record(plan, "local", RunDirectory.create(tmp_path / "results", plan.name), Progress(quiet=True))


def test_run_ids_sort_by_time_and_two_runs_of_one_second_never_meet(tmp_path: Path) -> None:
    made = [RunDirectory.create(tmp_path, "pair") for _ in range(20)]
    assert len({directory.path for directory in made}) == 20
    assert all_runs(tmp_path) == []
    for directory in reversed(made):
        directory.keep("experiment.yaml", "")
        os.utime(directory.path / "experiment.yaml", ns=(0, len(all_runs(tmp_path)) + 1))
        directory.keep("run.json", "{}")
    in_order = sorted(made, key=lambda directory: (directory.run_id[:16], -made.index(directory)))
    assert all_runs(tmp_path) == [directory.path for directory in in_order]
    stamp, name, token = made[0].run_id.split("-")
    assert (len(stamp), name, len(token)) == (16, "pair", 4)
    assert stamp[8] == "T"
    assert stamp.endswith("Z")


def test_a_token_that_is_taken_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("orchestrator.results.directories.secrets.token_hex", lambda _: next(drawn))
    stopped = type("Stopped", (), {"now": lambda zone: datetime(2026, 1, 1, tzinfo=zone)})
    monkeypatch.setattr("orchestrator.results.directories.datetime", stopped)
    made = [RunDirectory.create(tmp_path, "pair").run_id for _ in range(2)]
    assert made == ["20260101T000000Z-pair-aaaa", "20260101T000000Z-pair-bbbb"]


def test_nothing_in_a_result_directory_is_overwritten(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, "pair")
    directory.keep("experiment.yaml", "first")
    with pytest.raises(FileExistsError):
        directory.keep("experiment.yaml", "second")
    kept = [directory.keep_console("arm", text) for text in ("first boot", "second boot")]
    assert [path.name for path in kept] == ["arm.log", "arm.2.log"]
    assert [path.read_text() for path in kept] == ["first boot", "second boot"]


def test_a_place_that_cannot_be_written_is_the_hosts_failure_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(HostError) as caught:
        RunDirectory.create(tmp_path / "results", "pair")
    assert "--results" in caught.value.hint


def test_sums_are_over_kernels_and_the_harness_is_apart(plan: Plan) -> None:
    point = result(plan)
    assert point.messages == {"PAGE_DATA": 3, "VOTE": 7}
    assert point.messages_total == 10
    assert point.harness_messages == {"BARRIER": 18}
    assert point.latency_us["remote_read"] == Latency(3, 20.0, 30.0)
    assert point.latency_us["remote_write"] == Latency(0, None, None)
    assert point.duration_s == 2.5
    assert point.passed


def test_percentiles_are_measured_values() -> None:
    assert Latency.of([float(n) for n in range(1, 101)]) == Latency(100, 50.0, 99.0)
    assert Latency.of([7.04]) == Latency(1, 7.0, 7.0)


def test_a_wrong_value_fails_the_run_and_names_its_place(plan: Plan) -> None:
    wrong = WrongValue("arm", page=3, offset=128, expected=0x20, found=0x10, iteration=5, thread=0)
    with pytest.raises(CheckFailed) as caught:
        judge([result(plan, (wrong,))], "last")
    assert caught.value.exit_code == 1
    assert "node arm, page 3, offset 128: expected 0x20, found 0x10 (iteration 5" in caught.value.message


def test_an_expectation_that_does_not_hold_fails_the_run_and_shows_the_values(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(GOOD + "expect: [messages.protocol <= 4, readers == 1 and writers == 1]\n")
    point = result(load(path))
    assert point.verified
    assert not point.passed
    assert point.expectations[0] == Verdict("messages.protocol <= 4", False, "messages.protocol = 10")
    assert point.expectations[1].holds
    with pytest.raises(CheckFailed, match=r"messages.protocol <= 4   \(messages.protocol = 10\)"):
        judge([point], "last")


def failed(plan: Plan, hint: str, kind: str = "application") -> PointResult:
    return replace(result(plan), verified=False, error=PointError(kind, "node x86: it failed", hint))


def test_every_point_that_failed_has_its_own_hint_and_one_hint_is_said_once(plan: Plan) -> None:
    with pytest.raises(PointsFailed) as caught:
        judge([failed(plan, "make it smaller"), failed(plan, "make it larger")], "results/one")
    assert caught.value.message.count("    hint: make it ") == 2
    assert "`testbed run --resume results/one` runs these points again, with the file" in caught.value.hint
    with pytest.raises(PointsFailed) as caught:
        judge([failed(plan, "make it smaller")] * 2, "last")
    assert (caught.value.message.count("hint"), caught.value.hint) == (0, "make it smaller")


def test_more_points_than_are_spelled_out_are_counted(plan: Plan) -> None:
    with pytest.raises(PointsFailed, match=r"2 more, which run\.json has"):
        judge([failed(plan, "")] * 7, "last")


def test_the_table_tells_apart_what_failed_was_wrong_and_was_lost(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    lost = replace(result(plan), losses=Losses(pages=(3,)))
    wrong = WrongValue("arm", page=3, offset=128, expected=0x20, found=0x10, iteration=5, thread=0)
    points = failed(plan, ""), failed(plan, "", "check"), lost, result(plan, (wrong,)), result(plan)
    with record:
        for number, point in enumerate(points):
            record.point_finished(replace(plan.points[0], index=number), replace(point, index=number))
    shown = render(record.summary.as_json()).splitlines()
    words = [line.split() for line in shown if "256KiB" in line]
    expected = ("FAILED", "WRONG", "LOSSES", "WRONG", "verified")
    assert [word in line for word, line in zip(expected, words, strict=True)] == [True] * 5, words
    assert [line[-1] for line in words] == ["-", "-", "2.50", "2.50", "2.50"]  # what failed has measured nothing


@pytest.mark.parametrize("folder", ["results", "my results"])
def test_hints_name_a_run_as_commands_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.create(Path(folder), "quick")
    assert directory.asked_for == (directory.run_id if folder == "results" else f"'{directory.path}'")
    (directory.path / "run.json").write_text("{}")
    assert find(Path("results"), directory.asked_for.strip("'")).absolute() == directory.path


def test_run_json_has_the_fields_that_others_rely_on(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    with record:
        record.node(NodeSummary("x86", "x86_64", "tcg", "no /dev/kvm", 4.9))
        with record.stage("run", "running"):
            record.point_finished(plan.points[0], result(plan))
    summary = json.loads((record.directory.path / "run.json").read_text())
    assert summary["run_id"] == record.directory.path.name
    assert (summary["experiment"], summary["stage"], summary["outcome"]) == ("pair", "local", "passed")
    assert summary["nodes"][0].items() >= {
        "name": "x86", "arch": "x86_64", "accelerator": "tcg", "accelerator_reason": "no /dev/kvm", "boot_s": 4.9
    }.items()  # fmt: skip
    assert set(summary["stages_s"]) == {"provision", "deploy", "run", "collect", "teardown"}
    (point,) = summary["points"]
    assert set(point) >= {
        "parameters", "repetition", "verified", "iterations", "pages", "messages", "latency_us", "duration_s"
    }  # fmt: skip
    assert point["latency_us"]["remote_read"] == {"count": 3, "median": 20.0, "p99": 30.0}
    assert (record.directory.path / "experiment.yaml").read_text() == GOOD


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (CheckFailed("1 of 1 point failed"), "failed", "check"),
        (HostError("no space", "free some"), "error", "HostError"),
        (Failure("anything"), "error", "Failure"),
        (Stopped(15), "error", "interrupted"),
        (ZeroDivisionError("division by zero"), "error", "defect"),
    ],
)
def test_whatever_ends_a_run_stands_in_run_json(
    plan: Plan, tmp_path: Path, error: BaseException, outcome: str, kind: str
) -> None:
    record = record_of(plan, tmp_path)
    with pytest.raises(type(error)), record:
        raise error
    summary = read_summary(record.directory.path)
    assert (summary["outcome"], summary["error"]["kind"]) == (outcome, kind)
    assert (record.directory.path / "traceback.txt").exists() == (kind == "defect")


def test_a_run_that_was_killed_reads_as_one_that_did_not_end(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    record.__enter__()
    summary = read_summary(record.directory.path)
    assert summary["outcome"] == "error"
    assert summary["error"]["message"] == "the run did not come to its end"


def test_every_event_has_both_clocks_and_the_sequence_has_no_gap(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    with record, record.stage("run", "running"):
        record.said("hello")
        record.point_finished(plan.points[0], result(plan))
    events = [json.loads(line) for line in record.directory.events.read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    assert all(event.keys() >= {"wall", "monotonic_s", "event"} for event in events)
    assert [event["event"] for event in events] == [
        "run_started", "stage_started", "said", "point_finished", "stage_finished", "run_finished"
    ]  # fmt: skip
    assert events[3]["result"]["messages"] == {"PAGE_DATA": 3, "VOTE": 7}


def test_a_run_is_found_by_either_end_of_its_id_and_by_last(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-pair-aaaa", "20260102T000000Z-pair-bbbb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"outcome": "passed"}')
    assert find(tmp_path, "aaaa").name.endswith("aaaa")
    assert find(tmp_path, "20260102").name.endswith("bbbb")
    assert find(tmp_path, "last").name.endswith("bbbb")
    with pytest.raises(InputError, match="found 2 runs called '2026'"):
        find(tmp_path, "2026")
    with pytest.raises(InputError, match="found 0 runs called 'cccc'"):
        find(tmp_path, "cccc")


def test_the_table_names_roles_messages_and_medians_and_says_where_the_results_are(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    with record:
        record.node(NodeSummary("x86", "x86_64", "tcg", "no /dev/kvm", 4.9))
        record.point_finished(plan.points[0], result(plan))
    text = render(record.summary.as_json())
    header, row = (text.splitlines()[index].split() for index in (0, 2))
    assert header[:8] == ["x86", "arm", "array", "iter", "result", "data", "vote", "total"]
    assert row == ["writer", "reader", "256KiB", "16", "verified", "3", "7", "10", "20", "-", "2.50"]
    assert "x86: x86_64, ready in 4.9 s, tcg (no /dev/kvm)" in text
    assert f"results: {record.directory.path}" in text
    assert "next: " in text


def test_what_else_the_matrix_varies_has_columns_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    matrix = "matrix: {testbed.nodes.arm.arch: [x86_64, aarch64], coherency.notify: [poll], workload.array: [4KiB]}\n"
    path.write_text(GOOD + matrix)
    plan = load(path)
    record = record_of(plan, tmp_path)
    with record:
        for point, arch in zip(plan.points, ("x86_64", "aarch64"), strict=True):
            record.node(NodeSummary("arm", arch, "tcg", "no /dev/kvm", 4.9))
            roles = {"x86": ["writer"], "arm": ["reader"]}
            record.point_finished(point, summed(point, roles, reports()))
    lines = render(record.summary.as_json()).splitlines()
    assert lines[0].split()[:5] == ["arm.arch", "notify", "x86", "arm", "array"]
    assert [line.split()[:3] for line in lines[2:4]] == [["x86_64", "poll", "writer"], ["aarch64", "poll", "writer"]]
    assert [node.arch for node in record.summary.nodes] == ["x86_64", "aarch64"]


def test_on_a_narrow_terminal_the_table_is_narrow(plan: Plan, tmp_path: Path) -> None:
    record = record_of(plan, tmp_path)
    with record:
        record.point_finished(plan.points[0], result(plan))
    header, row = (line.split() for line in render(record.summary.as_json(), width=60).splitlines()[:2])
    assert header[:5] == ["x86,arm", "array", "iter", "result", "data"]
    assert row == ["W,R", "256KiB", "16", "verified", "3", "7", "10", "20", "-", "2.50"]
