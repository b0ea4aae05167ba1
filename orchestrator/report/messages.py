"""Messages by kind against iterations: the figures that the Popcorn poster is about."""

from collections.abc import Sequence
from math import log10
from typing import Any

from orchestrator.report.chart import Chart, Panel, Series, Table, number
from orchestrator.report.groups import Measured, Spread, by, title
from orchestrator.words import counted

TOTAL = "all messages"
LEAST = 0.7
"""Where the axes begin: a whisker that comes down to it means none."""


def messages(points: Sequence[Measured]) -> Chart | None:
    """A panel for every sharing and size; of points whose iterations do not vary, bars."""
    points = [point for point in points if point.result.get("messages")]
    if not points:
        return None
    names = sorted({name for point in points for name in point.result["messages"]})
    series = [Series(name, style) for style, name in enumerate([TOTAL, *names])]
    varied = len({point.iterations for point in points}) > 1
    panels = _lines if varied else _bars
    choices = {
        setting or "all": [panel for group in by(own, "pages").values() for panel in panels(group, names)]
        for (setting,), own in by(points, "setting").items()
    }
    text = (
        "Messages of a point, by name, against iterations; both axes are logarithmic: where a line is level, another "
        "iteration costs nothing, where it rises with the iterations, each costs the same. "
        if varied
        else "Messages of a point, by name. "
    )
    return Chart(
        "messages",
        "Messages by kind",
        text + "Medians over repetitions, with whiskers from the smallest to the largest.",
        choices,
        "setting",
        series,
        _table(points, names),
    )


def _lines(group: Sequence[Measured], names: Sequence[str]) -> list[Panel]:
    panels = []
    for (sharing, pages), own in by(group, "sharing", "pages").items():
        steps = {key[0]: each for key, each in sorted(by(own, "iterations").items())}
        found = {name: {step: _spread(each, name) for step, each in steps.items()} for name in [TOTAL, *names]}
        # On a logarithmic axis there is no zero.
        drawn = {name: {step: each for step, each in own.items() if each.median} for name, own in found.items()}
        traces = [_line(name, spreads) for name, spreads in drawn.items() if spreads]
        most = max(spread.high for spread in found[TOTAL].values())
        layout = {
            "xaxis": {"type": "log", "title": "iterations", "tickvals": list(steps), "ticktext": list(map(str, steps))},
            "yaxis": {"type": "log", "title": "messages", "range": [log10(LEAST), log10(2 * most)], **_ticks(most)},
        }
        panels.append(Panel(title(sharing, pages), traces, layout))
    return panels


def _ticks(most: float) -> dict[str, Any]:
    """Powers of ten, and 2 and 5 between them where there are few."""
    decades = range(int(log10(2 * most)) + 1)
    values = [step * 10**decade for decade in decades for step in ((1, 2, 5) if len(decades) < 3 else (1,))]
    return {"tickvals": values, "ticktext": [f"{value:,}" for value in values]}


def _line(name: str, spreads: dict[int, Spread]) -> dict[str, Any]:
    medians = [spread.median for spread in spreads.values()]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "series": name,
        "x": list(spreads),
        "y": medians,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [spread.high - spread.median for spread in spreads.values()],
            "arrayminus": [spread.median - max(LEAST, spread.low) for spread in spreads.values()],
        },
        "hovertemplate": f"{name}: %{{y:,}} at %{{x}} iterations<extra></extra>",
    }


def _bars(group: Sequence[Measured], names: Sequence[str]) -> list[Panel]:
    sharings = by(group, "sharing")
    traces = []
    for name in [TOTAL, *names]:
        spreads = [_spread(own, name) for own in sharings.values()]
        traces.append(
            {
                "type": "bar",
                "series": name,
                "x": [key[0] for key in sharings],
                "y": [spread.median for spread in spreads],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [spread.whiskers[0] for spread in spreads],
                    "arrayminus": [spread.whiskers[1] for spread in spreads],
                },
                "hovertemplate": f"{name}: %{{y:,}} in %{{x}}<extra></extra>",
            }
        )
    first = group[0]
    what = f"{counted(first.pages, 'page')}, {counted(first.iterations, 'iteration')}"
    layout = {"barmode": "group", "xaxis": {"title": "sharing", "type": "category"}, "yaxis": {"title": "messages"}}
    return [Panel(what, traces, layout)]


def _spread(points: Sequence[Measured], name: str) -> Spread:
    return Spread.of(
        [point.result["messages_total"] if name == TOTAL else point.result["messages"].get(name, 0) for point in points]
    )


def _table(points: Sequence[Measured], names: Sequence[str]) -> Table:
    rows = []
    for (setting, sharing, pages, iterations), own in by(points, "setting", "sharing", "pages", "iterations").items():
        total = _spread(own, TOTAL)
        kinds = [number(_spread(own, name).median) for name in names]
        each = number(total.median / pages / iterations) if pages and iterations else "–"
        spread = total.shown
        rows.append((setting, sharing, pages, iterations, total.count, spread, each, *kinds))
    head = ("setting", "sharing", "pages", "iterations", "repetitions", "all messages", "a page and iteration", *names)
    return Table(head, rows).trimmed()
