"""`testbed results`: what earlier runs left."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Results of earlier runs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Results of earlier runs."""


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's id, its beginning or end, a folder, or `last`.")] = "last",
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where result directories are.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print run.json.")] = False,
) -> None:
    """Show the summary of a run again.

    \b
    Examples:
      testbed results show
      testbed results show 4f1c --json
    """
    from orchestrator.report import render
    from orchestrator.results import find, read_summary

    summary = read_summary(find(results, run))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(render(summary, color=sys.stdout.isatty()), nl=False)
    if summary.get("error"):
        typer.echo(f"{summary['error']['kind']}: {summary['error']['message']}")
