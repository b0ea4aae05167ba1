"""`testbed nightly`: every night a machine runs the set and says what got worse."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import WarmOption
from orchestrator.commands.results import ResultsOption
from orchestrator.output import table

if TYPE_CHECKING:
    from orchestrator.nightly.night import Night
    from orchestrator.nightly.schedule import Scheduled


class NightStage(StrEnum):
    """Where experiments can be measured."""

    VM = "vm"
    LOCAL = "local"


class Template(StrEnum):
    """What a night can be started by."""

    GITHUB = "github"
    GITLAB = "gitlab"
    SERVICE = "service"
    TIMER = "timer"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(nightly)


def nightly(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE…", help="Experiment files, or folders of them; configs/nightly when left out."),
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="45s, 90min, 2h: what does not fit waits.")] = "2h",
    stage: Annotated[NightStage, typer.Option(help="Real guests, or processes of this host.")] = NightStage.VM,
    accel: Annotated[
        str | None, typer.Option(metavar="auto|kvm|tcg", help="Overrule the accelerator of every node.")
    ] = None,
    warm: WarmOption = None,
    results: ResultsOption = Path("results"),
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Remove all nights but the latest N, with their runs.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JUnit XML there too.")] = None,
    summary: Annotated[Path | None, typer.Option(metavar="FILE", help="Append the Markdown summary to it.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show what would be run, and run nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print night.json to standard output, and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress of the runs.")] = False,
    template: Annotated[
        Template | None, typer.Option(help="Print a file that starts this every night, and run nothing.")
    ] = None,
) -> None:
    """Run a set of experiments within a budget of time, compare each with its baseline, and sum it up.

    What waited longest comes first. A guest that fails is tried once more, and the experiment marked flaky. The first
    three runs that pass become the baseline. The exit code is that of the worst experiment, 1 if one got worse.
    docs/nightly.md says more.

    \b
    Examples:
      testbed nightly --list
      testbed nightly --budget 30min --keep 30
      testbed nightly configs/quickstart.yaml configs/mix.yaml --stage local --json
      testbed nightly --template github > .github/workflows/nightly.yml
    """
    from orchestrator.errors import InputError
    from orchestrator.experiments.durations import seconds_of
    from orchestrator.experiments.experiment import Accelerator
    from orchestrator.output import put

    if template is not None:
        from orchestrator.nightly.templates import rendered

        put(rendered(template.value))
        return
    if accel is not None and accel not in [each.value for each in Accelerator]:
        raise InputError(f"found --accel {accel}, expected auto, kvm or tcg")
    if accel is not None and stage is not NightStage.VM:
        raise InputError(f"--accel: found with --stage {stage}, expected real guests", "leave one of them out")
    budget_s = seconds_of(budget, "--budget")
    from orchestrator.nightly.carry_out import Settings, run_night
    from orchestrator.nightly.night import read_nights
    from orchestrator.nightly.schedule import files_of, scheduled
    from orchestrator.run_command import Options

    nights = [night for _, night in read_nights(results)]
    experiments = scheduled(files_of(places or []), nights, stage.value, results, accel)
    if list_only:
        put(_listed_as_json(experiments, budget_s) if as_json else _listed(experiments, budget_s))
        return
    options = Options(accelerator=accel, warm=warm, quiet=quiet)
    night, directory = run_night(experiments, Settings(stage.value, results, budget_s, options, keep))
    _tell(night, directory.path, as_json=as_json, junit=junit, summary=summary)


def _tell(night: "Night", directory: Path, *, as_json: bool, junit: Path | None, summary: Path | None) -> None:
    """Print the night and copy what was asked for. Raises RunEnded unless it passed."""
    from images.errors import writing
    from orchestrator.errors import RunEnded
    from orchestrator.nightly import outputs
    from orchestrator.nightly.summary import title
    from orchestrator.output import put
    from orchestrator.results.junit import write_xml

    put(json.dumps(asdict(night), indent=2) + "\n" if as_json else (directory / outputs.TEXT).read_text())
    if junit is not None:
        write_xml((directory / outputs.JUNIT).read_text(), junit)
    if summary is not None:
        with writing(summary), summary.open("a", encoding="utf-8") as file:
            file.write((directory / outputs.SUMMARY).read_text())
    if night.exit_code:
        raise RunEnded(title(night), f"{directory} has summary, report and JUnit XML", night.exit_code)


def _listed(experiments: "list[Scheduled]", budget_s: float) -> str:
    from orchestrator.experiments.durations import duration

    rows = []
    for each, skipped in _planned(experiments, budget_s):
        takes = "?" if each.expected_s is None else duration(each.expected_s)
        last = (each.last_begun or "never").replace("T", " ").partition("+")[0]
        plan = f"skipped: {skipped}" if skipped else "runs"
        rows.append((each.plan.name, str(len(each.plan.points)), takes, each.basis, last, plan))
    return table(["experiment", "points", "takes", "known from", "last run (UTC)", "tonight"], rows)


def _listed_as_json(experiments: "list[Scheduled]", budget_s: float) -> str:
    rows = [
        {
            "experiment": each.plan.name,
            "file": str(each.plan.path),
            "points": len(each.plan.points),
            "expected_s": each.expected_s,
            "basis": each.basis,
            "last_begun": each.last_begun,
            "skipped": skipped,
        }
        for each, skipped in _planned(experiments, budget_s)
    ]
    return json.dumps(rows, indent=2) + "\n"


def _planned(experiments: "list[Scheduled]", budget_s: float) -> "Iterator[tuple[Scheduled, str]]":
    """In the order of the night, each with the reason why it will be skipped; one whose time is not known counts as
    none."""
    from orchestrator.nightly.schedule import why_not

    left_s = budget_s
    for each in experiments:
        skipped = why_not(each.expected_s, left_s, budget_s)
        left_s -= 0.0 if skipped else each.expected_s or 0.0
        yield each, skipped
