"""One night: which experiments it was to run, what became of each, and the file that keeps it.

results/nights/20260131T020000Z-night-4f1c/
    night.json      this; replaced in one step whenever something happens, and "interrupted" until the night is over
    summary.md      for people, on a page of a CI
    summary.txt     the same as text
    junit.xml       every point of every run
    report.html     all runs on one page
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.results.directories import RunDirectory

NIGHTS = "nights"
FILE = "night.json"


class State(StrEnum):
    """What became of an experiment."""

    WAITING = "waiting"
    RUNNING = "running"
    """As long as it runs. In the file of a night that was killed, the one that it was at."""
    PASSED = "passed"
    FAILED = "failed"
    """A value was wrong, or an expectation does not hold."""
    ERROR = "error"
    """The host or a guest failed, twice if that could be flaky."""
    CUT = "cut short"
    """The night's time was over."""
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


class NightOutcome(StrEnum):
    """How a night ended, as the worst of its experiments did."""

    PASSED = "passed"
    FAILED = "failed"
    """Something was not as expected, or got worse than its baseline."""
    ERROR = "error"
    INTERRUPTED = "interrupted"


EXIT_CODES = {NightOutcome.PASSED: 0, NightOutcome.FAILED: 1, NightOutcome.ERROR: 3, NightOutcome.INTERRUPTED: 3}


def now() -> str:
    """UTC, as it stands in night.json; its order is that of time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Entry:
    """One experiment of a night."""

    experiment: str
    file: str
    planned_points: int
    expected_s: float | None
    """What it was thought to take; None if nobody knew."""
    basis: str = ""
    """Where that comes from."""
    state: State = State.WAITING
    reason: str = ""
    """Why it was skipped, or did not pass."""
    begun: str = ""
    """UTC, ISO 8601."""
    duration_s: float = 0.0
    points_passed: int = 0
    runs: list[str] = field(default_factory=list)
    """Ids: the run, and the one by which something worse was confirmed."""
    flaky: list[str] = field(default_factory=list)
    """What went well at the second attempt only, and what the first one had ended with."""
    baseline: str = ""
    """What came of the comparison, in words."""
    worse: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What may explain a change."""

    @property
    def has_run(self) -> bool:
        """Whether it was begun."""
        return bool(self.begun)

    @property
    def word(self) -> str:
        """Its outcome in one or two words: what did not pass, and what passed but is not as it should be."""
        if self.state is not State.PASSED:
            return self.state.value
        return " and ".join(["worse"] * bool(self.worse) + ["flaky"] * bool(self.flaky)) or "passed"


@dataclass
class Night:
    """One night."""

    night_id: str
    stage: str
    budget_s: float
    entries: list[Entry]
    started: str = field(default_factory=now)
    duration_s: float = 0.0
    outcome: NightOutcome = NightOutcome.INTERRUPTED
    load: float = 0.0
    """Programs that ran on the host in the minute before it began."""
    busy: bool = False
    """Whether these took half of the host or more: then its figures say little."""
    removed: str = ""
    """What was removed of earlier nights, in words."""

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT_CODES[self.outcome]

    def judge(self, *, complete: bool) -> None:
        """Set the outcome to that of the worst experiment, if the night was `complete`.

        What was skipped or cut short has neither passed nor failed, but if nothing came to its end the night has shown
        nothing, which is an error.
        """
        states = {entry.state for entry in self.entries}
        if not complete:
            self.outcome = NightOutcome.INTERRUPTED
        elif State.ERROR in states or not states & {State.PASSED, State.FAILED}:
            self.outcome = NightOutcome.ERROR
        elif State.FAILED in states or any(entry.worse for entry in self.entries):
            self.outcome = NightOutcome.FAILED
        else:
            self.outcome = NightOutcome.PASSED

    def write(self, directory: RunDirectory) -> None:
        """Put night.json in place. Raises HostError when there is no room."""
        directory.put_in_place(FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Night":
        """From the content of night.json. Raises KeyError, TypeError or ValueError for anything else."""
        entries = [Entry(**(each | {"state": State(each["state"])})) for each in data["entries"]]
        return cls(**(data | {"entries": entries, "outcome": NightOutcome(data["outcome"])}))


def read_nights(results: Path) -> Iterator[tuple[Path, Night]]:
    """The nights of a results directory, the oldest first. One whose file another version wrote is left out."""
    for path in sorted((results / NIGHTS).glob(f"*/{FILE}")):
        try:
            yield path.parent, Night.of(json.loads(path.read_bytes()))
        except (OSError, KeyError, TypeError, ValueError):
            continue
