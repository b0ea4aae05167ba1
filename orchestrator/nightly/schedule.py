"""What a night runs, and in which order: what has waited longest comes first, so that nothing starves.

An experiment that does not fit into the time that is left is skipped, and those behind it that fit are run. The next
night it stands in front of them, with the whole budget before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from orchestrator.errors import FileError, InputError
from orchestrator.experiments.durations import duration
from orchestrator.experiments.forecast import forecast
from orchestrator.experiments.plan import Plan, load
from orchestrator.nightly.night import Entry, Night, State
from orchestrator.run_command import check_runnable
from orchestrator.stages.programs import Programs
from orchestrator.words import counted

DEFAULT = Path("configs/nightly")
MEASURED = 5
"""Earlier nights that an experiment's time is taken from, the latest."""


@dataclass(frozen=True)
class Scheduled:
    """An experiment, right and compiled, and what is known of it."""

    plan: Plan
    programs: Programs
    expected_s: float | None
    basis: str
    last_begun: str
    """When a night ran it last; "" if none did."""

    def entry(self) -> Entry:
        """Its place in the night."""
        return Entry(self.plan.name, str(self.plan.path), len(self.plan.points), self.expected_s, self.basis)


def files_of(places: Sequence[Path]) -> list[Path]:
    """Files as they are, and of folders the *.yaml in them, by name. Raises InputError when there are none."""
    found: list[Path] = []
    for place in places or [DEFAULT]:
        inside = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not inside:
            raise InputError(f"found no *.yaml in {place}/, expected experiment files", "`testbed nightly FILE…`")
        found += inside
    return found


def scheduled(
    files: Sequence[Path], nights: Sequence[Night], stage: str, results: Path, accelerator: str | None
) -> list[Scheduled]:
    """The experiments of these files in the order in which they are to run. Raises FileError with the problems of all
    files together, InputError for what else keeps one of them from being run.
    """
    plans: list[Plan] = []
    problems: list[str] = []
    for file in files:
        try:
            plans.append(load(file))
        except FileError as error:
            problems += error.problems
    if problems:
        raise FileError(problems)
    _check_names(plans)
    found = []
    for plan in plans:
        check_runnable(plan)
        earlier = [
            entry
            for night in nights
            if night.stage == stage
            for entry in night.entries
            if entry.experiment == plan.name
        ]
        expected_s, basis = _expected(plan, earlier, stage, results, accelerator)
        last_begun = max((entry.begun for entry in earlier), default="")
        found.append(Scheduled(plan, Programs(plan, stage), expected_s, basis, last_begun))
    return sorted(found, key=lambda each: each.last_begun)  # stable: else as the files are named


def why_not(expected_s: float | None, left_s: float, budget_s: float) -> str:
    """Why an experiment that takes so long is not begun with so much time left; "" if it is."""
    if left_s <= 0:
        return f"the budget of {duration(budget_s)} was over"
    if expected_s is None or expected_s <= left_s:
        return ""
    if expected_s > budget_s:
        return f"needs about {duration(expected_s)}, the whole budget is {duration(budget_s)}"
    return f"needs about {duration(expected_s)}, {duration(left_s)} of {duration(budget_s)} were left"


def _check_names(plans: Iterable[Plan]) -> None:
    """Results and baselines go by the name of the experiment."""
    by_name: dict[str, Path] = {}
    for plan in plans:
        if plan.name in by_name:
            found = f"name '{plan.name}', which {by_name[plan.name]} has too"
            raise InputError(f"{plan.path}: found {found}, expected a name for each", "change `name:` of one of them")
        by_name[plan.name] = plan.path


def _expected(
    plan: Plan, earlier: Sequence[Entry], stage: str, results: Path, accelerator: str | None
) -> tuple[float | None, str]:
    """As long as whole runs of it took; else as its points are thought to take, if that can be known."""
    took = [
        entry.duration_s / len(entry.runs)
        for entry in earlier
        if entry.state is State.PASSED and entry.planned_points == len(plan.points)
    ][-MEASURED:]
    if took:
        return median(took), f"median of {counted(len(took), 'night')}"
    times = [each.expected_s for each in forecast(plan, stage, results, accelerator)]
    if None in times:
        return None, "never run"
    return sum(time for time in times if time is not None), "computed"
