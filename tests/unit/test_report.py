"""What a report says, before a browser draws it. What is shown is looked at in tests/local/test_report_shown.py."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from images.errors import HostError
from orchestrator.report.chart import number
from orchestrator.report.groups import Spread, measured
from orchestrator.report.page import render, write
from orchestrator.report.reported import reported
from orchestrator.report.times import times
from orchestrator.results.past_run import PastPoint, read_run
from tests.unit.past_runs import MATRIX, past_run
from tests.unit.test_experiment_errors import GOOD


def page_of(*runs: Path) -> str:
    return render([read_run(run) for run in runs])


def text_of(page: str) -> str:
    """What a person reads, without the scripts."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)).split())


def charts_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert found
    return {chart["key"]: chart for chart in json.loads(found[1])}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return past_run(tmp_path, tmp_path / "results")


def test_the_outcome_stands_before_every_figure(run: Path) -> None:
    text = text_of(page_of(run))
    assert text.index("Passed") < text.index("8 of 8 passed") < text.index("Messages by kind")


def test_every_figure_has_what_the_run_measured(run: Path) -> None:
    charts = charts_of(page_of(run))
    assert list(charts) == ["messages", "settings", "latencies", "pages", "timeline", "times"]
    assert [choice["name"] for choice in charts["settings"]["choices"]][:2] == ["messages", "duration, s"]
    (compared,) = charts["settings"]["choices"][0]["panels"]
    totals = [(trace["series"], trace["y"]) for trace in compared["traces"]]
    assert totals == [("poll", [10, 18]), ("adaptive", [10, 18])]
    messages = charts["messages"]
    assert [choice["name"] for choice in messages["choices"]] == ["poll", "adaptive"]
    (panel,) = messages["choices"][0]["panels"]
    assert panel["title"] == "R,W, 64 pages"
    drawn = {trace["series"]: trace for trace in panel["traces"]}
    assert (drawn["all messages"]["x"], drawn["all messages"]["y"]) == ([1, 2], [10, 18])
    assert drawn["PAGE_DATA"]["y"] == [4, 8]
    (shown,) = charts["pages"]["choices"][0]["panels"]
    assert shown["traces"][0]["y"] == ["x86 local", "x86 read", "x86 write", "arm local", "arm read", "arm write"]
    # Page 0: four remote reads in each of four points with this setting, on each node.
    assert shown["traces"][0]["z"][1] == [16, 0, 0, 0]
    assert [panel["title"] for panel in charts["times"]["choices"][0]["panels"]] == ["Stages of the run", "Booting"]
    waits = charts["timeline"]["choices"][0]["panels"][0]["traces"][0]
    assert waits["x"][:2] == [0.1, 0.13]


def test_latencies_are_shares_of_all_samples_that_end_at_one(run: Path) -> None:
    (panel,) = charts_of(page_of(run))["latencies"]["choices"][0]["panels"]
    for trace in panel["traces"]:
        assert trace["x"] == sorted(trace["x"])
        assert trace["y"] == sorted(trace["y"])
        assert trace["y"][-1] == 1.0


def test_what_failed_is_told_on_top(tmp_path: Path) -> None:
    expected = GOOD + MATRIX + "expect: [messages.protocol < 12]\n"
    text = text_of(page_of(past_run(tmp_path, tmp_path / "results", expected)))
    assert text.index("Failed") < text.index("does not hold: messages.protocol &lt; 12") < text.index("Messages by")
    assert "4 of 8 passed" in text


def test_a_run_that_broke_off_says_why_and_nothing_in_it_becomes_markup(tmp_path: Path) -> None:
    error = HostError("</script><script>alert(1)</script> & gone", "look <b>there</b>")
    page = page_of(past_run(tmp_path, tmp_path / "results", error=error))
    assert "<script>alert" not in page
    assert "<b>there" not in page
    text = text_of(page)
    assert "Did not come to its end" in text
    assert "1 of 8 passed" in text


def test_a_run_without_a_point_is_a_page_too(tmp_path: Path) -> None:
    run = past_run(tmp_path, tmp_path / "results")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(summary | {"points": [], "stages_s": {}}))
    (run / "events.jsonl").write_text("")
    assert "nothing to draw" in text_of(page_of(run))


