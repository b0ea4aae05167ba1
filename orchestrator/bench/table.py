"""A bench run for people: figures by quantity, and beside each what it is a multiple of."""

import io
from collections.abc import Iterator

from orchestrator.bench.figures import COMPARED, MEANINGS, Bench, Figure, Quantity, Unit, ratios
from orchestrator.output import sheet

_SHORT = {
    Quantity.C_ZERO: "C",
    Quantity.C_COPY: "C",
    Quantity.C_PROTECT: "C",
    Quantity.REMOTE_WRITE: "remote write",
    Quantity.RING_POLL: "polling",
    Quantity.RING_INTERRUPT: "interrupt",
}
"""How a ratio names its denominator."""


def render(bench: Bench, *, color: bool = False, width: int | None = None) -> str:
    """The table, one row a figure. `width` in characters; None is as wide as needed."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if color else "")
    for head in ("what", "where"):
        table.add_column(head, no_wrap=True)
    for head in ("median", "p99", "", "samples"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    table.add_column("ratio", no_wrap=True)
    last: Quantity | None = None
    for figure in sorted(bench.figures, key=lambda each: list(Quantity).index(each.quantity)):
        what = MEANINGS[figure.quantity] if figure.quantity is not last else ""
        table.add_row(what, *_numbers(figure), ", ".join(_multiples(bench, figure)))
        last = figure.quantity
    text = io.StringIO()
    console = sheet(text, width or 200, color=color)
    if bench.figures:
        console.print(table)
    for machine in bench.machines:
        line = f"{machine.name}: {machine.arch}, {machine.accelerator} ({machine.accelerator_reason})"
        console.print(line, markup=False, soft_wrap=True)
    return text.getvalue().lstrip("\n")


def _numbers(figure: Figure) -> tuple[str, str, str, str, str]:
    if figure.unit is Unit.SECONDS:
        return figure.place, f"{figure.median:.2f}", f"{figure.p99:.2f}", "s", str(figure.count)
    if figure.unit is Unit.MESSAGES:
        return figure.place, f"{figure.median:g}", f"{figure.p99:g}", "", str(figure.count)
    digits = 0 if figure.median >= 100 else 1
    return figure.place, f"{figure.median:.{digits}f}", f"{figure.p99:.{digits}f}", "µs", str(figure.count)


def _multiples(bench: Bench, figure: Figure) -> Iterator[str]:
    for ratio in ratios(bench.figures):
        if (ratio.numerator, ratio.nodes) == (figure.quantity, figure.nodes):
            assert (ratio.numerator, ratio.denominator) in COMPARED
            yield f"{ratio.value:.1f} × {_SHORT[ratio.denominator]}"
