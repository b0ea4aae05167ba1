"""`testbed verify`: which scenarios are searched, and what is printed and kept of the searches."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import typer

from guest.protocol.registry import PROTOCOLS
from orchestrator.checker import Report, Scenario, explore
from orchestrator.checker.ladder import ladder
from orchestrator.checker.pool import explore_all
from orchestrator.checker.program_system import ProgramScenario
from orchestrator.checker.saved import Misfit, Replay, Saved, scenario_as_json, trace_as_json, trace_from_json
from orchestrator.checker.systems import AnyScenario
from orchestrator.checker.thread_system import ThreadScenario
from orchestrator.checker.trace import tell_move
from orchestrator.commands.verify_table import render
from orchestrator.errors import InputError, RunEnded, Stopped
from orchestrator.experiments.vocabulary import nearest
from orchestrator.output import put
from orchestrator.progress import Progress
from orchestrator.words import counted

MOST_KERNELS, MOST_PAGES, MOST_THREADS, MOST_OPERATIONS = 8, 8, 4, 16
"""Far beyond what can be searched to the end."""
_HINTS = {"deaths": "one kernel must survive", "returns": "only a kernel that died or left can come back"}


THREADS = "threads"
"""What the protocol of threads is called here, beside those of pages."""


@dataclass(frozen=True)
class Search:
    """One scenario under one protocol."""

    protocol: str
    scenario: AnyScenario


Row = tuple[str, Report]
"""A protocol, and what the search of a scenario under it found."""


def searches(
    protocols: Sequence[str],
    scenarios: Sequence[Scenario],
    threads: Sequence[ThreadScenario] = (),
    programs: Sequence[ProgramScenario] = (),
) -> list[Search]:
    """Every scenario and every program under every protocol of pages, and those of threads; all if none is named.

    Raises InputError.
    """
    found: list[Search] = []
    for protocol in protocols or [*PROTOCOLS, THREADS]:
        if protocol != THREADS:
            found += [Search(protocol, replace(each, engine=engine(protocol))) for each in programs]
            found += [Search(protocol, replace(bounded(each), engine=engine(protocol))) for each in scenarios]
        elif protocols and not threads:
            raise InputError(
                "found --protocol threads and a scenario of pages, expected one of the sets",
                "leave out the options from --kernels to --leaves",
            )
        else:
            found += [Search(THREADS, each) for each in threads]
    return found


def engine(protocol: str) -> Any:
    """The protocol's engine. Raises InputError."""
    found = PROTOCOLS.get(protocol)
    if found is None:
        known = [*PROTOCOLS, THREADS]
        near = nearest(protocol, known)
        raise InputError(
            f"found protocol '{protocol}', expected {' or '.join(known)}", f"did you mean '{near}'?" if near else ""
        )
    return found


def bounded(scenario: Scenario) -> Scenario:
    """The scenario, if the checker can make sense of it. Raises InputError."""
    wrong = [
        ("kernels", scenario.kernels, 2, MOST_KERNELS),
        ("operations of all kernels", sum(scenario.operations), 1, MOST_OPERATIONS),
        ("pages", scenario.pages, 1, MOST_PAGES),
        ("threads", scenario.threads, 1, MOST_THREADS),
        ("give-ups", scenario.give_ups, 0, MOST_OPERATIONS),
        ("deaths", scenario.deaths, 0, scenario.kernels - 1 + scenario.returns),
        ("returns", scenario.returns, 0, scenario.deaths + scenario.leaves),
        ("leaves", scenario.leaves, 0, MOST_OPERATIONS),
    ]
    for what, found, least, most in wrong:
        if not least <= found <= most:
            hint = _HINTS.get(what, "start small: states grow tenfold with each step")
            raise InputError(f"found {found} {what}, expected {least} to {most}", hint)
    return scenario


def run_searches(
    wanted: Sequence[Search], *, limit: int, jobs: int | None, save: Path | None, as_json: bool, quiet: bool
) -> None:
    """Search, print, and keep the shortest counterexample. Raises RunEnded if there is one."""
    begun = perf_counter()
    with Progress(quiet=quiet) as progress:
        rows, stopped = _search_all(wanted, limit, jobs or os.cpu_count() or 1, progress)
    duration_s = perf_counter() - begun
    violations = [(protocol, report) for protocol, report in rows if report.violation]
    kept: tuple[Path, dict[str, Any]] | None = None
    if violations:
        protocol, found = min(violations, key=lambda row: len(row[1].trace))
        kept = save or _free_name(f"violation-{protocol}"), trace_as_json(found, protocol)
        _write(*kept)
    if as_json:
        put(json.dumps(_as_json(rows, duration_s, kept, stopped), indent=2) + "\n")
    elif rows:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        put(render(rows, duration_s, color=terminal, width=width))
        if kept:
            put("\n" + ladder(_replay(trace_from_json(kept[1]))) + "\n")
    if kept:
        raise RunEnded(
            f"{found.violation} (in {len(violations)} of {len(rows)} scenarios; the shortest trace is in {kept[0]})",
            f"`testbed verify --replay {kept[0]}`",
            1,
        )
    if stopped:
        raise stopped
    cut_short = sum(not report.complete for _, report in rows)
    if cut_short:
        raise RunEnded(
            f"no violation so far, but {cut_short} of {counted(len(rows), 'scenario')} not searched to the end",
            f"--limit, now {limit}, says how many states each may have",
            1,
        )


