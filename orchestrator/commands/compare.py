"""`testbed compare` and `testbed baseline`: is it better or worse than before, or is that noise?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.results import ResultsOption
from orchestrator.output import table

if TYPE_CHECKING:
    from orchestrator.results.compare import Compared, Comparison

BASELINE = "baseline"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]
RunsArgument = Annotated[list[str], typer.Argument(metavar="RUN…", help="Ids, folders, or `last`.")]

baseline_app = typer.Typer(
    help="The runs that later ones are compared with.", no_args_is_help=True, rich_markup_mode=None
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(compare)
    app.add_typer(baseline_app, name="baseline")


def compare(
    base: Annotated[str, typer.Argument(help="A run, several with commas between, or `baseline`.")] = BASELINE,
    new: Annotated[str, typer.Argument(help="The run, or runs, to compare with it.")] = "last",
    results: ResultsOption = Path("results"),
    every: Annotated[bool, typer.Option("--all", help="Every comparison, not only changes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs, and tell changes from noise. Exit code 1 when something got worse.

    Repetitions are compared point by point (Mann-Whitney) and over all points (Wilcoxon), each with an effect size, a
    95 % interval of the ratio, and Holm's correction for the number of comparisons. docs/results.md says more.

    \b
    Examples:
      testbed compare 4f1c 77aa
      testbed compare baseline last --json
      testbed compare 4f1c,9b02,c3d4 77aa,81fe --all
    """
    from orchestrator.errors import CheckFailed, RunEnded
    from orchestrator.output import put
    from orchestrator.results.baseline import baseline_of
    from orchestrator.results.compare import compare as compared
    from orchestrator.results.directories import find
    from orchestrator.results.past_run import read_run

    there = [read_run(find(results, run)) for run in new.split(",")]
    if base == BASELINE:
        here = baseline_of(results, there[0].summary)
    else:
        here = [read_run(find(results, run)) for run in base.split(",")]
    found = compared(here, there)
    if as_json:
        put(json.dumps(asdict(found), indent=2) + "\n")
    else:
        put(_text(found, every))
    if found.worse:
        words = [f"  {each.metric}, {each.what}: {_change(each)}" for each in found.worse[:8]]
        message = "\n".join([f"{len(found.worse)} got worse", *words])
        raise RunEnded(message, "`--all` shows every comparison", CheckFailed.exit_code)


@baseline_app.callback()
def _group() -> None:
    """The runs that later ones are compared with."""


@baseline_app.command(name="set")
def set_runs(runs: RunsArgument, results: ResultsOption = Path("results")) -> None:
    """Make runs the baseline of their experiment and stage; several are better than one.

    \b
    Examples:
      testbed baseline set last
      testbed baseline set 4f1c 9b02 c3d4
    """
    from orchestrator.results.baseline import set_baseline
    from orchestrator.results.directories import find

    directories = [find(results, run) for run in runs]
    key = set_baseline(results, directories)
    typer.echo(f"baseline of {key}: {', '.join(directory.name for directory in directories)}")


@baseline_app.command()
def show(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Show the baselines of a results directory.

    \b
    Examples:
      testbed baseline show
    """
    from orchestrator.output import put
    from orchestrator.results.baseline import read_baselines

    found = read_baselines(results)
    if as_json:
        put(json.dumps(found, indent=2) + "\n")
        return
    rows = [(key, each["set"], ", ".join(each["runs"])) for key, each in sorted(found.items())]
    put(table(["of", "set", "runs"], rows) if rows else f"no baseline in {results}/ yet\n")


def _text(found: "Compared", every: bool) -> str:
    from orchestrator.results.compare import Verdict

    lines = [f"not alike: {each}\n" for each in found.unalike]
    if found.only_base or found.only_new:
        lines.append(f"left out: {found.only_base} points that only the base has, {found.only_new} only the new\n")
    lines.append(_table(list(found.overall)) if found.overall else "too few points in both to compare all together\n")
    shown = list(found.points)
    if not every:
        shown = [each for each in shown if each.verdict in (Verdict.WORSE, Verdict.BETTER)]
    if shown:
        lines.append("\n" + _table(shown))
    counts = {verdict: sum(each.verdict is verdict for each in found.points) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines.append(f"\npoint by point: {told or 'nothing to compare'}\n")
    if counts[Verdict.TOO_FEW]:
        lines.append("more repetitions (`repeat`), or more runs on each side, would tell\n")
    return "".join(lines)


def _table(comparisons: "list[Comparison]") -> str:
    head = ["metric", "of", "base", "new", "n", "ratio", "95 % interval", "effect", "p (Holm)", "verdict"]
    rows = []
    for each in comparisons:
        count = f"{each.base_count}" if each.base_count == each.new_count else f"{each.base_count}/{each.new_count}"
        ratio = "–" if each.ratio is None else f"{each.ratio:.3f}"
        interval = "–" if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}"
        figures = f"{each.base:.6g}", f"{each.new:.6g}"
        rest = f"{each.effect:+.2f}", f"{each.p_corrected:.2g}", str(each.verdict)
        rows.append((each.metric, each.what, *figures, count, ratio, interval, *rest))
    return table(head, rows)


def _change(each: "Comparison") -> str:
    interval = "" if each.low is None else f", 95 % {each.low:.3f} to {each.high:.3f}"
    ratio = "" if each.ratio is None else f"ratio {each.ratio:.3f}{interval}, "
    return f"{each.base:.6g} → {each.new:.6g} ({ratio}effect {each.effect:+.2f}, p {each.p_corrected:.2g})"
