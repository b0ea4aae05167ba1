"""Where each thread of a process was and when it moved, on one clock, and what faults it had at each place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.experiments.parameters import describe
from orchestrator.report.chart import Chart, Panel, Series, Table, number
from orchestrator.report.groups import Measured, by
from orchestrator.results.clocks import beside_first
from orchestrator.results.past_run import PastPoint

POINTS_MAX = 24
"""Points whose threads the page shows: the first of every setting."""
STAYS_MAX = 2000
"""Stays of a point that are drawn: the last ones."""
ROWS_MAX = 200
"""Stays of a point in the table: the first ones."""


@dataclass(frozen=True)
class Stay:
    """A thread was on a node."""

    process: int
    """0 is the first one; others were forked."""
    thread: int
    node: str
    begin_s: float
    end_s: float
    remote: int
    """Faults that needed messages."""
    local: int
    waited_s: float
    pages_from: dict[str, int]
    """Pages that other nodes sent for its faults, by their names."""

    @property
    def name(self) -> str:
        """Of the thread, among those of all processes."""
        return f"{self.process}:{self.thread}" if self.process else str(self.thread)

    @property
    def remote_per_s(self) -> float:
        return self.remote / max(self.end_s - self.begin_s, 1e-9)

    @property
    def sent(self) -> str:
        """Who sent pages, in words."""
        return ", ".join(f"{count:,} from {node}" for node, count in self.pages_from.items())


def stays(points: Sequence[Measured]) -> Chart | None:
    """A chart of threads and time for each point whose agents told of stays."""
    choices: dict[str, list[Panel]] = {}
    rows: list[tuple[Any, ...]] = []
    nodes: dict[str, None] = {}
    several = len({point.run.run_id for point in points}) > 1
    for group in by(points, "sharing", "pages", "setting").values():
        if len(choices) == POINTS_MAX:
            break
        point = group[0].point
        found = stays_of(point)
        if not found:
            continue
        what = describe(point.parameters)
        name = f"{point.index + 1}: {what}" + (f" ({group[0].run.run_id})" if several else "")
        choices[name] = [_panel(found[-STAYS_MAX:])]
        nodes |= dict.fromkeys(point.answers)
        ordered = sorted(found, key=lambda stay: (stay.process, stay.thread, stay.begin_s))
        rows += [(point.index + 1, what, *_row(stay)) for stay in ordered[:ROWS_MAX]]
    if not choices:
        return None
    text = (
        "Each bar is a stay of a thread on a node; where the colour changes, it moved. The faults of each stay stand "
        "under the pointer and in the table, one stay of a thread below the other: so what a move did to them is seen "
        "there. Pages are those that other nodes sent for these faults. Threads of a forked process have its number in "
        "front of theirs."
    )
    head = (
        "point", "what", "thread", "node", "from ms", "for ms", "local faults", "remote faults", "a second",
        "waited ms", "pages",
    )  # fmt: skip
    series = [Series(node, style) for style, node in enumerate(nodes)]
    chosen = max(range(len(choices)), key=lambda place: len(list(choices.values())[place][0].traces))
    return Chart(
        "stays", "Where threads were", text, choices, "point", series, Table(head, rows).trimmed(), wide=True,
        chosen=chosen,
    )  # fmt: skip


def stays_of(point: PastPoint) -> list[Stay]:
    """In order of their beginnings; times are since the first node began. Empty for workloads without such threads."""
    answers = {node: answer for node, answer in point.answers.items() if "stays" in answer}
    dead = {kernel for answer in answers.values() for kernel in answer.get("dead_kernels", ())}
    kernels = (kernel for kernel in range(len(answers) + len(dead)) if kernel not in dead)
    names = {str(kernel): node for kernel, node in zip(kernels, answers, strict=True)}
    clocks = beside_first([answer["timeline"] for answer in answers.values()])
    found = []
    for (node, answer), clock in zip(answers.items(), clocks, strict=False):
        for told in answer["stays"]:
            faults = told["faults"]
            found.append(
                Stay(
                    told.get("process", 0),
                    told["thread"],
                    node,
                    told["begin_ns"] / 1e9 + clock.offset_s,
                    told["end_ns"] / 1e9 + clock.offset_s,
                    faults["remote_read"] + faults["remote_write"],
                    faults["local_fault"],
                    told["waited_ns"] / 1e9,
                    {names.get(kernel, f"kernel {kernel}"): count for kernel, count in told["pages_from"].items()},
                )
            )
    return sorted(found, key=lambda stay: stay.begin_s)


def _row(stay: Stay) -> tuple[Any, ...]:
    return (
        stay.name, stay.node, number(stay.begin_s * 1e3), number((stay.end_s - stay.begin_s) * 1e3), stay.local,
        stay.remote, number(stay.remote_per_s), number(stay.waited_s * 1e3), stay.sent,
    )  # fmt: skip


def _panel(found: Sequence[Stay]) -> Panel:
    names = {(stay.process, stay.thread): stay.name for stay in sorted(found, key=lambda s: (s.process, s.thread))}
    places = {name: place for place, name in enumerate(names.values())}
    traces = [
        _bars(node, [stay for stay in found if stay.node == node], places)
        for node in dict.fromkeys(s.node for s in found)
    ]
    layout = {
        "xaxis": {"title": "ms since the process began"},
        "yaxis": {
            "title": "thread", "range": [len(places) - 0.4, -0.6], "fixedrange": True,
            **({"tickvals": [*places.values()], "ticktext": [*places]} if len(places) <= 32 else {}),
        },
        "height": 130 + min(26 * len(places), 900),
    }  # fmt: skip
    return Panel("", traces, layout)


def _bars(node: str, found: Sequence[Stay], places: dict[str, int]) -> dict[str, Any]:
    """Thick lines with gaps between."""
    x: list[float | None] = []
    y: list[int | None] = []
    text: list[str] = []
    for stay in found:
        x += [round(stay.begin_s * 1e3, 4), round(stay.end_s * 1e3, 4), None]
        y += [places[stay.name], places[stay.name], None]
        pages = f"; pages: {stay.sent}" if stay.sent else ""
        length = number((stay.end_s - stay.begin_s) * 1e3)
        said = (
            f"thread {stay.name} on {node} for {length} ms: {stay.remote:,} remote faults "
            f"({number(stay.remote_per_s)} a second), {stay.local:,} local{pages}"
        )
        text += [said, said, ""]
    return {
        "type": "scatter", "mode": "lines", "series": node, "x": x, "y": y, "text": text, "bar": True,
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
