"""Where threads were, from agents' answers to the figure of a report."""

from pathlib import Path
from typing import Any

from orchestrator.report.groups import Measured
from orchestrator.report.stays import stays, stays_of
from orchestrator.results.past_run import PastPoint, PastRun

RESULT = {"roles": {}, "pages": 4, "iterations": 1}


def stay(thread: int, begin_ms: int, end_ms: int, remote: int, pages_from: dict[str, int]) -> dict[str, Any]:
    faults = {"local_fault": 1, "remote_read": remote, "remote_write": 0}
    times = {"begin_ns": begin_ms * 10**6, "end_ns": end_ms * 10**6, "waited_ns": remote * 10**6}
    return {"thread": thread, **times, "faults": faults, "pages_from": pages_from}


def answer(kernel: int, *own: dict[str, Any], dead: tuple[int, ...] = ()) -> dict[str, Any]:
    """Of a kernel whose clock shows 5 ms more than that of kernel 0 if it is another; messages take 1 ms."""
    late_ms = 5 if kernel else 0
    heard_ms = 1 + 5 if kernel else 1
    timeline = {
        "announced_ns": [[0, late_ms * 10**6]],
        "heard_ns": [[1 - kernel, 0, heard_ms * 10**6]] if kernel < 2 else [],
    }
    return {"timeline": timeline, "stays": list(own), "dead_kernels": list(dead)}


def measured(answers: dict[str, Any]) -> list[Measured]:
    point = PastPoint(0, {}, answers=answers, result=RESULT)
    return [Measured(PastRun(Path(), {"run_id": "r"}, (point,), ()), point, "")]


MOVED = {
    "x86": answer(0, stay(1, 0, 10, 20, {"1": 16, "2": 1}), stay(0, 0, 50, 0, {})),
    "arm": answer(1, stay(1, 16, 25, 3, {"0": 3})),
}


def test_threads_are_bars_on_one_clock_coloured_by_node() -> None:
    chart = stays(measured(MOVED))
    assert chart is not None
    (panels,) = chart.choices.values()
    drawn = {trace["series"]: trace for trace in panels[0].traces}
    assert [series.name for series in chart.series] == ["x86", "arm"]
    assert (drawn["x86"]["x"], drawn["x86"]["y"]) == ([0, 10, None, 0, 50, None], [1, 1, None, 0, 0, None])
    assert (drawn["arm"]["x"], drawn["arm"]["y"]) == ([11, 20, None], [1, 1, None])
    assert "thread 1 on x86 for 10 ms: 20 remote faults (2,000 a second), 1 local" in drawn["x86"]["text"][0]


def test_the_table_has_a_threads_stays_below_each_other_with_their_faults() -> None:
    chart = stays(measured(MOVED))
    assert chart is not None
    assert chart.table is not None
    at = [chart.table.head.index(name) for name in ("thread", "node", "from ms", "for ms", "remote faults", "pages")]
    assert [tuple(row[place] for place in at) for row in chart.table.rows] == [
        ("0", "x86", "0", "50", 0, ""),
        ("1", "x86", "0", "10", 20, "16 from arm, 1 from kernel 2"),
        ("1", "arm", "11", "9", 3, "3 from x86"),
    ]


def test_threads_of_processes_that_were_forked_are_told_apart() -> None:
    forked = [stay(0, 20, 30, 0, {}) | {"process": 4}, stay(0, 0, 50, 0, {}) | {"process": 0}]
    chart = stays(measured({"x86": answer(0, *forked)}))
    assert chart is not None
    assert chart.table is not None
    assert [row[chart.table.head.index("thread")] for row in chart.table.rows] == ["0", "4:0"]
    (panel,) = next(iter(chart.choices.values()))
    assert panel.layout["yaxis"]["ticktext"] == ["0", "4:0"]
    assert panel.traces[0]["y"] == [0, 0, None, 1, 1, None]


def test_kernels_that_died_do_not_shift_the_names_of_the_others() -> None:
    answers = {
        "x86": answer(0, stay(1, 0, 10, 20, {"1": 2, "2": 7}), dead=(1,)),
        "third": answer(2, stay(2, 0, 10, 0, {}), dead=(1,)),
    }
    assert stays_of(PastPoint(0, {}, answers=answers))[0].pages_from == {"kernel 1": 2, "third": 7}


def test_other_workloads_have_no_such_figure() -> None:
    assert stays([]) is None
    assert stays(measured({"x86": {"timeline": MOVED["x86"]["timeline"]}})) is None
