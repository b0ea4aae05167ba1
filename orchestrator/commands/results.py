"""`testbed results`: what earlier runs left."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.output import put, table, tell

app = typer.Typer(help="Results of earlier runs.", no_args_is_help=True, rich_markup_mode=None)

RunArgument = Annotated[str, typer.Argument(help="A run's id, its beginning or end, a folder, or `last`.")]
ResultsOption = Annotated[Path, typer.Option(metavar="DIR", help="Where result directories are.")]


@app.callback()
def _group() -> None:
    """Results of earlier runs."""


@app.command()
def show(
    run: RunArgument = "last",
    results: ResultsOption = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print run.json.")] = False,
) -> None:
    """Show the summary of a run again.

    \b
    Examples:
      testbed results show
      testbed results show 4f1c --json
    """
    from orchestrator.results.directories import find, read_summary
    from orchestrator.results.summary_table import render

    summary = read_summary(find(results, run))
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(render(summary, color=sys.stdout.isatty()), nl=False)
    if summary.get("error"):
        typer.echo(f"{summary['error']['kind']}: {summary['error']['message']}")


@app.command(name="list")
def list_runs(
    results: ResultsOption = Path("results"),
    limit: Annotated[int, typer.Option(min=1, help="Only so many, the latest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
) -> None:
    """List the runs of a results directory, the latest last.

    \b
    Examples:
      testbed results list
      testbed results list --limit 100 --json
    """
    columns = "run_id, outcome, stage, points, planned_points, started, duration_s"
    latest = f"SELECT {columns} FROM runs ORDER BY started DESC, run_id DESC LIMIT {limit}"
    sql = f"SELECT {columns} FROM ({latest}) ORDER BY started, run_id"
    _print(*_asked(results, sql), as_json)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SQL statement that reads; tables and columns: docs/results.md.")],
    results: ResultsOption = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of objects, and nothing else.")] = False,
) -> None:
    """Ask the SQLite index of all runs; it is brought up to date first and cannot be changed by a statement.

    \b
    Examples:
      testbed results query "SELECT run_id, outcome FROM runs"
      testbed results query "SELECT sharing, pages, iterations, messages_total FROM points" --json
      testbed results query "SELECT node, page, SUM(remote_write) FROM faults GROUP BY node, page"
    """
    _print(*_asked(results, sql), as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A name that ends in .csv or .parquet.")],
    table: Annotated[str, typer.Option(help="The table of the index to write.")] = "points",
    sql: Annotated[str | None, typer.Option("--query", help="Write what this statement finds.")] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Write a table of all runs as CSV or Parquet.

    \b
    Examples:
      testbed results export points.csv
      testbed results export faults.parquet --table faults
      testbed results export medians.csv --query "SELECT point, median_us FROM latencies WHERE kind = 'remote_read'"
    """
    from contextlib import closing

    from orchestrator.results import export as exporting
    from orchestrator.results.index import open_index
    from orchestrator.words import counted

    statement = sql or exporting.table_query(table)
    with closing(open_index(results, _tell)) as index:
        count = exporting.export(index, statement, file)
    typer.echo(f"{file}: {counted(count, 'row')}")


@app.command()
def junit(
    run: RunArgument = "last",
    file: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """A run as JUnit XML, for CI; `testbed run --junit FILE` writes it at once.

    \b
    Examples:
      testbed results junit
      testbed results junit 4f1c -o junit.xml
    """
    from orchestrator.results.directories import find, read_summary
    from orchestrator.results.junit import junit as xml_of
    from orchestrator.results.junit import write_junit

    summary = read_summary(find(results, run))
    if file is None:
        typer.echo(xml_of(summary), nl=False)
    else:
        write_junit(summary, file)


def _asked(results: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    from contextlib import closing

    from orchestrator.results.index import open_index
    from orchestrator.results.index import query as ask

    with closing(open_index(results, _tell)) as index:
        return ask(index, sql)


def _tell(text: str) -> None:
    tell(f"{text}\n")


def _print(names: list[str], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    """A table for people, or a list of objects."""
    if as_json:
        put(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2) + "\n")
        return
    put(table(names, rows))


def add_to(whole: typer.Typer) -> None:
    """Make the commands of this module commands of `whole`."""
    whole.add_typer(app, name="results")
