"""Protocols, ways of waiting, runs: whatever else varies, side by side."""

from collections.abc import Callable, Sequence
from math import log10
from typing import Any

from orchestrator.report.chart import Chart, Panel, Series, Table
from orchestrator.report.groups import Measured, Spread, by, title

_FIGURES: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "messages": lambda result: result.get("messages_total"),
    "duration, s": lambda result: result["duration_s"],
    "remote read, median µs": lambda result: result.get("latency_us", {}).get("remote_read", {}).get("median"),
    "remote write, median µs": lambda result: result.get("latency_us", {}).get("remote_write", {}).get("median"),
}


def settings(points: Sequence[Measured]) -> Chart | None:
    """For each figure a panel for every sharing and size, a series for each setting; None where there is only one."""
    names = list(dict.fromkeys(point.setting for point in points))
    if len(names) < 2:
        return None
    choices = {figure: _panels(points, figure, read) for figure, read in _FIGURES.items()}
    text = (
        "The same points under every setting: medians over repetitions, with whiskers from the smallest to the largest."
    )
    rows = [
        (setting, sharing, pages, iterations, *(spread.shown if spread else "" for spread in _spreads(own)))
        for (setting, sharing, pages, iterations), own in by(
            points, "setting", "sharing", "pages", "iterations"
        ).items()
    ]
    head = ("setting", "sharing", "pages", "iterations", *_FIGURES)
    series = [Series(name, style) for style, name in enumerate(names)]
    kept = {figure: panels for figure, panels in choices.items() if panels}
    return Chart("settings", "Settings compared", text, kept, "figure", series, Table(head, rows).trimmed())


def _panels(points: Sequence[Measured], figure: str, read: Callable[[dict[str, Any]], float | None]) -> list[Panel]:
    panels = []
    for (sharing, pages), group in by(points, "sharing", "pages").items():
        steps = sorted({point.iterations for point in group})
        traces = []
        for (setting,), own in by(group, "setting").items():
            found = {key[0]: _spread(each, read) for key, each in sorted(by(own, "iterations").items())}
            spreads = {step: spread for step, spread in found.items() if spread is not None and spread.median > 0}
            if spreads:
                traces.append(_trace(setting, spreads, lines=len(steps) > 1))
        if not traces:
            continue
        layout: dict[str, Any] = {"yaxis": {"title": figure, "type": "log" if len(steps) > 1 else "linear"}}
        if len(steps) > 1:
            most = max(max(trace["y"]) for trace in traces)
            least = min(min(trace["y"]) for trace in traces)
            layout["yaxis"]["range"] = [log10(least / 1.5), log10(most * 1.5)]
            layout["xaxis"] = {
                "type": "log", "title": "iterations", "tickvals": steps, "ticktext": [str(step) for step in steps],
            }  # fmt: skip
        else:
            layout |= {"barmode": "group", "xaxis": {"type": "category", "title": "iterations"}}
        panels.append(Panel(title(sharing, pages), traces, layout))
    return panels


def _trace(setting: str, spreads: dict[int, Spread], *, lines: bool) -> dict[str, Any]:
    kind = {"type": "scatter", "mode": "lines+markers"} if lines else {"type": "bar"}
    return kind | {
        "series": setting,
        "x": list(spreads) if lines else [str(step) for step in spreads],
        "y": [spread.median for spread in spreads.values()],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [spread.whiskers[0] for spread in spreads.values()],
            "arrayminus": [spread.whiskers[1] for spread in spreads.values()],
        },
        "hovertemplate": f"{setting}: %{{y:,.4~g}} at %{{x}} iterations<extra></extra>",
    }


def _spread(points: Sequence[Measured], read: Callable[[dict[str, Any]], float | None]) -> Spread | None:
    values = [value for point in points if (value := read(point.result)) is not None]
    return Spread.of(values) if values else None


def _spreads(points: Sequence[Measured]) -> list[Spread | None]:
    return [_spread(points, read) for read in _FIGURES.values()]
