"""`testbed run`: from an experiment file to a result directory, and to what is printed."""

import itertools
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from images.errors import Failure, no_room
from orchestrator.errors import DEFECT_EXIT_CODE, InputError, RunEnded
from orchestrator.experiment import Accelerator, Testbed
from orchestrator.output import put
from orchestrator.pause import Pause, no_pause
from orchestrator.plan import Plan, load
from orchestrator.progress import Progress
from orchestrator.provenance import provenance
from orchestrator.record import TRACEBACK, Record
from orchestrator.results import RunDirectory
from orchestrator.run import run
from orchestrator.stage import Stage
from orchestrator.summary import Outcome
from orchestrator.words import counted


def run_file(
    file: Path,
    overrides: Sequence[str],
    stage: str,
    *,
    accelerator: str | None,
    warm: bool | None,
    results: Path,
    keep: bool,
    pause: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    junit: Path | None = None,
) -> None:
    """Run the experiment and print its summary. Raises what ended it; run.json and the JSON say it too."""
    if stage != "vm" and (keep or accelerator):
        raise InputError(
            f"{'--keep' if keep else '--accel'}: found with --stage {stage}, expected real guests",
            "leave --stage out, or this option",
        )
    plan = load(file, overrides)
    check_runnable(plan)
    if pause and stage != "vm":
        raise InputError(f"found --pause-on-failure on stage {stage}, expected stage vm", "only guests can be entered")
    directory = RunDirectory.create(results, plan.name)
    with Progress(quiet=quiet, verbose=verbose) as progress:
        record = Record(plan, stage, directory, progress)
        try:
            with record, progress.heard_by(record.said):
                progress.say(
                    f"{plan.name}: {counted(len(plan.points), 'point')} on stage {stage}, results in {directory.path}"
                )
                record.made_with(provenance(plan, _architectures(plan) if stage == "vm" else []))
                if stage == "sim":
                    from orchestrator.stage_sim import run_simulated

                    run_simulated(plan, record, progress)
                else:
                    stage_for = _stage_factory(stage, plan.name, directory, progress, accelerator, warm)
                    at_failure = Pause(progress) if pause else no_pause
                    run(plan, stage_for, record, progress, keep=keep, at_failure=at_failure)
        except Failure as failure:
            raise RunEnded(failure.message, failure.hint, failure.exit_code) from None
        except Exception as error:
            raise _ended_by(error, directory, progress if verbose else None) from error
        finally:
            _print(record, as_json, quiet)
            if junit is not None:
                from orchestrator.junit import write_junit

                write_junit(record.summary.as_json(), junit)


def _ended_by(error: Exception, directory: RunDirectory, progress: Progress | None) -> RunEnded:
    """What nobody thought of is a defect, unless the host has no room left. `progress` is shown its traceback."""
    if isinstance(error, OSError) and (failure := no_room(error)):
        return RunEnded(failure.message, failure.hint, failure.exit_code)
    if progress is not None:
        progress.say("".join(traceback.format_exception(error)))
    what = f"a defect of testbed itself: {type(error).__name__}: {error}"
    return RunEnded(what, f"please report it, with {directory.path / TRACEBACK}", DEFECT_EXIT_CODE)


def check_runnable(plan: Plan) -> None:
    """Raise InputError if there is nothing to run in some point."""
    for point in plan.points:
        if point.experiment.coherency is None or point.experiment.workload is None:
            raise InputError(
                f"{plan.path}: found no coherency and workload, expected both to run it",
                "`testbed up` needs only the machines",
            )


def _architectures(plan: Plan) -> list[str]:
    return [node.arch.value for testbed, _ in plan.testbeds for node in testbed.nodes.values()]


def _stage_factory(
    stage: str,
    experiment: str,
    directory: RunDirectory,
    progress: Progress,
    accelerator: str | None,
    warm: bool | None,
) -> Callable[[Testbed], Stage]:
    if stage == "local":
        from orchestrator.stage_local import LocalStage

        return lambda testbed: LocalStage(testbed, progress.say)
    from orchestrator.machines import name_for
    from orchestrator.stage_vm import VmStage
    from testbed.warm import Mode

    wanted = Accelerator(accelerator) if accelerator else None
    numbers = itertools.count(1)  # with --keep the testbed before is still there

    def stage_for(testbed: Testbed) -> Stage:
        number = next(numbers)
        ending = f"-{directory.run_id[-4:]}" + (f"-{number}" if number > 1 else "")
        return VmStage(name_for(experiment, ending), testbed, wanted, directory, progress, Mode.wanted(warm))

    return stage_for


def _print(record: Record, as_json: bool, quiet: bool) -> None:
    summary = record.summary.as_json()
    if as_json:
        put(json.dumps(summary, indent=2) + "\n")
    elif not quiet and (summary["points"] or summary["outcome"] == Outcome.PASSED):
        from orchestrator.summary_table import render

        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        put(render(summary, color=terminal, width=width))
