"""Going on with a run that was interrupted: what its event log knows.

The log is the only witness: run.json says how the run ended, if it came to say anything. A point is complete when its
`point_finished` is there and it came to its end; all others are run, from the plan that the run kept (`resolved.yaml`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import FileError, InputError
from orchestrator.experiments.plan import Plan, load
from orchestrator.results.events import SCHEMA_VERSION, EventName
from orchestrator.results.past_run import EVENTS, read_events
from orchestrator.results.summary import NodeSummary, PointResult

_HINT = "start it anew: `testbed run FILE`"
_POINT = TypeAdapter(PointResult)
_NODE = TypeAdapter(NodeSummary)


@dataclass
class Earlier:
    """What is known of the parts of a run that are over."""

    stage: str = ""
    accelerator: str | None = None
    started: str = ""
    resumed: int = 0
    duration_s: float = 0.0
    """Of all parts together, without the time between them."""
    points: tuple[PointResult, ...] = ()
    """Complete ones."""
    nodes: tuple[NodeSummary, ...] = ()
    stages_s: dict[str, float] = field(default_factory=dict)
    ends: list[dict[str, str]] = field(default_factory=list)
    """What each of them ended with, as far as it came to say so."""


def plan_of(directory: Path) -> Plan:
    """The plan of the run in `directory`. Raises InputError."""
    file = directory / "resolved.yaml"
    if not file.exists():
        raise InputError(f"{directory}: found no resolved.yaml, expected the run's plan", _HINT)
    try:
        return load(file)
    except FileError as error:
        raise InputError(
            f"{error.message}\nfound a plan that this version does not take, expected one", _HINT
        ) from None


def earlier_parts(directory: Path, plan: Plan) -> Earlier:
    """What the event log tells. Raises InputError when it is another plan's, or of another version."""
    known = Earlier()
    points: dict[int, PointResult] = {}
    nodes: dict[str, NodeSummary] = {}
    begun = last = None
    for event in read_events(directory / EVENTS):
        wall = datetime.fromisoformat(event["wall"])
        match event["event"]:
            case EventName.RUN_STARTED:
                _check(directory, plan, event)
                known.stage, known.accelerator = event["stage"], event.get("accelerator")
                known.started = wall.isoformat(timespec="seconds")
                begun = wall
            case EventName.RUN_RESUMED:
                known.resumed += 1
                known.duration_s += _between(begun, last)
                begun = wall
            case EventName.POINT_FINISHED:
                points[event["index"]] = _read(_POINT, event["result"], directory)
            case EventName.NODE_READY:
                fields = {name: value for name, value in event.items() if name in NodeSummary.__dataclass_fields__}
                nodes[event["name"]] = _read(_NODE, fields, directory)
            case EventName.FAILED:
                known.ends.append({name: str(event[name]) for name in ("kind", "message", "hint")})
            case EventName.STAGE_FINISHED:
                known.stages_s[event["name"]] = round(
                    known.stages_s.get(event["name"], 0.0) + float(event["duration_s"]), 3
                )
        last = wall
    if not known.stage:
        raise InputError(f"{directory}: found no beginning of a run in {EVENTS}, expected one", _HINT)
    known.duration_s += _between(begun, last)
    known.points = tuple(
        points[index] for index in sorted(points) if points[index].error is None and not points[index].losses
    )
    known.nodes = tuple(nodes.values())
    return known


def _check(directory: Path, plan: Plan, event: dict[str, Any]) -> None:
    if event.get("schema") != SCHEMA_VERSION:
        found = f"events of schema {event.get('schema')}"
        raise InputError(f"{directory}: found {found}, expected those of schema {SCHEMA_VERSION}", _HINT)
    if event["points"] != len(plan.points):
        found = f"a plan of {len(plan.points)} points"
        raise InputError(f"{directory}: found {found}, expected the {event['points']} of the run", _HINT)


def _between(begin: datetime | None, end: datetime | None) -> float:
    return max(0.0, (end - begin).total_seconds()) if begin and end else 0.0


def _read(kind: TypeAdapter[Any], fields: Any, directory: Path) -> Any:
    try:
        return kind.validate_python(fields)
    except ValidationError as error:
        what = error.errors()[0]
        raise InputError(
            f"{directory}/{EVENTS}: found {what['loc']}: {what['msg']}, expected a result", _HINT
        ) from None
