"""A night, from its first experiment to its summary."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from images.errors import Failure
from orchestrator.errors import InputError
from orchestrator.experiments.durations import duration
from orchestrator.experiments.parameters import describe
from orchestrator.nightly.compared import compare_run, confirm
from orchestrator.nightly.night import NIGHTS, Entry, Night, State, now, read_nights
from orchestrator.nightly.outputs import write_outputs
from orchestrator.nightly.retention import prune
from orchestrator.nightly.schedule import Scheduled, why_not
from orchestrator.output import printable, tell
from orchestrator.progress import Progress
from orchestrator.results.compare import Comparison
from orchestrator.results.directories import RunDirectory, read_summary
from orchestrator.results.junit import INTERRUPTED, point_passed
from orchestrator.results.resume import earlier_parts
from orchestrator.results.summary import Outcome
from orchestrator.run_command import Options, carry_out, remove_left_over
from orchestrator.signals import signals_wait
from testbed.deadline import Deadline

GUESTS_FAILED = {"GuestError", "Silent", "Refused", "PointsFailed"}
"""Ends of a run that may be a guest's bad night. The host's own failures do not pass by themselves."""


@dataclass(frozen=True)
class Settings:
    """How a night is run."""

    stage: str
    results: Path
    budget_s: float
    options: Options
    """Of every run."""
    keep: int | None = None
    """Nights that are kept; None: all."""


def run_night(experiments: Sequence[Scheduled], settings: Settings) -> tuple[Night, RunDirectory]:
    """Run the experiments in this order within the budget, and write all that tells of it. Returns the night.

    Whatever ends it, what was done so far is written down. Raises Stopped, and HostError when there is no more room.
    """
    with only_one(settings.results):
        if settings.stage == "vm":
            _clean_up(settings.results)
        directory = RunDirectory.create(settings.results / NIGHTS, "night")
        night = Night(directory.run_id, settings.stage, settings.budget_s, [each.entry() for each in experiments])
        night.load = round(os.getloadavg()[0], 1)
        night.busy = night.load > (os.cpu_count() or 1) / 2
        ran = _Ran(night, directory, settings, Deadline(settings.budget_s), time.monotonic())
        try:
            ran.run(experiments)
        finally:
            with Progress() as progress, signals_wait(progress.say_soon):
                ran.end()
    return night, directory


@contextmanager
def only_one(results: Path) -> Iterator[None]:
    """Raises InputError when another process runs a night there."""
    (results / NIGHTS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(results / NIGHTS / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise InputError(
            f"found another `testbed nightly` at work in {results}/, expected none", "wait for it, or --results DIR"
        ) from None


def _clean_up(results: Path) -> None:
    """Remove guests of nights that were killed: their command cannot do it any more."""
    with Progress() as progress:
        for _, night in read_nights(results):
            for entry in night.entries:
                if entry.state is State.RUNNING and night.stage == "vm":
                    for run_id in entry.runs:
                        remove_left_over(entry.experiment, run_id, progress)


@dataclass
class _Ran:
    """A night while it goes on."""

    night: Night
    directory: RunDirectory
    settings: Settings
    deadline: Deadline
    begin: float
    complete: bool = False
    """Whether it came to its last experiment."""

    def run(self, experiments: Sequence[Scheduled]) -> None:
        """All that fit into the time that is left."""
        for number, (each, entry) in enumerate(zip(experiments, self.night.entries, strict=True), 1):
            left_s = self.deadline.remaining()
            if reason := why_not(each.expected_s, left_s, self.settings.budget_s):
                entry.state, entry.reason = State.SKIPPED, reason
                self._say(f"{entry.experiment}: skipped: {reason}")
                continue
            takes = "" if each.expected_s is None else f", about {duration(each.expected_s)}"
            self._say(f"{number} of {len(experiments)}: {entry.experiment}{takes}, {duration(left_s)} left")
            self._run_one(each, entry)
            self._say(f"{entry.experiment}: {entry.word}")
        self.complete = True

    def end(self) -> None:
        """What was not run is said to be so, and everything is written."""
        for entry in self.night.entries:
            if entry.state is State.RUNNING:
                self._note_interrupted(entry)
            elif entry.state is State.WAITING:
                entry.state, entry.reason = State.SKIPPED, "the night was stopped before"
        self.night.judge(complete=self.complete)
        self.night.duration_s = round(time.monotonic() - self.begin, 3)
        self.night.write(self.directory)
        if self.settings.keep is not None:
            self.night.removed = prune(self.settings.results, self.settings.keep)
        self.night.write(self.directory)
        write_outputs(self.night, self.directory.path, self.settings.results)

    def _run_one(self, each: Scheduled, entry: Entry) -> None:
        begin = time.monotonic()
        entry.state, entry.begun = State.RUNNING, now()
        try:
            passed = self._run(each, entry)
            worse = compare_run(entry, self.settings.results, entry.runs[0]) if passed else []
            if worse and not why_not(each.expected_s, self.deadline.remaining(), self.settings.budget_s):
                self._confirm(each, entry, worse)
        finally:
            entry.duration_s = round(time.monotonic() - begin, 3)
            self.night.write(self.directory)

    def _confirm(self, each: Scheduled, entry: Entry, worse: list[Comparison]) -> None:
        """Run the experiment again: what got worse by chance alone will hardly do so twice."""
        self._say(f"{entry.experiment}: {len(worse)} worse than the baseline, measured once more")
        entry.state = State.RUNNING
        again = replace(entry, worse=[], better=[], flaky=entry.flaky)  # its run is one of the entry's
        if self._run(each, again):
            confirm(entry, worse, compare_run(again, self.settings.results, again.runs[-1]))
        if again.state in (State.PASSED, State.CUT):
            entry.state = State.PASSED
        else:
            entry.state, entry.reason, entry.points_passed = again.state, again.reason, again.points_passed

    def _note_interrupted(self, entry: Entry) -> None:
        with contextlib.suppress(Failure):  # it may have been stopped before it had written anything
            note(entry, read_summary(self.settings.results / entry.runs[-1]))
        entry.state, entry.reason = State.INTERRUPTED, "the night was stopped"

    def _run(self, each: Scheduled, entry: Entry) -> bool:
        """Run the experiment once, and what is missing of it once more if guests failed. Whether it passed."""
        directory = RunDirectory.create(self.settings.results, each.plan.name)
        entry.runs.append(directory.run_id)
        self.night.write(self.directory)
        summary = self._attempt(each, directory)
        if worth_another(summary):
            error = summary["error"]["message"].partition("\n")[0]
            self._say(f"{entry.experiment}: a guest failed, once more: {error}")
            summary = self._attempt(each, directory, again=True)
        note(entry, summary)
        return entry.state is State.PASSED

    def _attempt(self, each: Scheduled, directory: RunDirectory, *, again: bool = False) -> dict[str, Any]:
        options = replace(self.settings.options, deadline=self.deadline, table=False)
        earlier = earlier_parts(directory.path, each.plan) if again else None
        try:
            carry_out(each.plan, self.settings.stage, each.programs, directory, options, earlier)
        except Failure:
            pass  # its run.json says so
        return read_summary(directory.path)

    def _say(self, text: str) -> None:
        tell(printable(f"nightly: {text}\n"))


def note(entry: Entry, summary: dict[str, Any]) -> None:
    """Note in the entry what came of a run."""
    points = summary["points"]
    error = summary["error"]
    entry.points_passed = sum(map(point_passed, points))
    entry.flaky += [
        f"point {point['index'] + 1}, {describe(point['parameters'])}: {_first_line(lost)}"
        for point in points
        if point_passed(point)
        for lost in point["lost"]
    ]
    before = [f"the attempt before had ended with: {_first_line(end)}" for end in summary["earlier_ends"]]
    entry.reason = "\n".join([error["message"], *before]) if error else ""
    match summary["outcome"]:
        case Outcome.PASSED:
            entry.state = State.PASSED
            entry.flaky += [_first_line(end) for end in summary["earlier_ends"] if end["kind"] != INTERRUPTED]
        case Outcome.FAILED:
            entry.state = State.FAILED
        case _:
            entry.state = State.CUT if error["kind"] == "OutOfTime" else State.ERROR


def worth_another(summary: dict[str, Any]) -> bool:
    """Whether guests failed, and no point was repeated in vain already."""
    if summary["outcome"] != Outcome.ERROR or summary["error"]["kind"] not in GUESTS_FAILED:
        return False
    return not any(point["lost"] for point in summary["points"] if not point_passed(point))


def _first_line(end: dict[str, str]) -> str:
    return end["message"].partition("\n")[0]
