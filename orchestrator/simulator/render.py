"""What came of simulations, for people."""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.experiments.parameters import describe
from orchestrator.output import sheet
from orchestrator.simulator.growth import Cost, Load
from orchestrator.simulator.mixtures import Fuzzed
from orchestrator.simulator.series import Series, Simulated
from orchestrator.words import counted

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 400
_SHOWN = 5


def render_series(series: Series, simulations: Sequence[Simulated], *, color: bool) -> str:
    """One line a point, over all seeds, and what must not be overlooked."""
    table = _table(
        ["point", *(">" + head for head in ("seeds", "messages", "read µs", "write µs", "virtual s", "events"))]
    )
    for point in series.points:
        own = [each for each in simulations if each.point.index == point.index]
        if own:
            table.add_row(
                describe(point.parameters),
                str(len(own)),
                _span([each.result.messages_total for each in own]),
                *(_span(_medians(own, kind), "{:.0f}") for kind in ("remote_read", "remote_write")),
                _span([each.result.duration_s for each in own], "{:.4f}"),
                str(sum(each.events for each in own)),
            )
    failed = sum(not each.passed for each in simulations)
    count = len(simulations)
    seeds = f"seed {series.seeds[0]}" if len(series.seeds) == 1 else f"seeds {series.seeds[0]}..{series.seeds[-1]}"
    verdict = f"{'failed' if failed else 'passed'}, {count} simulation{'s' if count != 1 else ''}, {seeds}"
    lines = [f"{series.plan.name} on stage sim: {verdict}", *_remarks(series, simulations)]
    return _text(table, color) + "\n".join(lines) + "\n"


def render_growth(costs: Sequence[Cost], *, color: bool) -> str:
    """Kernels down, workloads across; where count and formula differ, both are shown."""
    table = _table([">kernels", *(f">{load}" for load in Load), ">votes lost"])
    for kernels in sorted({cost.kernels for cost in costs}):
        own = {cost.load: cost for cost in costs if cost.kernels == kernels}
        cells = [
            f"{_pair(own[load].first, own[load].first_formula)} + {_pair(own[load].each, own[load].each_formula)}"
            for load in Load
        ]
        table.add_row(str(kernels), *cells, str(own[Load.AT_ONCE].lost_votes[1]))
    wrong = sum(not cost.agrees for cost in costs)
    verdict = f"{wrong} differ from the formulas" if wrong else "all as the formulas say"
    return _text(table, color) + f"messages a page: first iteration + each later one; {verdict}\n"


def render_fuzzed(done: Sequence[Fuzzed], *, color: bool) -> str:
    """One line a mixture."""
    heads = ("simulations", "events", "messages", "deaths", "lost accesses")
    table = _table(["protocol", "faults", *(">" + head for head in heads)])
    for each in done:
        counts = (each.simulations, each.events, each.messages, each.deaths, each.lost)
        table.add_row(each.protocol, each.mixture.replace("_", " "), *(f"{count:,}" for count in counts))
    failed = sum(each.failure is not None for each in done)
    total = counted(sum(each.simulations for each in done), "simulation")
    return _text(table, color) + f"{'failed' if failed else 'passed'}, {total}\n"


def _remarks(series: Series, simulations: Sequence[Simulated]) -> Iterable[str]:
    lost = [(each, loss) for each in simulations for loss in each.lost]
    for each, loss in lost[:_SHOWN]:
        where = f"seed {each.seed}, point {each.point.index + 1}"
        thread = f"node {loss.node}, thread {loss.thread}"
        yield f"page lost: {thread}, page {loss.page}, iteration {loss.iteration} ({where})"
    if len(lost) > _SHOWN:
        yield f"page lost: {len(lost)} accesses in all found the only valid copy gone with a dead kernel"
    for name, at_us in series.conditions.kills:
        missed = [each for each in simulations if each.passed and name not in each.died]
        if missed:
            yield f"note: {name} was to die at {at_us} µs; {len(missed)} of {len(simulations)} simulations ended before"


def _pair(counted: int, formula: int) -> str:
    return str(counted) if counted == formula else f"{counted} (formula: {formula})"


def _medians(simulations: Iterable[Simulated], kind: str) -> list[float]:
    medians = (each.result.latency_us[kind].median for each in simulations)
    return [median for median in medians if median is not None]


def _span(values: Sequence[float], form: str = "{}") -> str:
    if not values:
        return "-"
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least}–{most}"


def _table(heads: Iterable[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head.removeprefix(">"), justify="right" if head.startswith(">") else "left", no_wrap=True)
    return table


def _text(table: "Table", color: bool) -> str:
    text = io.StringIO()
    sheet(text, _WIDTH, color=color).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).lstrip("\n") + "\n"
