"""`testbed litmus`: what the coherent memory shows to very short programs, and what it must never show."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FILE = Path(__file__).parents[2] / "configs" / "litmus.yaml"


class Stage(StrEnum):
    """Those of `orchestrator.experiments.experiment.StageName` that have memory; it needs pydantic."""

    VM = "vm"
    LOCAL = "local"


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(litmus)


def litmus(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="An experiment file with coherent memory.", show_default=False)
    ] = DEFAULT_FILE,
    stage: Annotated[Stage, typer.Option(help="Real guests, or processes of this host.")] = Stage.VM,
    shape: Annotated[str, typer.Option(metavar="NAME,…", help="Some of the shapes; all, if none.")] = "",
    iterations: Annotated[int, typer.Option(min=1, max=100_000, help="Instances of each row, at least.")] = 1000,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Put a value into the file; may be repeated."),
    ] = None,
    control: Annotated[bool, typer.Option(help="Run them on the bare segment too, without and with fences.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the random pauses.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where result directories go.")] = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Run litmus tests on the coherent memory; 1 is the exit code if it shows what it must not.

    Whatever ends it, litmus.json in the result directory has the rows that were complete.

    \b
    Examples:
      testbed litmus
      testbed litmus --stage local --iterations 10000
      testbed litmus --set coherency.protocol=origin
      testbed litmus --shape SB,IRIW --set coherency.notify=poll --no-control
      testbed litmus configs/quickstart.yaml --json | jq '.rows[] | {shape, outcomes}'
    """
    from images.errors import Failure
    from orchestrator.errors import RunEnded
    from orchestrator.litmus.command import run_and_keep, settings_of, stage_of, text_of
    from orchestrator.litmus.run import Litmus
    from orchestrator.litmus.table import render, violations
    from orchestrator.output import put
    from orchestrator.progress import Progress
    from orchestrator.results.directories import RunDirectory

    settings = settings_of(file, overrides or (), shape, iterations, control, seed, stage.value)
    coherency = settings.experiment.coherency
    assert coherency is not None
    directory = RunDirectory.create(results, "litmus")
    found = Litmus(stage.value, seed, coherency.notify.value, coherency.protocol)
    try:
        with Progress(quiet=quiet) as progress:
            place = stage_of(stage.value, settings, directory, progress)
            run_and_keep(settings, place, directory, found, progress)
    except Failure as failure:
        raise RunEnded(failure.message, failure.hint, failure.exit_code) from None
    finally:
        if as_json:
            put(text_of(found))
        else:
            terminal = sys.stdout.isatty()
            width = shutil.get_terminal_size().columns if terminal else None
            put(render(found, color=terminal, width=width) + f"results: {directory.path}\n")
    if found.broken:
        raise RunEnded(violations(found), f"{directory.path}/litmus.json has the first of every row", 1)
