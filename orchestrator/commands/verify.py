"""`testbed verify`: the model checker, over all that the voting protocol can do in small systems."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.checker import Scenario
    from orchestrator.checker.program_system import ProgramScenario
    from orchestrator.checker.thread_system import ThreadScenario


class Links(StrEnum):
    """Mirrors `orchestrator.checker.scenario.Links`."""

    IN_ORDER = "in-order"
    REORDERED = "reordered"


class Start(StrEnum):
    """Mirrors `orchestrator.checker.scenario.Start`, without spaces."""

    UNMAPPED = "unmapped"
    PARTLY_SHARED = "partly-shared"
    SHARED = "shared"
    MODIFIED = "modified"


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(verify)


_GiveUps = Annotated[
    int | None, typer.Option(metavar="N", help="Processes that may die while they wait.  [default: 0]")
]
_Pages = Annotated[int | None, typer.Option(metavar="N", help="Pages.  [default: 1]")]
_Threads = Annotated[
    int | None, typer.Option(metavar="N", help="Threads of each kernel, each with those operations.  [default: 1]")
]
_Deaths = Annotated[int | None, typer.Option(metavar="N", help="Kernels that may die.  [default: 0]")]
_Returns = Annotated[int | None, typer.Option(metavar="N", help="Kernels that may come back.  [default: 0]")]
_Leaves = Annotated[int | None, typer.Option(metavar="N", help="Kernels that may leave in order.  [default: 0]")]
_OWN = "One scenario of your own (any of these instead of the default set)"


def verify(
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Search this protocol; may be repeated.  [default: all]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller set, done in seconds.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="A larger set, with millions of states more.")] = False,
    kernels: Annotated[
        int | None, typer.Option(min=2, max=8, metavar="N", help="Kernels.  [default: as --operations says, or 2]")
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(
            metavar="N+N+…", help="Reads or writes of each kernel; one number: of every kernel.  [default: 1]"
        ),
    ] = None,
    pages: _Pages = None,
    links: Annotated[Links | None, typer.Option(help="May messages overtake each other?  [default: in-order]")] = None,
    start: Annotated[Start | None, typer.Option(help="How the pages are at first.  [default: unmapped]")] = None,
    threads: _Threads = None,
    give_ups: _GiveUps = None,
    deaths: _Deaths = None,
    returns: _Returns = None,
    leaves: _Leaves = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="STATES", help="Search at most so many states a scenario, some 1 KB each.")
    ] = 5_000_000,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=256, metavar="N", help="Searches at once.  [default: one a core]")
    ] = None,
    save_trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where a counterexample goes.  [default: violation-PROTOCOL.json]"),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Lead the engine through a saved counterexample, step by step.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Search every interleaving of small systems, with the engine that runs in the guests.

    A set of scenarios is searched, which takes minutes; with any of the options from --kernels to --leaves, that one
    scenario. Which operations are reads and which are writes is left open: all choices are searched.

    \b
    Examples:
      testbed verify
      testbed verify --thorough
      testbed verify --operations 1+1+2 --links reordered --start shared
      testbed verify --replay violation-voting.json

    \b
    Exit codes: 0 no violation, 1 a violation, or not all was searched because of --limit, 2 wrong input,
    128 + N stopped by signal N.
    """
    from orchestrator.commands import verify_command

    own = (kernels, operations, pages, links, start, threads, give_ups, deaths, returns, leaves)
    one = own.count(None) < len(own)
    asked = [word for word, there in (("--quick", quick), ("--thorough", thorough), ("a scenario", one)) if there]
    if replay is not None:
        if asked or protocol or save_trace:
            raise InputError("found options beside --replay, expected none", "the file says what scenario it is")
        verify_command.replay_file(replay, as_json=as_json)
        return
    if len(asked) > 1:
        raise InputError(f"found {' and '.join(asked)}, expected one of them", "--quick and --thorough are sets")
    sets = ([_scenario(*own)], (), ()) if one else _scenarios(quick, thorough)
    wanted = verify_command.searches(protocol or [], *sets)
    verify_command.run_searches(wanted, limit=limit, jobs=jobs, save=save_trace, as_json=as_json, quiet=quiet)


def _scenarios(
    quick: bool, thorough: bool
) -> "tuple[Sequence[Scenario], Sequence[ThreadScenario], Sequence[ProgramScenario]]":
    """A set: of pages, of threads, and of programs that synchronise."""
    from orchestrator.checker import default_set, program_set

    if quick:
        return default_set.QUICK, default_set.THREADS_QUICK, program_set.QUICK_PROGRAMS
    return default_set.THOROUGH if thorough else default_set.DEFAULT, default_set.THREADS, program_set.PROGRAMS


def _scenario(
    kernels: int | None,
    operations: str | None,
    pages: int | None,
    links: Links | None,
    start: Start | None,
    threads: int | None,
    give_ups: int | None,
    deaths: int | None,
    returns: int | None,
    leaves: int | None,
) -> "Scenario":
    from orchestrator.checker import scenario

    return scenario.Scenario(
        _operations(operations or "1", kernels),
        scenario.Links((links or Links.IN_ORDER).value),
        scenario.Start((start or Start.UNMAPPED).value.replace("-", " ")),
        1 if pages is None else pages,
        1 if threads is None else threads,
        give_ups or 0,
        deaths or 0,
        returns or 0,
        leaves or 0,
    )


def _operations(text: str, kernels: int | None) -> tuple[int, ...]:
    words = text.split("+")
    if not all(word.isdecimal() for word in words):
        raise InputError(f"found operations '{text}', expected numbers with + between", "for example 1+1+2")
    counts = tuple(map(int, words))
    if len(counts) == 1:
        return counts * (2 if kernels is None else kernels)
    if kernels not in (None, len(counts)):
        raise InputError(
            f"found {kernels} kernels, but operations of {len(counts)}, expected the same number",
            "--operations alone says how many kernels there are",
        )
    return counts
