"""A litmus run for people: a row for each shape, memory and placement, with how often each outcome was seen."""

import io
from dataclasses import asdict
from typing import Any

from orchestrator.litmus.judge import Row
from orchestrator.litmus.run import Litmus, verdict
from orchestrator.output import sheet
from orchestrator.words import counted

SHOWN = 3
"""Violations of a row that an error spells out."""
OUTCOMES_SHOWN = 4


def render(found: Litmus, *, color: bool = False, width: int | None = None) -> str:
    """The table. `width` in characters; None is as wide as needed."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if color else "")
    for head in ("shape", "memory", "programs"):
        table.add_column(head, no_wrap=True)
    table.add_column("instances", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("outcomes", overflow="fold")
    for row in found.rows:
        placed = " ".join(f"{node}:{','.join(map(str, programs))}" for node, programs in row.placement.items())
        table.add_row(row.shape, row.memory, placed, str(row.instances), verdict(row), _outcomes(row))
    text = io.StringIO()
    if found.rows:
        sheet(text, width or 180, color=color).print(table)
    if found.error is not None:
        text.write(f"ended after {len(found.rows)} of {counted(found.planned_rows, 'row')}: {found.error['message']}\n")
    return text.getvalue().lstrip("\n")


def violations(found: Litmus) -> str:
    """What coherent memory must not have shown, in lines."""
    lines = [f"{len(found.broken)} of {len(found.rows)} rows show what coherent memory must not"]
    for row in found.broken:
        lines.append(f"  {row.shape}: {row.violation_count} of {row.instances} instances")
        lines += [f"    {violation}" for violation in row.violations[:SHOWN]]
    return "\n".join(lines)


def as_json(found: Litmus) -> dict[str, Any]:
    """The content of litmus.json."""
    rows = [{**asdict(row), "weak": row.weak, "verdict": verdict(row)} for row in found.rows]
    return {**asdict(found), "rows": rows, "outcome": found.outcome}


def _outcomes(row: Row) -> str:
    shown = [f"{outcome}: {count}" for outcome, count in list(row.outcomes.items())[:OUTCOMES_SHOWN]]
    more = len(row.outcomes) - OUTCOMES_SHOWN
    return " · ".join(shown) + (f" · {more} more" if more > 0 else "")
