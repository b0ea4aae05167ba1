"""What programs of the user's took and reported: they have no sharing that charts could be made by."""

from collections.abc import Sequence

from orchestrator.report.chart import Chart, Panel, Series, Table
from orchestrator.report.groups import Measured, Spread, by

DURATION = "duration, s"
_ONLY = "the only setting"


def reported(points: Sequence[Measured]) -> Chart | None:
    """A panel for the duration and for every figure that a program reported, a series for each setting; None without
    programs."""
    own = [point for point in points if point.point.workload.get("kind") != "shared-array"]
    names = sorted({name for point in own for name in point.result.get("figures", ())})
    if not own:
        return None
    panels, rows = [], []
    for name in [DURATION, *names]:
        values = {
            setting or _ONLY: [value for point in group if (value := _value(point, name)) is not None]
            for (setting,), group in by(own, "setting").items()
        }
        spreads = {setting: Spread.of(each) for setting, each in values.items() if each}
        panels.append(_panel(name, spreads))
        rows += [(name, setting, spread.count, spread.shown) for setting, spread in spreads.items()]
    text = (
        "How long programs took, and the numbers that they reported; of several threads that report one, the largest. "
        "Medians over repetitions, with whiskers from the smallest to the largest."
    )
    series = [Series(setting, style) for style, setting in enumerate(dict.fromkeys(row[1] for row in rows))]
    table = Table(("figure", "setting", "repetitions", "median"), rows)
    return Chart("reported", "What programs reported", text, {"all": panels}, "", series, table)


def _value(point: Measured, name: str) -> float | None:
    value: float | None = point.result["duration_s"] if name == DURATION else point.result["figures"].get(name)
    return value


def _panel(name: str, spreads: dict[str, Spread]) -> Panel:
    traces = [
        {
            "type": "bar",
            "series": setting,
            "x": [name],
            "y": [spread.median],
            "error_y": {
                "type": "data", "symmetric": False, "array": [spread.whiskers[0]], "arrayminus": [spread.whiskers[1]],
            },
            "hovertemplate": f"{setting}: %{{y:,.4~g}}<extra></extra>",
        }
        for setting, spread in spreads.items()
    ]  # fmt: skip
    layout = {"barmode": "group", "xaxis": {"type": "category"}, "yaxis": {"rangemode": "tozero"}}
    return Panel(name, traces, layout)
