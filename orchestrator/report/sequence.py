"""Faults and messages of all kernels on one clock: what waited for what."""

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.experiments.parameters import describe
from orchestrator.report.chart import Chart, Panel, Series, Table, number
from orchestrator.report.groups import Measured, by
from orchestrator.results.timeline import KINDS, Fault, Sent, Timeline, timeline

POINTS_MAX = 24
"""Points whose timeline the page holds: the first of every sharing, size and setting."""
FAULTS_MAX = 600
"""Faults and messages, each, that a timeline shows: the last ones."""
MESSAGES_MAX = 600
LEGIBLE = 40
"""Faults that are told apart without zooming."""
_WORDS = {"local_fault": "local fault", "remote_read": "remote read", "remote_write": "remote write"}
_BARRIER = "barrier"


def sequence(points: Sequence[Measured]) -> Chart | None:
    """A timeline for each point that can be chosen."""
    choices: dict[str, list[Panel]] = {}
    rows = []
    names: set[str] = set()
    several = len({point.run.run_id for point in points}) > 1
    for group in by(points, "sharing", "pages", "setting").values():
        if len(choices) == POINTS_MAX:
            break
        shown = max(group, key=lambda each: (each.iterations <= 4, each.iterations, -each.point.repetition))
        told = timeline(shown.point, shown.run.directory)
        if told is None or not told.faults:
            continue
        what = describe(shown.point.parameters)
        name = f"{shown.point.index + 1}: {what}" + (f" ({shown.run.run_id})" if several else "")
        choices[name] = [_panel(told)]
        names |= {series["series"] for series in choices[name][0].traces}
        slowest = max(told.faults, key=lambda fault: fault.duration_s)
        longest = f"{slowest.node}, page {slowest.page}: {number(slowest.duration_s * 1e6)} µs"
        rows.append(
            (shown.point.index + 1, what, len(told.faults), len(told.messages), longest, number(told.error_s * 1e6))
        )
    if not choices:
        return None
    known = [_WORDS[kind] for kind in KINDS]
    order = [*known, *sorted(names - {*known, _BARRIER}), _BARRIER]
    text = (
        "Each bar is a thread that waits for a page, each slanted line a message from its sending to its receipt, each "
        "dotted line a barrier. The clocks of the kernels are brought together by the barriers. The last faults, "
        f"{FAULTS_MAX} at most; messages when the experiment was traced (coherency.trace). Drag to zoom, double-click "
        "to see all again."
    )
    head = ("point", "what", "faults", "messages", "longest wait", "clocks agree within µs")
    series = [Series(name, style) for style, name in enumerate(each for each in order if each in names)]
    table = Table(head, rows)
    return Chart("timeline", "Timeline", text, choices, "point", series, table, wide=True, chosen=_telling(rows))


def _telling(rows: list[tuple[Any, ...]]) -> int:
    """The point to show first: with as many faults as can still be told apart, and with messages if there are any."""
    return max(range(len(rows)), key=lambda row: (rows[row][3] > 0, rows[row][2] <= LEGIBLE, rows[row][2]))


def _panel(told: Timeline) -> Panel:
    rows = {node: -place for place, node in enumerate(told.nodes)}
    faults = told.faults[-FAULTS_MAX:]
    begin_s = faults[0].begin_s
    messages = [message for message in told.messages if message.sent_s >= begin_s][-MESSAGES_MAX:]
    end_s = max(fault.begin_s + fault.duration_s for fault in faults)
    traces = [_waits(kind, [fault for fault in faults if fault.kind == kind], rows) for kind in KINDS]
    for name in sorted({message.name for message in messages}):
        traces += [_arrows(name, [message for message in messages if message.name == name], rows)]
    traces.append(_barriers([at_s for _, at_s in told.barriers if begin_s <= at_s <= end_s], len(rows)))
    layout = {
        "xaxis": {"title": "ms since the first barrier"},
        "yaxis": {
            "tickvals": list(rows.values()), "ticktext": list(rows), "range": [0.6 - len(rows), 0.4],
            "fixedrange": True,
        },
        "height": 140 + 110 * len(rows),
    }  # fmt: skip
    return Panel("", [trace for trace in traces if trace["x"]], layout)


def _waits(kind: str, faults: Iterable[Fault], rows: dict[str, int]) -> dict[str, Any]:
    """Bars as thick lines with gaps between."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for fault in faults:
        begin_ms, length_ms = fault.begin_s * 1e3, fault.duration_s * 1e3
        x += [_ms(begin_ms), _ms(begin_ms + length_ms), None]
        y += [rows[fault.node] - 0.08 * fault.thread] * 2 + [None]
        said = f"{fault.node}, thread {fault.thread}, page {fault.page}: {_WORDS[kind]}, {number(length_ms * 1e3)} µs"
        text += [said, said, ""]
    return {
        "type": "scatter", "mode": "lines", "series": _WORDS[kind], "x": x, "y": y, "text": text, "bar": True,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _arrows(name: str, messages: Iterable[Sent], rows: dict[str, int]) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for message in messages:
        down = 0.06 if rows[message.sender] > rows[message.receiver] else -0.06
        x += [_ms(message.sent_s * 1e3), _ms(message.received_s * 1e3), None]
        y += [rows[message.sender] - down, rows[message.receiver] + down, None]
        took = number((message.received_s - message.sent_s) * 1e6)
        about = name if message.page is None else f"{name}, page {message.page}"
        said = f"{about}, {message.sender} to {message.receiver}: {took} µs"
        text += [said, said, ""]
    return {
        "type": "scatter", "mode": "lines", "series": name, "x": x, "y": y, "text": text,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _barriers(times_s: list[float], rows: int) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for at_s in times_s:
        x += [_ms(at_s * 1e3)] * 2 + [None]
        y += [0.35, 0.65 - rows, None]
    return {"type": "scatter", "mode": "lines", "series": _BARRIER, "x": x, "y": y, "dotted": True, "hoverinfo": "skip"}


def _ms(value: float) -> float:
    return round(value, 4)
