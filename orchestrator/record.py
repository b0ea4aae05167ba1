"""Keeping book of a run while it goes on: the summary, the event log, the time of each stage, and how it ended."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from images.errors import HostError
from orchestrator.errors import DEFECT, CheckFailed, end_of
from orchestrator.events import SCHEMA_VERSION, EventLog, EventName
from orchestrator.plan import Plan, Point
from orchestrator.progress import Progress
from orchestrator.results import RunDirectory
from orchestrator.summary import NodeSummary, Outcome, PointResult, RunSummary

STAGES = ("provision", "deploy", "run", "collect", "teardown")
TRACEBACK = "traceback.txt"


class Record:
    """A run's book. A context: entering writes the first run.json, leaving the last, whatever happened between."""

    def __init__(self, plan: Plan, stage: str, directory: RunDirectory, progress: Progress) -> None:
        self.directory = directory
        self._plan = plan
        self._progress = progress
        self._events = EventLog(directory.events)
        self._started = time.monotonic()
        self.summary = RunSummary(
            run_id=directory.run_id,
            experiment=plan.name,
            stage=stage,
            stages_s=dict.fromkeys(STAGES, 0.0),
            planned_points=len(plan.points),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            results=str(directory.path),
        )

    def __enter__(self) -> "Record":
        try:
            self.directory.keep("experiment.yaml", self._plan.text)
            self.directory.keep("resolved.yaml", self._plan.resolved())
            self.directory.write_summary(self.summary)
        except HostError as failure:
            self._judge_end(failure)
            raise
        self._events.append(
            EventName.RUN_STARTED,
            schema=SCHEMA_VERSION,
            run_id=self.summary.run_id,
            experiment=self.summary.experiment,
            stage=self.summary.stage,
            points=self.summary.planned_points,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unwritten = self._events.failure if error is None else None
        self._judge_end(error or unwritten)
        self.summary.duration_s = round(time.monotonic() - self._started, 3)
        self.summary.tool["peak_rss_mib"] = _peak_rss_kib() // 1024
        self._events.append(EventName.RUN_FINISHED, outcome=self.summary.outcome, duration_s=self.summary.duration_s)
        self._events.close()
        try:
            self.directory.write_summary(self.summary)
        except HostError as failure:
            unwritten = unwritten or failure
            self._judge_end(error or unwritten)
        if error is None and unwritten is not None:
            raise unwritten

    def said(self, text: str) -> None:
        """A line the person was shown, or could have been."""
        self._events.append(EventName.SAID, text=text)

    @contextmanager
    def stage(self, name: str, doing: str) -> Iterator[None]:
        """Time a stage of the run; its time adds up when there are several testbeds."""
        begin = time.monotonic()
        ok = False
        self._events.append(EventName.STAGE_STARTED, name=name)
        try:
            with self._progress.step(doing):
                yield
            ok = True
        finally:
            duration_s = time.monotonic() - begin
            self.summary.stages_s[name] = round(self.summary.stages_s[name] + duration_s, 3)
            self._events.append(EventName.STAGE_FINISHED, name=name, duration_s=round(duration_s, 3), ok=ok)

    def made_with(self, provenance: dict[str, Any]) -> None:
        """What the run is made with (`orchestrator.provenance`)."""
        self.summary.versions = provenance["versions"]
        self.summary.provenance = {name: value for name, value in provenance.items() if name != "versions"}
        self._events.append(EventName.MADE_WITH, **provenance)

    def node(self, node: NodeSummary) -> None:
        """A machine is up and its agent answers."""
        self._events.append(EventName.NODE_READY, **asdict(node))
        self.booted(node)

    def booted(self, node: NodeSummary) -> None:
        """A machine is up. One that was booted before, for another testbed, is counted once."""
        self.summary.nodes = [
            known for known in self.summary.nodes if (known.name, known.arch) != (node.name, node.arch)
        ] + [node]

    def point_started(self, point: Point) -> None:
        """Raises HostError when there is no more room for what happens: there is no use in going on."""
        if self._events.failure is not None:
            raise self._events.failure
        self._events.append(
            EventName.POINT_STARTED,
            index=point.index,
            parameters=point.parameters,
            repetition=point.repetition,
            seed=point.seed,
            experiment=point.experiment.model_dump(mode="json", exclude={"matrix"}),
        )

    def agent_finished(self, point: Point, node: str, answer: dict[str, Any]) -> None:
        self._events.append(EventName.AGENT_FINISHED, index=point.index, node=node, answer=answer)

    def point_finished(self, point: Point, result: PointResult) -> None:
        self._events.append(EventName.POINT_FINISHED, index=point.index, result=asdict(result))
        self.summary.points.append(result)

    def _judge_end(self, error: BaseException | None) -> None:
        if error is None:
            self.summary.outcome, self.summary.error = Outcome.PASSED, None
            return
        self.summary.outcome = Outcome.FAILED if isinstance(error, CheckFailed) else Outcome.ERROR
        end = end_of(error)
        if end["kind"] == DEFECT:
            end["hint"] = self._kept("".join(traceback.format_exception(error)))
        self.summary.error = end
        self._events.append(EventName.FAILED, **end)

    def _kept(self, trace: str) -> str:
        try:
            return f"see {self.directory.keep(TRACEBACK, trace)}"
        except HostError:
            return trace  # better said there than nowhere


def _peak_rss_kib() -> int:
    """Of this process. getrusage(2) would tell its parent's, if that was larger: it survives fork and exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
