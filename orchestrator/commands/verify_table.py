"""Searches for people: one row a scenario, and the sum."""

import io
from collections.abc import Iterator, Sequence

from orchestrator.checker import Report, Scenario
from orchestrator.checker.program_system import ProgramScenario
from orchestrator.checker.scenario import Links, Start
from orchestrator.checker.systems import AnyScenario
from orchestrator.checker.thread_system import ThreadScenario
from orchestrator.output import sheet


def render(
    rows: Sequence[tuple[str, Report]], duration_s: float, *, color: bool = False, width: int | None = None
) -> str:
    """The table of (protocol, report). `width` in characters; None is as wide as needed."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if color else "")
    for head in ("protocol", "kernels × operations", "from", "links", "more"):
        table.add_column(head)
    for head in ("states", "depth", "s", "states/s"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for protocol, report in rows:
        figures = (f"{report.states:,}", str(report.depth), f"{report.duration_s:.1f}", f"{report.states_per_s:,.0f}")
        table.add_row(protocol, *_scenario(report.scenario), *figures, verdict(report))
    text = io.StringIO()
    sheet(text, width or 200, color=color).print(table)
    states = sum(report.states for _, report in rows)
    shown = "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
    cpu_s = sum(report.cpu_s for _, report in rows)
    speed = f"{states / duration_s:,.0f} states/s; {cpu_s:.1f} s of processor time"
    return f"{shown}\n\n{states:,} states in {duration_s:.1f} s: {speed}\n"


def verdict(report: Report) -> str:
    """What the search says."""
    return report.violation or ("no violation" if report.complete else "no violation so far, not complete")


def _scenario(scenario: AnyScenario) -> tuple[str, str, str, str]:
    if isinstance(scenario, ThreadScenario):
        return f"{scenario.kernels}", "home", Links.IN_ORDER.value, ", ".join(scenario.counts())
    if isinstance(scenario, ProgramScenario):
        dies = f", {scenario.deaths} kernel dies" if scenario.deaths else ""
        more = f"{scenario.name} of {scenario.threads} threads{dies}"
        return f"{scenario.kernels}", Start.UNMAPPED.value, scenario.links.value, more
    operations = f"{scenario.kernels} × {'+'.join(map(str, scenario.operations))}"
    return operations, scenario.start.value, scenario.links.value, ", ".join(_more(scenario)) or "–"


def _more(scenario: Scenario) -> Iterator[str]:
    if scenario.pages > 1:
        yield f"{scenario.pages} pages"
    if scenario.threads > 1:
        yield f"{scenario.threads} threads each"
    if scenario.give_ups:
        yield f"{scenario.give_ups} process{'es die' if scenario.give_ups > 1 else ' dies'}"
    if scenario.deaths:
        yield f"{scenario.deaths} kernel{'s die' if scenario.deaths > 1 else ' dies'}"
    if scenario.space:
        yield "may " + ", ".join(dict.fromkeys(operation.kind.name.lower() for operation in scenario.space))
    if scenario.returns:
        yield f"{scenario.returns} return{'s' if scenario.returns > 1 else ''}"
    if scenario.leaves:
        yield f"{scenario.leaves} kernel{'s leave' if scenario.leaves > 1 else ' leaves'}"
