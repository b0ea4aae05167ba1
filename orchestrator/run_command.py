"""`testbed run`: from an experiment file to a result directory, and to what is printed."""

import itertools
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from images.errors import Failure
from orchestrator.errors import DEFECT_EXIT_CODE, InputError, RunEnded
from orchestrator.experiments.experiment import Accelerator, Testbed
from orchestrator.experiments.plan import Plan, load
from orchestrator.experiments.workloads import Command, SharedArray
from orchestrator.output import put
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory, find
from orchestrator.results.provenance import provenance
from orchestrator.results.record import TRACEBACK, Record
from orchestrator.results.resume import Earlier, earlier_parts, plan_of
from orchestrator.results.summary import Outcome
from orchestrator.run import run
from orchestrator.stages.pause import Pause, no_pause
from orchestrator.stages.programs import Programs
from orchestrator.stages.stage import Stage
from orchestrator.words import counted
from testbed.deadline import Deadline
from testbed.errors import of_host


@dataclass(frozen=True)
class Options:
    """How an experiment is run, whatever it is."""

    accelerator: str | None = None
    """Overrules that of every node."""
    warm: bool | None = None
    offline: bool = False
    """Start machines from saved states, or boot; None: from saved states where there are some."""
    keep: bool = False
    """Leave the guests running."""
    pause: bool = False
    """At a failure, wait until somebody has looked in."""
    fail_fast: bool = False
    """End with the first point that fails."""
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    junit: Path | None = None
    """Where to write the outcome as JUnit XML."""
    table: bool = True
    """Print the summary at the end."""
    deadline: Deadline | None = None
    """After it no point is begun."""
    stage_for: Callable[[Testbed], Stage] | None = None
    """Where to run, in place of machines that are brought up for it."""


def run_file(file: Path, overrides: Sequence[str], stage: str, results: Path, options: Options) -> None:
    """Run the experiment and print its summary. Raises what ended it; run.json and the JSON say it too."""
    _check_options(stage, options)
    plan = load(file, overrides)
    check_simulatable(plan) if stage == "sim" else check_runnable(plan)
    programs = Programs(plan, stage)
    carry_out(plan, stage, programs, RunDirectory.create(results, plan.name), options)


def resume_run(run: str, results: Path, options: Options) -> None:
    """Go on with a run where it ended: complete points stay as they are. Raises InputError, and as `run_file` does."""
    path = find(results, run).absolute()
    plan = plan_of(path)
    earlier = earlier_parts(path, plan)
    _check_options(earlier.stage, options)
    accelerator = options.accelerator or earlier.accelerator
    programs = Programs(plan, earlier.stage)
    carry_out(plan, earlier.stage, programs, RunDirectory(path), replace(options, accelerator=accelerator), earlier)


def _check_options(stage: str, options: Options) -> None:
    """Raise InputError for what has a meaning for guests alone."""
    if stage == "vm":
        return
    if options.keep or options.accelerator:
        raise InputError(
            f"{'--keep' if options.keep else '--accel'}: found with --stage {stage}, expected real guests",
            "leave --stage out, or this option",
        )
    if options.pause:
        raise InputError(f"found --pause-on-failure on stage {stage}, expected stage vm", "only guests can be entered")


def carry_out(
    plan: Plan,
    stage: str,
    programs: Programs,
    directory: RunDirectory,
    options: Options,
    earlier: Earlier | None = None,
) -> None:
    """Run a plan whose options are right into a directory; `earlier` is what it has of the run already.

    Raises RunEnded, or Stopped, with run.json written.
    """
    with Progress(quiet=options.quiet, verbose=options.verbose) as progress:
        record = Record(plan, stage, directory, progress, accelerator=options.accelerator, earlier=earlier)
        try:
            with record, progress.heard_by(record.said):
                count = counted(len(plan.points), "point")
                if earlier is not None:
                    count = f"{len(plan.points) - len(earlier.points)} of {count} left"
                progress.say(f"{plan.name}: {count} on stage {stage}, results in {directory.path}")
                record.made_with(provenance(plan, _architectures(plan) if stage == "vm" else []))
                if stage == "sim":
                    from orchestrator.stages.sim import run_simulated

                    run_simulated(plan, record, progress, fail_fast=options.fail_fast)
                else:
                    stage_for = options.stage_for or _stage_factory(stage, plan.name, directory, progress, options)
                    at_failure = Pause(progress) if options.pause else no_pause
                    run(
                        plan,
                        stage_for,
                        programs,
                        record,
                        progress,
                        keep=options.keep,
                        fail_fast=options.fail_fast,
                        deadline=options.deadline,
                        at_failure=at_failure,
                    )
        except Failure as failure:
            raise RunEnded(failure.message, failure.hint, failure.exit_code) from None
        except Exception as error:
            raise _ended_by(error, directory, progress if options.verbose else None) from error
        finally:
            _print(record, options.as_json, quiet=options.quiet or not options.table)
            if options.junit is not None:
                from orchestrator.results.junit import write_junit

                write_junit(record.summary.as_json(), options.junit)


