"""From the command line's words to settings and a stage; everything wrong in them is said before anything starts."""

from pathlib import Path

from orchestrator.experiment import Notify
from orchestrator.litmus.run import Memory, Settings, check_runnable, shapes_named
from orchestrator.plan import load
from orchestrator.progress import Progress
from orchestrator.results import RunDirectory
from orchestrator.stage import Stage


def settings_of(
    file: Path, shapes: str, iterations: int, notify: str | None, control: bool, seed: int, stage: str
) -> Settings:
    """Raises InputError. Of a file with a matrix the first point is taken."""
    chosen = shapes_named(shapes)
    experiment = load(file).points[0].experiment
    check_runnable(experiment, file.as_posix())
    if notify is not None and experiment.coherency is not None:
        coherency = experiment.coherency.model_copy(update={"notify": Notify(notify)})
        experiment = experiment.model_copy(update={"coherency": coherency})
    memories = list(Memory) if control else [Memory.COHERENT]
    return Settings(experiment, chosen, iterations, memories, seed, clocks_agree=stage == "local")


def stage_of(stage: str, settings: Settings, directory: RunDirectory, progress: Progress) -> Stage:
    """The place it runs in, not started yet."""
    shape = settings.experiment.testbed
    if stage == "local":
        from orchestrator.stage_local import LocalStage

        return LocalStage(shape, progress.say)
    from orchestrator.machines import name_for
    from orchestrator.stage_vm import VmStage

    return VmStage(name_for("litmus", f"-{directory.run_id[-4:]}"), shape, None, directory, progress)
