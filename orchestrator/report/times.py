"""Where the time of a run went: booting each machine, and each stage."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from orchestrator.report.chart import Chart, Panel, Series, Table, number
from orchestrator.results.past_run import PastRun


def times(runs: Sequence[PastRun]) -> Chart | None:
    """Two panels: the stages of each run, and how starting each machine divides."""
    series: dict[str, None] = {}
    stages, boots, rows = [], [], []
    for run in runs:
        label = run.run_id
        for name, duration_s in run.summary.get("stages_s", {}).items():
            if duration_s:
                series.setdefault(name)
                stages.append(_bar(name, label, duration_s))
                rows.append((label, "stage", name, number(duration_s)))
        results = [point.result for point in run.points if point.result]
        if overheads := sorted(result["overhead_s"] for result in results if "overhead_s" in result):
            rows.append((label, "overhead of a point", "median", number(median(overheads))))
            rows.append((label, "overhead of a point", "largest", number(overheads[-1])))
        for node in run.summary.get("nodes", ()):
            before_s = _restored_s(node)
            reached = sorted(node.get("boot_stages_s", {}).items(), key=lambda stage: stage[1])
            for name, at_s in reached:
                series.setdefault(f"boot: {name}")
                whose = node["name"] if len(runs) == 1 else f"{node['name']}, {label[-4:]}"
                boots.append(_bar(f"boot: {name}", whose, max(0.0, at_s - before_s)))
                rows.append((label, f"boot of {node['name']}", name, number(at_s - before_s)))
                before_s = at_s
    if not stages:
        return None
    panels = [Panel("Stages of the run", stages, _layout(len(runs)))]
    if boots:
        panels.append(Panel("Booting", boots, _layout(len({bar["y"][0] for bar in boots}))))
    text = (
        "Where the time went, in seconds: the stages of the run, and how long each machine took from one stage of "
        "booting to the next."
    )
    table = Table(("run", "of", "stage", "s"), rows)
    return Chart(
        "times", "Boot and stage times", text, {"all": panels}, "",
        [Series(name, style) for style, name in enumerate(series)], table, wide=True,
    )  # fmt: skip


def _restored_s(node: dict[str, Any]) -> float:
    """When it was started, by its own clock: that of a guest that went on from a saved state went on, too."""
    stages = node.get("boot_stages_s", {})
    return max(0.0, max(stages.values()) - node["boot_s"]) if node.get("warm") and stages else 0.0


def _bar(name: str, label: str, duration_s: float) -> dict[str, Any]:
    hover = f"{name}: %{{x:.3f}} s<extra>{label}</extra>"
    return {
        "type": "bar", "orientation": "h", "series": name, "x": [round(duration_s, 4)], "y": [label],
        "hovertemplate": hover,
    }  # fmt: skip


def _layout(bars: int) -> dict[str, Any]:
    return {
        "barmode": "stack",
        "xaxis": {"title": "s"},
        "yaxis": {"type": "category", "automargin": True, "autorange": "reversed"},
        "height": 110 + 46 * bars,
    }
