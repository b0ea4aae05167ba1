"""`testbed replay`: a run's traces, given to the engine once more."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.checker.replay import Replay


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(replay)


def replay(
    run: Annotated[str, typer.Argument(help="A run's id, its beginning or end, a folder, or `last`.")] = "last",
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where result directories are.")] = Path("results"),
    point: Annotated[int | None, typer.Option(min=1, help="Only this point, from 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
) -> None:
    """Replay a run that kept its traces, and say where reality left the model.

    The experiment file must have said `trace: true` under `coherency`. Every event of every kernel is given to an
    engine, whose effects must be those of the run; every message must have been sent, and have kept its order; and the
    invariants must hold after each event.

    \b
    Examples:
      testbed run configs/traced.yaml
      testbed replay
      testbed replay 4f1c --point 3
    """
    from orchestrator.checker.replay import read_traces
    from orchestrator.checker.replay import replay as replayed
    from orchestrator.errors import CheckFailed, RunEnded
    from orchestrator.results.directories import find

    folders = _points(find(results, run), point)
    told: list[dict[str, Any]] = []
    failed = []
    for folder in folders:
        result = replayed(read_traces(folder))
        number = int(folder.name)
        told.append(
            {
                "point": number,
                "kernels": [trace.node for trace in result.traces],
                "protocol": result.traces[0].protocol,
                "events": result.events,
                "messages": result.messages,
                "dropped": sum(trace.dropped for trace in result.traces),
                "complete": result.complete,
                "divergence": result.divergence,
                "last": result.last,
            }
        )
        if result.divergence:
            failed.append("\n    ".join([f"  point {number}: {result.divergence}", *result.last]))
        if not as_json:
            verdict = "DIVERGED" if result.divergence else "as the model says"
            if not result.complete and not result.divergence:
                verdict += f", as far as the traces go ({_why_not_further(result)})"
            typer.echo(f"point {number}: {result.events} events, {result.messages} messages: {verdict}")
    if as_json:
        typer.echo(json.dumps({"outcome": "failed" if failed else "passed", "points": told}, indent=2))
    if failed:
        message = "\n".join([f"{len(failed)} of {len(folders)} points left the model", *failed])
        hint = "a defect of the daemon or the rings, or the engine has changed since that run"
        raise RunEnded(message, hint, CheckFailed.exit_code)


def _why_not_further(result: "Replay") -> str:
    if dropped := sum(trace.dropped for trace in result.traces):
        return f"{dropped} events had no room"
    if untraced := result.untraced:
        return f"there is none of kernel {' and '.join(map(str, untraced))}"
    return "the kernels went on when they were taken"


def _points(directory: Path, point: int | None) -> list[Path]:
    from orchestrator.errors import InputError
    from orchestrator.results.directories import TRACES

    found = {int(path.name): path for path in (directory / TRACES).glob("*") if path.name.isdecimal()}
    if not found:
        raise InputError(
            f"{directory}: found no traces", "run with `trace: true` under `coherency` in the experiment file"
        )
    if point is None:
        return [found[number] for number in sorted(found)]
    if point not in found:
        raise InputError(f"found no trace of point {point}, expected one of {', '.join(map(str, sorted(found)))}")
    return [found[point]]
