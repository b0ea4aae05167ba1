"""Keeping book of a run while it goes on: the summary, the event log, the time of each stage, and how it ended."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from images.errors import Failure, HostError
from orchestrator.errors import DEFECT, CheckFailed, end_of
from orchestrator.experiments.plan import Plan, Point
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.events import SCHEMA_VERSION, EventLog, EventName
from orchestrator.results.resume import Earlier
from orchestrator.results.summary import NodeSummary, Outcome, PointError, PointResult, RunSummary

STAGES = ("provision", "deploy", "run", "collect", "teardown")
TRACEBACK = "traceback.txt"


class Record:
    """A run's book. A context: entering writes the first run.json, leaving the last, whatever happened between."""

    def __init__(
        self,
        plan: Plan,
        stage: str,
        directory: RunDirectory,
        progress: Progress,
        *,
        accelerator: str | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        """`earlier`: what is known of a run that is gone on with. Raises InputError when another process runs it."""
        self.directory = directory
        self._plan = plan
        self._progress = progress
        self._earlier = earlier
        self._accelerator = accelerator
        self._lost: dict[int, list[PointError]] = {}
        self._events = EventLog(directory.events, resume=earlier is not None)
        self._started = time.monotonic() - (earlier.duration_s if earlier else 0.0)
        self.summary = RunSummary(
            run_id=directory.run_id,
            experiment=plan.name,
            stage=stage,
            stages_s=dict.fromkeys(STAGES, 0.0),
            planned_points=len(plan.points),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            results=str(directory.path),
        )
        if earlier is not None:
            self.summary.started = earlier.started
            self.summary.nodes = list(earlier.nodes)
            self.summary.points = list(earlier.points)
            self.summary.stages_s |= earlier.stages_s
            self.summary.resumed = earlier.resumed + 1
            self.summary.earlier_ends = list(earlier.ends)

    def __enter__(self) -> "Record":
        if self._earlier is not None:
            self.directory.write_summary(self.summary)
            self._events.append(
                EventName.RUN_RESUMED, complete=len(self._earlier.points), points=self.summary.planned_points,
                torn=self._events.torn,
            )  # fmt: skip
            return self
        try:
            self.directory.keep("experiment.yaml", self._plan.text)
            self.directory.keep("resolved.yaml", self._plan.resolved())
            for name, content in self._plan.files.items():
                self.directory.keep_bytes(name, content)
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
            accelerator=self._accelerator,
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
        """What the run is made with (`orchestrator.results.provenance`)."""
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
        self.directory.set_traces_aside(point.index)
        self._events.append(
            EventName.POINT_STARTED,
            index=point.index,
            parameters=point.parameters,
            repetition=point.repetition,
            seed=point.seed,
            experiment=point.experiment.model_dump(mode="json", exclude={"matrix"}),
        )

    def agent_finished(self, point: Point, node: str, answer: dict[str, Any]) -> None:
        """What its programs said goes to a file of its own."""
        self.programs_said(point, node, answer.pop("output", []))
        self._events.append(EventName.AGENT_FINISHED, index=point.index, node=node, answer=answer)

    def programs_said(self, point: Point, node: str, output: list[str]) -> None:
        """What its programs have said, each, goes to a file if it is anything."""
        if output:
            self.directory.keep_output(point.index, node, output)

    def attempt_failed(self, point: Point, failure: Failure) -> int:
        """The point did not come to its end. Returns how often that has happened to it."""
        lost = self._lost.setdefault(point.index, [])
        lost.append(PointError.of(failure))
        self._events.append(EventName.ATTEMPT_FAILED, index=point.index, attempt=len(lost), **asdict(lost[-1]))
        return len(lost)

    def point_finished(self, point: Point, result: PointResult) -> PointResult:
        """Returns the result with what is known of earlier attempts at the point."""
        lost = self._lost.get(point.index, [])
        result = replace(result, lost=tuple(lost[:-1] if result.error or result.losses.kernels else lost))
        self._events.append(EventName.POINT_FINISHED, index=point.index, result=asdict(result))
        others = [known for known in self.summary.points if known.index != point.index]
        self.summary.points = sorted([*others, result], key=lambda known: known.index)
        return result

    def is_complete(self, point: Point) -> bool:
        """Whether the point came to its end, be it with wrong values, when the run was begun."""
        return any(
            known.index == point.index and known.error is None and not known.losses for known in self.summary.points
        )

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