def _search_all(
    wanted: Sequence[Search], limit: int, jobs: int, progress: Progress
) -> tuple[list[Row], Stopped | None]:
    """The searches that came to their end, in their order, and what stopped the others."""
    reports: dict[int, Report] = {}
    stopped: Stopped | None = None
    try:
        if len(wanted) == 1:
            with progress.step(f"searching {wanted[0].scenario}"):
                reports[0] = explore(wanted[0].scenario, limit=limit)
        else:
            with progress.step(f"searching {len(wanted)} scenarios, {jobs} at a time"):
                for index, report in explore_all([search.scenario for search in wanted], limit=limit, jobs=jobs):
                    reports[index] = report
                    progress.say(f"{len(reports)}/{len(wanted)} {wanted[index].protocol}: {report}")
    except Stopped as signal:
        stopped = signal
    return [(wanted[index].protocol, reports[index]) for index in sorted(reports)], stopped


def _free_name(stem: str) -> Path:
    """`stem.json`, or with a number if there is one already: a trace is never overwritten unasked."""
    path, number = Path(f"{stem}.json"), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}.json")
    return path


def _write(path: Path, trace: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(trace, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "--save-trace FILE names another place for the trace") from None


def _as_json(
    rows: Sequence[Row], duration_s: float, kept: tuple[Path, dict[str, Any]] | None, stopped: Stopped | None
) -> dict[str, Any]:
    states = sum(report.states for _, report in rows)
    complete = stopped is None and all(report.complete for _, report in rows)
    return {
        "outcome": "failed" if kept else "interrupted" if stopped else "passed" if complete else "incomplete",
        "complete": complete,
        "states": states,
        "duration_s": round(duration_s, 3),
        "cpu_s": round(sum(report.cpu_s for _, report in rows), 3),
        "states_per_s": round(states / duration_s),
        "scenarios": [
            {
                "protocol": protocol,
                **scenario_as_json(report.scenario),
                "states": report.states,
                "depth": report.depth,
                "duration_s": round(report.duration_s, 3),
                "cpu_s": round(report.cpu_s, 3),
                "states_per_s": round(report.states_per_s),
                "complete": report.complete,
                "violation": report.violation,
            }
            for protocol, report in rows
        ],
        "trace": kept and {"file": str(kept[0]), **kept[1]},
    }


def replay_file(file: Path, *, as_json: bool) -> None:
    """Lead the engine through a saved trace. Raises RunEnded if it does wrong again, InputError if it cannot follow."""
    saved = _read(file)
    replay = _replay(saved)
    steps: list[dict[str, Any]] = []
    try:
        for number, (move, world) in enumerate(replay.steps()):
            says = tell_move(move, replay.parcels) if move else f"start: {replay.scenario}"
            kernels = replay.system.view(world)
            if as_json:
                steps.append({"step": number, "says": says, "kernels": [kernel.as_json() for kernel in kernels]})
            else:
                typer.echo(f"{number:4} {says}")
                for kernel, shown in enumerate(kernels):
                    typer.echo(f"       kernel {kernel}: {shown}")
    except Misfit as misfit:
        raise InputError(
            f"{file}: {misfit}", "the engine is not the one that made this trace; search again: `testbed verify`"
        ) from None
    if as_json:
        outcome = {"outcome": "failed" if replay.violation else "passed", "violation": replay.violation}
        put(json.dumps({**outcome, "steps": steps}, indent=2) + "\n")
    elif not replay.violation:
        typer.echo(f"no violation any more; when the trace was saved: {saved.violation}")
    if replay.violation:
        raise RunEnded(replay.violation, "", 1)


def _read(file: Path) -> Saved:
    try:
        saved = trace_from_json(json.loads(file.read_text()))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}", "--replay takes a file that --save-trace wrote") from None
    except ValueError as error:
        raise InputError(f"{file}: {error}", "--replay takes a file that --save-trace wrote") from None
    return saved


def _replay(saved: Saved) -> Replay:
    scenario = saved.scenario
    if isinstance(scenario, Scenario):
        scenario = bounded(scenario)
    if not isinstance(scenario, ThreadScenario):
        scenario = replace(scenario, engine=engine(saved.protocol))
    return Replay(saved, scenario)
