"""Faults and messages of kernels with clocks of their own, on one: in the timeline and in the trace for Perfetto."""

import json
from pathlib import Path

import pytest

from guest.protocol.messages import Message, MessageName
from orchestrator.results.past_run import PastPoint, PastRun, read_run
from orchestrator.results.perfetto import HOST, trace_events
from orchestrator.results.timeline import timeline
from tests.unit.past_runs import past_run

SKEW_NS = 4_000_000
"""The clock of arm shows as much more since its own beginning, for it began so much earlier."""


def told(begun_ns: int, announced: list[int], heard: list[int], other: int, begin_ns: int) -> dict[str, object]:
    faults = {"begin_ns": [begin_ns], "page": [3], "kind": [1], "duration_ns": [500_000], "thread": [0]}
    return {
        "timeline": {
            "begun_ns": begun_ns,
            "announced_ns": [[number, at_ns] for number, at_ns in enumerate(announced)],
            "heard_ns": [[other, number, at_ns] for number, at_ns in enumerate(heard)],
            "faults": faults,
        }
    }


@pytest.fixture
def point(tmp_path: Path) -> PastPoint:
    """x86 asks at 1.0 ms of its clock, arm gets that 0.1 ms later; its own clock shows 5.1 ms then."""
    x86 = told(10**9, [0, 2_000_000], [100_000, 2_100_000], 1, 1_000_000)
    arm = told(7 * 10**9, [SKEW_NS, SKEW_NS + 2_000_000], [SKEW_NS + 100_000, SKEW_NS + 2_100_000], 0, 5_200_000)
    request, wake = list(Message(MessageName.PAGE_REQUEST, 3)), list(Message(MessageName.FUTEX_WAKE, 64))
    folder = tmp_path / "traces" / "1"
    folder.mkdir(parents=True)
    entries = {
        "x86": [
            [1_000_500.0, "waits.wake", [64, 1], [["Send", 1, wake]]],
            [1_001_000.0, "fault", [3, False], [["Send", 1, request]]],
        ],
        "arm": [[7_004_600.0, "waits.receive", [0, wake], []], [7_005_100.0, "receive", [0, request], []]],
    }
    for node, own in entries.items():
        (folder / f"{node}.jsonl").write_text("\n".join(json.dumps(each) for each in [{"node": node}, *own]))
    return PastPoint(0, started_s=49.0, finished_s=52.0, answers={"x86": x86, "arm": arm},
                     clocks={"x86": {"offset_s": 49.0, "error_s": 0.001}})  # fmt: skip


def test_what_happened_at_once_stands_at_one_time(point: PastPoint, tmp_path: Path) -> None:
    found = timeline(point, tmp_path)
    assert found is not None
    assert found.nodes == ("x86", "arm")
    assert [(fault.node, round(fault.begin_s * 1e3, 6)) for fault in found.faults] == [("x86", 1.0), ("arm", 1.2)]
    woken, message = found.messages
    assert (woken.name, woken.sender) == ("FUTEX_WAKE", "x86")
    assert (message.name, message.page, message.sender, message.receiver) == ("PAGE_REQUEST", 3, "x86", "arm")
    assert (round(message.sent_s * 1e3, 6), round(message.received_s * 1e3, 6)) == (1.0, 1.1)
    assert [(number, round(at_s * 1e3, 6)) for number, at_s in found.barriers] == [(0, 0.0), (1, 2.0)]
    assert round(found.error_s * 1e3, 6) == 0.1
    assert found.begun_s == 50.0


def test_a_point_without_answers_has_no_timeline(tmp_path: Path) -> None:
    assert timeline(PastPoint(0), tmp_path) is None


def test_perfetto_gets_faults_and_messages_on_the_hosts_clock(point: PastPoint, tmp_path: Path) -> None:
    start = {"event": "run_started", "monotonic_s": 48.0}
    told = trace_events(PastRun(tmp_path, {"outcome": "passed"}, (point,), (start,)))["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in told if event["name"] == "process_name"}
    assert names == {HOST: "host", HOST + 1: "x86", HOST + 2: "arm"}
    faults = [event for event in told if event.get("cat") == "fault"]
    # 50.0 s on the host is when the first barrier opened, 2 s after the run's first event.
    assert [(event["pid"], event["ts"], event["dur"]) for event in faults] == [
        (HOST + 1, 2_001_000.0, 500.0), (HOST + 2, 2_001_200.0, 500.0)
    ]  # fmt: skip
    begin, end = ([event for event in told if event["ph"] == phase][-1] for phase in "sf")
    assert begin["id"] == end["id"]
    assert (begin["pid"], end["pid"]) == (HOST + 1, HOST + 2)
    assert round(end["ts"] - begin["ts"], 3) == 100.0
    slices = [event for event in told if event.get("cat") == "message" and event["ph"] == "X"]
    about = [event for event in slices if "page" in event["args"]]
    assert {event["ts"] for event in about} == {round(begin["ts"], 3), round(end["ts"], 3)}
    assert len(slices) == 2 * len(about) == 4  # a wake-up is about no page


def test_a_wrong_host_clock_puts_nothing_outside_its_point(point: PastPoint, tmp_path: Path) -> None:
    point.clocks["x86"]["offset_s"] = 1e6
    start = {"event": "run_started", "monotonic_s": 48.0}
    told = trace_events(PastRun(tmp_path, {"outcome": "passed"}, (point,), (start,)))["traceEvents"]
    assert next(event["ts"] for event in told if event.get("cat") == "fault") == 1_001_000.0


def test_stages_and_points_of_a_run_are_in_its_trace(tmp_path: Path) -> None:
    run = read_run(past_run(tmp_path, tmp_path / "results"))
    told = trace_events(run)["traceEvents"]
    assert [event["name"] for event in told if event.get("cat") == "stage"] == ["run"]
    points = [event for event in told if event.get("cat") == "point"]
    assert len(points) == 8
    assert points[0]["name"] == "point 1: iterations 1, notify poll"
    assert all(event["ts"] >= 0 and event.get("dur", 0) >= 0 for event in points)