def _ended_by(error: Exception, directory: RunDirectory, progress: Progress | None) -> RunEnded:
    """What nobody thought of is a defect, unless the host does not let us. `progress` is shown its traceback."""
    if isinstance(error, OSError) and (failure := of_host(error)):
        return RunEnded(failure.message, failure.hint, failure.exit_code)
    if progress is not None:
        progress.say("".join(traceback.format_exception(error)))
    what = f"a defect of testbed itself: {type(error).__name__}: {error}"
    return RunEnded(what, f"please report it, with {directory.path / TRACEBACK}", DEFECT_EXIT_CODE)


def check_runnable(plan: Plan) -> None:
    """Raise InputError if there is nothing to run in some point."""
    for point in plan.points:
        if isinstance(point.experiment.workload, Command):
            continue
        if point.experiment.coherency is None or point.experiment.workload is None:
            raise InputError(
                f"{plan.path}: found no coherency and workload, expected both to run it",
                "`testbed up` needs only the machines",
            )


def check_simulatable(plan: Plan) -> None:
    """Raise InputError if engines alone cannot run some point: they know no programs."""
    check_runnable(plan)
    for point in plan.points:
        workload = point.experiment.workload
        if not isinstance(workload, SharedArray):
            kind = workload.kind if workload else "nothing"
            found = f"a workload of kind {kind}, expected shared-array to simulate it"
            raise InputError(f"{plan.path}: found {found}", "`--stage local` runs programs without machines")
        if point.experiment.coherency and point.experiment.coherency.resident:
            found = "found a value for coherency.resident, expected none to simulate it"
            raise InputError(f"{plan.path}: {found}", "`--stage local` runs it without machines")
        if workload.write_share < 1:
            found = f"write_share {workload.write_share:g}, expected 1.0 to simulate it"
            raise InputError(f"{plan.path}: found {found}", "`--stage local` runs it without machines")


def _architectures(plan: Plan) -> list[str]:
    return [node.arch.value for testbed, _ in plan.testbeds for node in testbed.nodes.values()]


def _stage_factory(
    stage: str,
    experiment: str,
    directory: RunDirectory,
    progress: Progress,
    options: Options,
) -> Callable[[Testbed], Stage]:
    if stage == "local":
        from orchestrator.stages.local import LocalStage

        return LocalStage
    from orchestrator.stages.machines import name_for
    from orchestrator.stages.vm import VmStage
    from testbed.warm import Mode

    remove_left_over(experiment, directory.run_id, progress)
    wanted = Accelerator(options.accelerator) if options.accelerator else None
    mode = Mode.wanted(options.warm)
    numbers = itertools.count(1)  # with --keep the testbed before is still there

    def stage_for(testbed: Testbed) -> Stage:
        number = next(numbers)
        ending = f"-{directory.run_id[-4:]}" + (f"-{number}" if number > 1 else "")
        name = name_for(experiment, ending)
        return VmStage(name, testbed, wanted, directory, progress, mode, offline=options.offline)

    return stage_for


def remove_left_over(experiment: str, run_id: str, progress: Progress) -> None:
    """Guests of a part of this run that was killed: for when nobody else is running it."""
    from orchestrator.stages.machines import name_for
    from testbed import Condition, list_all
    from testbed.teardown import down

    name = name_for(experiment, f"-{run_id[-4:]}")
    for left in list_all():
        own = left.name == name or left.name.startswith(f"{name}-")
        if own and left.condition is Condition.LEFT_OVER:
            progress.say(f"{left.name}: removing what an earlier part of this run left over")
            down(left.name, progress.detail)


def _print(record: Record, as_json: bool, *, quiet: bool) -> None:
    summary = record.summary.as_json()
    if as_json:
        put(json.dumps(summary, indent=2) + "\n")
    elif not quiet and (summary["points"] or summary["outcome"] == Outcome.PASSED):
        from orchestrator.results.summary_table import render

        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        put(render(summary, color=terminal, width=width))
