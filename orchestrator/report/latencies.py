"""How long accesses took that had to wait for a page: the whole distribution, not only its middle."""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.experiments.expectation import LATENCIES
from orchestrator.report.chart import Chart, Panel, Series, Table, number
from orchestrator.report.groups import Measured, by

STEPS = 200
"""Points of a distribution that are drawn."""
_LAYOUT = {
    "xaxis": {"type": "log", "title": "µs", "dtick": 1},
    "yaxis": {"title": "share of accesses", "tickformat": ".0%", "range": [0, 1.02]},
}
_WORDS = {"remote_read": "remote read", "remote_write": "remote write", "local_fault": "local fault"}


def latencies(points: Sequence[Measured]) -> Chart | None:
    """A panel for every sharing, with a line for every node and kind of access."""
    nodes = list(dict.fromkeys(node for point in points for node in point.point.answers))
    names = {(node, kind): f"{node}, {_WORDS[kind]}" for node in nodes for kind in LATENCIES}
    choices: dict[str, list[Panel]] = {}
    rows = []
    used: set[str] = set()
    for (setting,), own in by(points, "setting").items():
        panels = []
        for (sharing,), group in by(own, "sharing").items():
            samples = {each: sorted(_samples(group, *each)) for each in names}
            traces = [_line(names[each], found) for each, found in samples.items() if found]
            if traces:
                panels.append(Panel(sharing, traces, _LAYOUT))
            for (node, kind), found in samples.items():
                if found:
                    used.add(names[node, kind])
                    marks = [number(found[-(-len(found) * share // 100) - 1]) for share in (50, 90, 99, 100)]
                    rows.append((setting, sharing, node, _WORDS[kind], len(found), *marks))
        if panels:
            choices[setting or "all"] = panels
    if not choices:
        return None
    head = ("setting", "sharing", "node", "access", "samples", "median µs", "90 % µs", "99 % µs", "longest µs")
    text = (
        "The share of accesses that took no longer than a time, as the application saw them: of those that waited for "
        "exactly one page fault. Steep is steady; a long tail to the right is rare and slow."
    )
    series = [Series(name, style) for style, name in enumerate(name for name in names.values() if name in used)]
    return Chart("latencies", "Latency of page faults", text, choices, "setting", series, Table(head, rows).trimmed())


def _line(name: str, samples: Sequence[float]) -> dict[str, Any]:
    """The share of samples that are no larger than each."""
    shown = _spaced(len(samples))
    return {
        "type": "scatter",
        "mode": "lines",
        "series": name,
        "x": [samples[index] for index in shown],
        "y": [round((index + 1) / len(samples), 5) for index in shown],
        "hovertemplate": f"{name}: %{{y:.1%}} within %{{x:,.1f}} µs<extra></extra>",
    }


def _samples(points: Sequence[Measured], node: str, kind: str) -> Iterator[float]:
    for each in points:
        yield from each.point.answers.get(node, {}).get("latency_us", {}).get(kind, ())


def _spaced(count: int) -> list[int]:
    """Indices from the first of `count` to the last, at most STEPS of them, evenly spaced."""
    if count <= STEPS:
        return list(range(count))
    return [round(step * (count - 1) / (STEPS - 1)) for step in range(STEPS)]
