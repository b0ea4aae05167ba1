"""`testbed report` and `testbed trace`: a run to look at, in a browser and in Perfetto."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.results import ResultsOption, RunArgument

OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(report)
    app.command()(trace)


def report(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN…", help="Ids, folders, or `last`.")] = None,
    output: OutputOption = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Write one HTML page about a run, or about several side by side. It opens without a network.

    Without -o it becomes report.html in the run's directory; of several, in the results directory.

    \b
    Examples:
      testbed report
      testbed report 4f1c -o report.html
      testbed report 4f1c 77aa -o both.html
    """
    from orchestrator.progress import Progress
    from orchestrator.report.page import write
    from orchestrator.results.directories import find
    from orchestrator.results.past_run import read_run
    from orchestrator.words import counted

    directories = [find(results, run) for run in runs or ["last"]]
    beside = directories[0] if len(directories) == 1 else results
    file = output or beside / "report.html"
    with Progress() as progress, progress.step(f"drawing {counted(len(directories), 'run')}", announced=False):
        write([read_run(directory) for directory in directories], file)
    typer.echo(file)


def trace(run: RunArgument = "last", output: OutputOption = None, results: ResultsOption = Path("results")) -> None:
    """Write a run's timeline as a trace for Perfetto (or chrome://tracing): stages, points, faults, messages.

    Messages are in it when the experiment was traced (`trace: true` under `coherency`). Without -o it becomes
    trace.json in the run's directory.

    \b
    Examples:
      testbed trace
      testbed trace 4f1c -o trace.json
    """
    import json

    from images.errors import writing
    from orchestrator.progress import Progress
    from orchestrator.results.directories import find
    from orchestrator.results.past_run import read_run
    from orchestrator.results.perfetto import trace_events

    directory = find(results, run)
    file = output or directory / "trace.json"
    with Progress() as progress, progress.step(f"reading {directory.name}", announced=False), writing(file):
        told = trace_events(read_run(directory))
        file.write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")
    typer.echo(file)
