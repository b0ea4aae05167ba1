"""A run's summary for people: one table, then where everything is and what to do next."""

import io
from collections.abc import Iterator
from typing import Any

from orchestrator.sizes import show_size

_SHORT = {
    "PAGE_REQUEST": "request",
    "PAGE_DATA": "data",
    "PAGE_ABSENT": "absent",
    "INVALIDATE": "invalidate",
    "VOTE": "vote",
    "ABANDON": "abandon",
}
"""Column heads; a message that is not here goes under its own name."""


def render(summary: dict[str, Any], *, color: bool = False, width: int | None = None) -> str:
    """run.json as text. `width` in characters; None is as wide as needed."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    points = summary["points"]
    names = [name for name in _SHORT if any(point["messages"].get(name) for point in points)]
    names += sorted({name for point in points for name in point["messages"]} - set(_SHORT))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if color else "")
    kernels = list(points[0]["roles"]) if points else []
    for head in [*kernels, "array"]:
        table.add_column(head, no_wrap=True)
    table.add_column("iter.", justify="right")
    table.add_column("result", no_wrap=True)
    for name in names:
        table.add_column(_SHORT.get(name, name), justify="right", no_wrap=True)
    for head in ("total", "read µs", "write µs", "s"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in points:
        table.add_row(*_row(point, kernels, names, color))
    text = io.StringIO()
    console = Console(file=text, force_terminal=color, width=width or 200, highlight=False, soft_wrap=width is None)
    if points:
        console.print(table)
    for line in _lines(summary):
        console.print(line, markup=False, soft_wrap=True)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _row(point: dict[str, Any], kernels: list[str], names: list[str], color: bool) -> Iterator[str]:
    for kernel in kernels:
        yield "+".join(point["roles"].get(kernel, ["-"]))
    yield show_size(point["array_bytes"])
    yield str(point["iterations"])
    passed = point["verified"] and all(verdict["holds"] for verdict in point["expectations"])
    word = "verified" if passed else ("WRONG" if not point["verified"] else "UNEXPECTED")
    yield f"[{'green' if passed else 'bold red'}]{word}[/]" if color else word
    for name in names:
        yield str(point["messages"].get(name, 0))
    yield str(point["messages_total"])
    for kind in ("remote_read", "remote_write"):
        median = point["latency_us"][kind]["median"]
        yield "-" if median is None else f"{median:.0f}"
    yield f"{point['duration_s']:.2f}"


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    for node in summary["nodes"]:
        ready = f"ready in {node['boot_s']:.1f} s, " if node["boot_s"] else ""
        release = node["facts"].get("kernel_release", "")
        how = f"{node['accelerator']} ({node['accelerator_reason']})"
        yield f"{node['name']}: {node['arch']}, {ready}{how} {release}".rstrip()
    done, planned = len(summary["points"]), summary["planned_points"]
    stages = ", ".join(f"{name} {duration:.1f}" for name, duration in summary["stages_s"].items())
    count = f"{done} point{'s' if done != 1 else ''}" if done == planned else f"{done} of {planned} points"
    what = f"{summary['experiment']} on stage {summary['stage']}"
    yield f"{what}: {summary['outcome']}, {count}, {summary['duration_s']:.1f} s ({stages})"
    yield f"results: {summary['results']}"
    yield f"next: {_next(summary)}"


def _next(summary: dict[str, Any]) -> str:
    if summary["outcome"] != "passed":
        return "events.jsonl and consoles/ in there tell the story; `--keep` leaves the guests for `testbed ssh`"
    if summary["stage"] == "local":
        return "the same in real guests: leave --stage local out"
    return "`testbed up FILE` keeps such machines running, `testbed ssh NODE` goes in, `testbed down` removes them"
