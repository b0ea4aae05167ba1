"""`testbed simulate`: from words of the command line to simulations, and to what is printed."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import CheckFailed, InputError, RunEnded, Stopped
from orchestrator.experiments.parameters import describe
from orchestrator.experiments.plan import load
from orchestrator.output import put
from orchestrator.progress import Progress
from orchestrator.run_command import check_simulatable
from orchestrator.simulator import growth
from orchestrator.simulator.conditions import Conditions, parse_range
from orchestrator.simulator.memory import Violation
from orchestrator.simulator.render import render_growth, render_series
from orchestrator.simulator.series import Series, Simulated
from orchestrator.simulator.setting import Setting


def simulate_file(
    file: Path,
    overrides: Sequence[str],
    *,
    seeds: range,
    kernels: int | None,
    point: int | None,
    conditions: Conditions,
    log: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Simulate every point with every seed. Raises RunEnded, exit code 1, at the first that shows what must not be."""
    plan = load(file, overrides)
    check_simulatable(plan)
    if point is not None and point > len(plan.points):
        raise InputError(f"--point: found {point}, but {file} has {len(plan.points)} points", "they count from 1")
    series = Series(plan, seeds, conditions, kernels, point, tuple(overrides))
    for each in series.points:
        conditions.check(Setting.of(each.experiment, kernels).names)
    simulations: list[Simulated] = []
    planned = len(seeds) * len(series.points)
    stopped: Stopped | None = None
    with _opened(log) as events, Progress(quiet=quiet) as progress, progress.step("simulating", announced=False):
        try:
            for simulated in series.run(events):
                simulations.append(simulated)
                if len(simulations) % 100 == 0:
                    progress.now(f"simulating: {len(simulations)} of {planned} done, none failed")
        except Stopped as signal:
            stopped = signal
    if as_json:
        put(json.dumps(_as_json(series, simulations, planned, stopped), indent=2) + "\n")
    elif not quiet and simulations:
        put(render_series(series, simulations, color=sys.stdout.isatty()))
    if simulations and not simulations[-1].passed:
        raise _ended(series, simulations[-1])
    if stopped:
        raise stopped


def show_growth(kernels: str | None, *, seed: int, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """Count messages with more and more kernels. Raises CheckFailed where they are not what the formulas say."""
    numbers = parse_range("--kernels", kernels or f"2..{growth.KERNELS_MAX}", 2, growth.KERNELS_MAX)
    if plot is not None and not plot.parent.is_dir():
        raise _unwritable(plot, "no such folder")
    costs: list[growth.Cost] = []
    with Progress(quiet=quiet) as progress, progress.step("counting messages", announced=False):
        try:
            for cost in growth.growth(growth.steps_of(numbers), seed):
                costs.append(cost)
                progress.now(f"counting messages: {cost.kernels} of {numbers[-1]} kernels, {cost.load}")
        except Violation as violation:
            again = f"testbed simulate --growth --kernels {numbers[0]}..{numbers[-1]} --seed {seed}"
            raise CheckFailed(f"{violation.kind}: {violation.message}", f"repeat it with: `{again}`") from None
    if plot is not None:
        from orchestrator.simulator.plot import draw

        with _opened(plot) as picture:
            assert picture is not None
            picture.write(draw(costs))
    agrees = all(cost.agrees for cost in costs)
    if as_json:
        outcome = "passed" if agrees else "failed"
        told = {"stage": "sim", "outcome": outcome, "seed": seed, "growth": [asdict(cost) for cost in costs]}
        put(json.dumps(told, indent=2) + "\n")
    elif not quiet:
        put(render_growth(costs, color=sys.stdout.isatty()))
    if not agrees:
        raise RunEnded("message counts differ from the formulas of docs/protocol.md", "the table shows where", 1)


def _as_json(series: Series, simulations: list[Simulated], planned: int, stopped: Stopped | None) -> dict[str, Any]:
    failed = next((each for each in simulations if not each.passed), None)
    return {
        "experiment": series.plan.name,
        "stage": "sim",
        "outcome": "failed" if failed else "interrupted" if stopped else "passed",
        "seeds": [series.seeds[0], series.seeds[-1]],
        "conditions": asdict(series.conditions),
        "planned": planned,
        "repeat": series.again(failed.seed, failed.point) if failed else None,
        "simulations": [simulated.as_json() for simulated in simulations],
    }


def _ended(series: Series, simulated: Simulated) -> RunEnded:
    point = simulated.point
    lines = [f"seed {simulated.seed}, point {point.index + 1} ({describe(point.parameters)}) failed"]
    if simulated.failure:
        lines.append(f"  {simulated.failure.kind}: {simulated.failure.message}")
        lines += ["  the last events:", *(f"  {line}" for line in simulated.last)]
    else:
        broken = [verdict for verdict in simulated.result.expectations if not verdict.holds]
        lines += [f"  does not hold: {verdict.expression}   ({verdict.shown})" for verdict in broken]
    return RunEnded("\n".join(lines), f"repeat it with: `{series.again(simulated.seed, point)}`", 1)


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, str(error.strerror)) from None
    with file:
        yield file


def _unwritable(path: Path, why: str) -> InputError:
    return InputError(f"cannot write {path}: {why}", "name a file in a folder that exists")
