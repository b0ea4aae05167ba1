"""A run's summary for people: one table, then where everything is and what to do next."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.experiments.parameters import head, show_value
from orchestrator.experiments.sizes import show_size
from orchestrator.output import sheet, typed
from orchestrator.results.summary import CHECK
from orchestrator.words import counted

if TYPE_CHECKING:
    from rich.table import Table

_SHORT = {
    "PAGE_REQUEST": ("request", "req"),
    "PAGE_DATA": ("data", "data"),
    "PAGE_ABSENT": ("absent", "abs"),
    "INVALIDATE": ("invalidate", "inv"),
    "VOTE": ("vote", "vote"),
    "ABANDON": ("abandon", "aban"),
    "GRANT": ("grant", "grant"),
    "SPACE_LOCK": ("lock", "lock"),
    "SPACE_LOCKED": ("locked", "lckd"),
    "SPACE_OP": ("operation", "op"),
    "SPACE_DONE": ("done", "done"),
    "FUTEX_WAIT": ("wait", "wait"),
    "FUTEX_WAKE": ("wake", "wake"),
    "FUTEX_ANSWER": ("answer", "answ"),
    "EVICT": ("evict", "evic"),
}
"""Column heads, wide and narrow; a message that is not here goes under its own name."""
VERIFIED = "verified"
"""The result of a point with which all is well."""
WIDTH_MAX = 400
"""Characters a table may take; a terminal that is narrower than even the narrow one wraps its lines."""
_SHOWN_ANYWAY = ("workload.threads", "workload.array", "workload.iterations")
"""Parameters that have a column whether they vary or not."""
_LETTERS = {"reader": "R", "writer": "W", "idle": "-"}


def render(summary: dict[str, Any], *, color: bool = False, width: int | None = None) -> str:
    """run.json as text. `width` in characters: a table that does not fit is made narrow; None is as wide as needed."""
    text = io.StringIO()
    console = sheet(text, WIDTH_MAX, color=color)
    if summary["points"]:
        table = _table(summary["points"], color, narrow=False)
        if width is not None and console.measure(table).maximum > width:
            table = _table(summary["points"], color, narrow=True)
        console.print(table)
    for line in _lines(summary):
        console.print(line, markup=False, soft_wrap=True)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(points: list[dict[str, Any]], color: bool, *, narrow: bool) -> "Table":
    from rich import box
    from rich.table import Table

    names = [name for name in _SHORT if any(point["messages"].get(name) for point in points)]
    names += sorted({name for point in points for name in point["messages"]} - set(_SHORT))
    table = Table(box=None if narrow else box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if color else "")
    varied = _varied(points)
    for path in varied:
        table.add_column(head(path), no_wrap=True)
    kernels = list(points[0]["roles"])
    for title in [",".join(kernels)] if narrow else kernels:
        table.add_column(title, no_wrap=True)
    table.add_column("array", no_wrap=True)
    table.add_column("iter", justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    for name in names:
        table.add_column(_SHORT.get(name, (name, name))[narrow], justify="right", no_wrap=True)
    for title in ("total", *(("rd µs", "wr µs") if narrow else ("read µs", "write µs")), "s"):
        table.add_column(title, justify="right", no_wrap=True)
    if narrow:
        table.padding = (0, 1, 0, 0)
    for point in points:
        roles = [point["roles"].get(kernel, ["-"]) for kernel in kernels]
        if narrow:
            words = [",".join("".join(_LETTERS.get(role, role) for role in own) for own in roles)]
        else:
            words = ["+".join(own) for own in roles]
        values = [show_value(point["parameters"][path]) for path in varied]
        table.add_row(*values, *words, *_row(point, names, color))
    return table


def _varied(points: list[dict[str, Any]]) -> list[str]:
    """Paths of the matrix that nothing else in the table shows."""
    return [path for path in points[0]["parameters"] if not path.startswith(_SHOWN_ANYWAY)]


def _row(point: dict[str, Any], names: list[str], color: bool) -> Iterator[str]:
    yield show_size(point["array_bytes"])
    yield str(point["iterations"])
    word = _word(point)
    yield f"[{'green' if word == VERIFIED else 'bold red'}]{word}[/]" if color else word
    if point.get("error"):  # nothing of it was counted or measured
        yield from "-" * (len(names) + 4)
        return
    for name in names:
        yield str(point["messages"].get(name, 0))
    yield str(point["messages_total"])
    for kind in ("remote_read", "remote_write"):
        median = point["latency_us"][kind]["median"]
        yield "-" if median is None else f"{median:.0f}"
    yield f"{point['duration_s']:.2f}"


def _word(point: dict[str, Any]) -> str:
    """The result of a point. Runs of earlier versions know nothing of losses."""
    if point.get("error"):
        return "WRONG" if point["error"]["kind"] == CHECK else "FAILED"
    if any(point.get("losses", {}).values()):
        return "LOSSES"
    if not point["verified"]:
        return "WRONG"
    return VERIFIED if all(verdict["holds"] for verdict in point["expectations"]) else "UNEXPECTED"


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    for node in summary["nodes"]:
        ready = f"ready in {node['boot_s']:.1f} s, " if node["boot_s"] else ""
        release = node["facts"].get("kernel_release", "")
        how = f"{node['accelerator']} ({node['accelerator_reason']})"
        yield f"{node['name']}: {node['arch']}, {ready}{how} {release}".rstrip()
    done, planned = len(summary["points"]), summary["planned_points"]
    stages = ", ".join(f"{name} {duration:.1f}" for name, duration in summary["stages_s"].items())
    count = counted(done, "point") if done == planned else f"{done} of {planned} points"
    what = f"{summary['experiment']} on stage {summary['stage']}"
    yield f"{what}: {summary['outcome']}, {count}, {summary['duration_s']:.1f} s ({stages})"
    yield f"results: {summary['results']}"
    yield f"next: {typed(_next(summary))}"


def _next(summary: dict[str, Any]) -> str:
    if summary["outcome"] == "error" and (summary["error"] or {}).get("kind") == "interrupted":
        return "events.jsonl in there tells how far it came; `testbed ps` shows what is left of it, if anything"
    if summary["outcome"] != "passed":
        where = "events.jsonl, output/ and consoles/ in there tell the story"
        return where + ("; `--keep` leaves the guests for `testbed ssh`" if summary["stage"] == "vm" else "")
    if summary["stage"] == "local":
        return "the same in real guests: leave --stage local out"
    if summary["stage"] == "sim":
        return "the same in real guests: leave --stage sim out; `testbed simulate` adds delays and faults, by seed"
    return "`testbed up FILE` keeps such machines running, `testbed ssh NODE` goes in, `testbed down` removes them"
