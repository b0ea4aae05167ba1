"""A run as its directory tells it: what reports, the index, comparisons and traces are made from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.results.directories import read_summary
from orchestrator.results.events import EventName

EVENTS = "events.jsonl"
_LETTERS = {"reader": "R", "writer": "W"}


@dataclass
class PastPoint:
    """One point of a run that was."""

    index: int
    parameters: dict[str, Any] = field(default_factory=dict)
    repetition: int = 0
    experiment: dict[str, Any] = field(default_factory=dict)
    """The whole experiment as it was for this point, defaults included."""
    started_s: float = 0.0
    """On the host's monotonic clock, like all times of events."""
    finished_s: float = 0.0
    clocks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Each node's clock beside the host's, as `node_ready` has it."""
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each node's agent counted and measured."""
    result: dict[str, Any] | None = None
    """As in run.json; None if the point did not come to its end."""

    @property
    def coherency(self) -> dict[str, Any]:
        return self.experiment.get("coherency") or {}

    @property
    def workload(self) -> dict[str, Any]:
        return self.experiment.get("workload") or {}

    @property
    def passed(self) -> bool:
        """Whether it ended, no value was wrong, and every expectation holds."""
        result = self.result
        return bool(result and result["verified"] and all(verdict["holds"] for verdict in result["expectations"]))

    @property
    def sharing(self) -> str:
        """Who reads and who writes, as the poster has it: `R,W` is one reader and one writer, on whichever node."""
        roles = (self.result or {}).get("roles", {})
        letters = [_LETTERS[role] for own in roles.values() for role in own if role in _LETTERS]
        return ",".join(sorted(letters)) or str(self.workload.get("kind", ""))


@dataclass(frozen=True)
class PastRun:
    """A run that was, whole or in part."""

    directory: Path
    summary: dict[str, Any]
    points: tuple[PastPoint, ...]
    events: tuple[dict[str, Any], ...]
    """All but the agents' answers, which are the points'."""

    @property
    def run_id(self) -> str:
        return str(self.summary.get("run_id", self.directory.name))


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events in order. What was being written when the run was killed is left out; a log that is not there is empty."""
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        return
    with lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event


def read_run(directory: Path) -> PastRun:
    """Read the run in `directory`. Raises InputError when there is none."""
    summary = read_summary(directory)
    points: dict[int, PastPoint] = {}
    clocks: dict[str, dict[str, float]] = {}
    kept = []
    for event in read_events(directory / EVENTS):
        match event["event"]:
            case EventName.NODE_READY if event.get("clock"):
                clocks[event["name"]] = event["clock"]
            case EventName.POINT_STARTED:
                points[event["index"]] = PastPoint(
                    event["index"],
                    event["parameters"],
                    event["repetition"],
                    event.get("experiment", {}),
                    event["monotonic_s"],
                    clocks=dict(clocks),
                )
            case EventName.AGENT_FINISHED if event["index"] in points:
                points[event["index"]].answers[event["node"]] = event["answer"]
                continue
            case EventName.POINT_FINISHED if event["index"] in points:
                point = points[event["index"]]
                point.result = None if event["result"].get("error") else event["result"]
                point.finished_s = event["monotonic_s"]
        kept.append(event)
    return PastRun(directory, summary, tuple(points[index] for index in sorted(points)), tuple(kept))
