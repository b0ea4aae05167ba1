"""`testbed top`: what the kernels of a testbed do right now, read from the memory they share."""

import json
import math
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.naming import complete_testbed, the_testbed

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.commands.counters import Onlooker, Snapshot
    from testbed.machine import Testbed

KIND_COLUMNS = ("local", "reads", "writes")
"""Page faults by kind, in the order of `guest.memory.samples.KINDS`."""
WIDE_COLUMNS = 100
"""Of a terminal that has room for totals beside the rates."""
ONCE_S = 1.0
"""How long `--once` looks, to have rates to show."""


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(top)


def top(
    name: Annotated[
        str | None, typer.Argument(help="The testbed, when several are running.", autocompletion=complete_testbed)
    ] = None,
    link: Annotated[str | None, typer.Option(help="The link with the shared memory, when there are several.")] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One table after one interval, and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The counters now as JSON on standard output, and nothing else.")
    ] = False,
) -> None:
    """Watch faults, messages and doorbells of a running testbed, a second at a time, until Ctrl-C.

    The counters are read from the shared memory, read-only: guests take no notice. They begin anew with each point
    of a run.

    \b
    Examples:
      testbed top
      testbed top quickstart --once
      testbed top --json | jq '.kernels[].faults'
    """
    from orchestrator.commands.counters import Onlooker
    from orchestrator.errors import InputError
    from testbed.shared_memory import watch

    if math.isnan(interval):  # it is on neither side of a bound
        raise InputError("found --interval nan, expected seconds from 0.1 to 3600")
    testbed = the_testbed(name, how="`testbed top NAME`")
    chosen = _chosen_link(testbed, link)
    onlooker = Onlooker(testbed, chosen, memoryview(watch(testbed, chosen)))
    if as_json:
        now = onlooker.look()
        typer.echo(json.dumps(now.as_json() if now else {"link": chosen, "generation": 0, "kernels": []}, indent=2))
    elif once or not sys.stdout.isatty():
        _once(onlooker, chosen, interval if not once else min(interval, ONCE_S))
    else:
        _live(testbed, onlooker, chosen, interval)


def _chosen_link(testbed: "Testbed", wanted: str | None) -> str:
    from orchestrator.commands.counters import shared_links
    from orchestrator.errors import InputError
    from orchestrator.experiments.vocabulary import nearest

    known = shared_links(testbed)
    if wanted in known:
        return wanted
    if wanted is None and len(known) == 1:
        return known[0]
    near = nearest(wanted, known) if wanted else None
    raise InputError(
        f"found {f'no link {wanted!r}' if wanted else f'{len(known)} links'} with shared memory in {testbed.name}, "
        f"expected {'one of ' + ', '.join(known) if known else 'a testbed with one'}",
        f"did you mean '{near}'?" if near else "--link NAME" if known else "",
    )


def _once(onlooker: "Onlooker", link: str, interval_s: float) -> None:
    from rich.console import Console

    from orchestrator.output import put

    first = onlooker.look()
    time.sleep(interval_s)
    console = Console(width=None if sys.stdout.isatty() else WIDE_COLUMNS)
    with console.capture() as captured:
        console.print(_table(link, first, onlooker.look(), console.width))
    put(captured.get())


def _live(testbed: "Testbed", onlooker: "Onlooker", link: str, interval_s: float) -> None:
    """Until Ctrl-C, or until the testbed is gone."""
    from rich.live import Live

    from orchestrator.errors import Stopped
    from testbed.record import directory

    before = onlooker.look()
    try:
        with Live(_table(link, None, before), auto_refresh=False) as live:
            while directory(testbed.name).exists():
                time.sleep(interval_s)
                now = onlooker.look()
                live.update(_table(link, before, now, live.console.width), refresh=True)
                before = now
    except Stopped as stopped:
        raise typer.Exit(0) from stopped
    typer.echo(f"{testbed.name} is down")


def _table(link: str, before: "Snapshot | None", now: "Snapshot | None", width: int = WIDE_COLUMNS) -> "Table":
    """Rates a second where both looks were at the same formatted memory; totals too, where there is room."""
    from rich.table import Table

    if now is None:
        said = f"{link}: nothing is formatted there yet, or something has written over it"
        return Table(said, box=None, pad_edge=False)  # one without columns shows nothing, not even its title
    table = Table(
        title=f"{link}, formatted {now.generation} times; a second:", title_justify="left", box=None, pad_edge=False
    )
    wide = width >= WIDE_COLUMNS
    for column in ("node", "daemon"):
        table.add_column(column)
    rates = ("beats", *KIND_COLUMNS, "messages", "bells", "sleeps")
    for column in (*rates, "queued", *(("all faults", "all messages") if wide else ())):
        table.add_column(column, justify="right")
    same = before is not None and before.generation == now.generation and len(before.kernels) == len(now.kernels)
    earlier = before.kernels if before is not None and same else now.kernels
    elapsed_s = now.time_s - before.time_s if before is not None and same else 0.0

    def rate(new: int, old: int) -> str:
        return f"{(new - old) / elapsed_s:,.0f}" if elapsed_s > 0 and new >= old else "-"

    for kernel, old in zip(now.kernels, earlier, strict=True):
        totals = (f"{sum(kernel.faults.values()):,}", f"{sum(kernel.messages.values()):,}")
        table.add_row(
            kernel.node,
            "asleep" if kernel.waiting and kernel.state == "running" else kernel.state,
            rate(kernel.heartbeat, old.heartbeat),
            *(rate(kernel.faults[kind], old.faults[kind]) for kind in kernel.faults),
            rate(sum(kernel.messages.values()), sum(old.messages.values())),
            rate(kernel.doorbells, old.doorbells),
            rate(kernel.sleeps, old.sleeps),
            f"{kernel.queued}",
            *(totals if wide else ()),
        )
    return table