def test_several_runs_stand_side_by_side(tmp_path: Path, run: Path) -> None:
    other = past_run(tmp_path, tmp_path / "results", read_us=90.0)
    page = page_of(run, other)
    assert text_of(page).count("Passed") == 2
    names = [choice["name"] for choice in charts_of(page)["messages"]["choices"]]
    assert names == [f"{each.name}, {notify}" for each in (run, other) for notify in ("poll", "adaptive")]


def test_the_page_needs_nothing_but_itself(run: Path, tmp_path: Path) -> None:
    write([read_run(run)], tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=", page)
    assert "default-src 'none'" in page
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_figures_are_as_long_as_a_person_needs() -> None:
    assert [number(value) for value in (None, 0, 12.0, 1234.56, 0.123456)] == ["–", "0", "12", "1,235", "0.1235"]
    assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10, 4)


def test_the_commands_say_where_the_file_is_and_a_run_that_is_not_there_is_an_input_error(
    tmp_path: Path, run: Path
) -> None:
    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "orchestrator", *words]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    assert command("report").stdout == f"results/{run.name}/report.html\n"
    assert command("report", run.name, run.name).stdout == "results/report.html\n"
    assert command("trace", "last", "-o", "trace.json").stdout == "trace.json\n"
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    missing = command("report", "nothing")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert f"the latest are {run.name}" in missing.stderr


def test_what_programs_reported_has_a_panel_a_figure_and_a_bar_a_setting(run: Path) -> None:
    past = read_run(run)

    def own(point: PastPoint) -> PastPoint:
        assert point.result is not None
        parameters = point.parameters | {"workload.threads": {"x86": ["sorter"] * (1 + point.index // 4)}}
        result = point.result | {"figures": {"keys_per_s": 100.0 + point.index}, "parameters": parameters}
        experiment = point.experiment | {"workload": {"kind": "native"}}
        return replace(point, parameters=parameters, experiment=experiment, result=result)

    assert reported(measured([past])) is None
    points = measured([replace(past, points=tuple(own(point) for point in past.points))])
    chart = reported(points)
    assert chart is not None
    duration, keys = chart.choices["all"]
    assert (duration.title, keys.title) == ("duration, s", "keys_per_s")
    settings = [series.name for series in chart.series]
    assert len(settings) == 4
    assert all("x86=sorter" in setting and ("poll" in setting or "adaptive" in setting) for setting in settings)
    assert [bar["series"] for bar in keys.traces] == settings
    assert [bar["y"] for bar in keys.traces] == [[100.5], [102.5], [104.5], [106.5]]
    assert [bar["error_y"]["array"] for bar in keys.traces] == [[0.5]] * 4
    assert chart.table is not None
    assert ("keys_per_s", settings[0], 2, "100.5 (100–101)") in chart.table.rows


def test_the_tools_own_time_of_points_is_told_beside_the_stages(run: Path) -> None:
    past = read_run(run)
    for took_s, point in enumerate(past.points):
        assert point.result is not None
        point.result["overhead_s"] = float(took_s)
    chart = times([past])
    assert chart is not None
    assert chart.table is not None
    told = {row[2]: row[3] for row in chart.table.rows if row[1] == "overhead of a point"}
    last = len(past.points) - 1
    assert told == {"median": number(last / 2), "largest": number(last)}


def test_a_machine_from_a_saved_state_is_shown_from_its_start_and_not_from_its_first_life(run: Path) -> None:
    past = read_run(run)
    stages = {"identity": 16.0, "network": 16.1, "sshd": 16.5}
    warm = {"name": "x86", "warm": True, "boot_s": 2.0, "boot_stages_s": stages}
    cold = {"name": "arm", "warm": False, "boot_s": 4.0, "boot_stages_s": {"init": 3.0, "sshd": 3.5}}
    chart = times([replace(past, summary=past.summary | {"nodes": [warm, cold]})])
    assert chart is not None
    bars = {(bar["y"][0], bar["series"]): bar["x"][0] for bar in chart.choices["all"][1].traces}
    assert bars == {
        ("x86", "boot: identity"): 1.5,
        ("x86", "boot: network"): 0.1,
        ("x86", "boot: sshd"): 0.4,
        ("arm", "boot: init"): 3.0,
        ("arm", "boot: sshd"): 0.5,
    }
