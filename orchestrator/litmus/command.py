"""From the command line's words to settings, a stage, and litmus.json.

Everything wrong in the words is said before anything starts. What was found is kept after every row, so that whatever
ends the command, the complete rows stay, with what ended it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import end_of
from orchestrator.experiments.plan import load
from orchestrator.litmus.run import Litmus, Memory, Settings, check_runnable, run, shapes_named
from orchestrator.litmus.table import as_json
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.stages.stage import Stage


def settings_of(
    file: Path, overrides: Sequence[str], shapes: str, iterations: int, control: bool, seed: int, stage: str
) -> Settings:
    """Raises InputError. Of a file with a matrix the first point is taken."""
    chosen = shapes_named(shapes)
    experiment = load(file, overrides).points[0].experiment
    check_runnable(experiment, file.as_posix())
    memories = list(Memory) if control else [Memory.COHERENT]
    return Settings(experiment, chosen, iterations, memories, seed, clocks_agree=stage == "local")


def stage_of(stage: str, settings: Settings, directory: RunDirectory, progress: Progress) -> Stage:
    """The place it runs in, not started yet."""
    shape = settings.experiment.testbed
    if stage == "local":
        from orchestrator.stages.local import LocalStage

        return LocalStage(shape)
    from orchestrator.stages.machines import name_for
    from orchestrator.stages.vm import VmStage

    return VmStage(name_for("litmus", f"-{directory.run_id[-4:]}"), shape, None, directory, progress)


def run_and_keep(settings: Settings, stage: Stage, directory: RunDirectory, found: Litmus, progress: Progress) -> None:
    """Fill `found`, and litmus.json with it. Raises what ended it before its last row."""

    def keep() -> None:
        directory.put_in_place("litmus.json", text_of(found))

    keep()
    try:
        run(settings, stage, directory, found, progress, keep)
        found.error = None
    except BaseException as error:
        found.error = end_of(error)
        raise
    finally:
        keep()


def text_of(found: Litmus) -> str:
    """The content of litmus.json."""
    return json.dumps(as_json(found), indent=2) + "\n"
