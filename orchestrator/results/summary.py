"""What came of a run, as it stands in run.json."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from images.errors import Failure
from orchestrator.experiments.expectation import LATENCIES, Expectation
from orchestrator.experiments.plan import Point
from orchestrator.experiments.sizes import PAGE_BYTES
from orchestrator.results.clocks import Clock
from orchestrator.results.losses import Losses

CHECK = "check"
"""Kind of the error of a point in which a program has seen something wrong: that is no failure of the guests."""


class Outcome(StrEnum):
    """How a run ended: all as expected, something was not as expected, or it did not come to its end."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"


@dataclass(frozen=True)
class NodeSummary:
    """One machine of the run; on the stage `local`, a process of this host."""

    name: str
    arch: str
    accelerator: str
    accelerator_reason: str
    boot_s: float
    """From the start of the machine to the moment it said that it can be logged in to."""
    boot_stages_s: dict[str, float] = field(default_factory=dict)
    """When each stage of booting was reached, in seconds since the start."""
    warm: bool = False
    """Whether it was started from a saved state; then the stages are in seconds of the saved guest's time."""
    warm_reason: str = ""
    """Which state, or why none."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What its agent says of itself: kernel, Python, ISA."""
    image: str = ""
    """Hash of all that its guest image was made from."""
    clock: Clock | None = None
    """Its clock beside the host's."""


@dataclass(frozen=True)
class Latency:
    """Of accesses that took a page fault, as the application saw them, in µs."""

    count: int
    median: float | None
    p99: float | None

    @classmethod
    def of(cls, samples_us: Sequence[float]) -> "Latency":
        """Nearest-rank percentiles: every figure is one that was measured."""
        if not samples_us:
            return cls(0, None, None)
        ordered = sorted(samples_us)
        return cls(len(ordered), *(round(ordered[-(-len(ordered) * share // 100) - 1], 1) for share in (50, 99)))


@dataclass(frozen=True)
class Mismatch:
    """A value that was loaded and was not the one that had been stored."""

    node: str
    page: int
    offset: int
    """Bytes from the start of the page."""
    expected: int
    found: int
    iteration: int
    thread: int

    def __str__(self) -> str:
        return (
            f"node {self.node}, page {self.page}, offset {self.offset}: "
            f"expected {self.expected:#x}, found {self.found:#x} (iteration {self.iteration}, thread {self.thread})"
        )


@dataclass(frozen=True)
class Verdict:
    """What became of one expectation."""

    expression: str
    holds: bool
    shown: str
    """The values it was about."""


@dataclass(frozen=True)
class Report:
    """What one node's agent counted and measured in one point."""

    node: str
    verified: bool
    mismatch_count: int
    mismatches: tuple[Mismatch, ...]
    messages: Mapping[str, int]
    """Sent, by message name, without the harness's."""
    harness_messages: Mapping[str, int]
    latencies_us: Mapping[str, Sequence[float]]
    duration_s: float
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers that programs reported."""
    resident_most: int = 0
    """Pages of the region that were present at the same time, at most."""


@dataclass(frozen=True)
class PointError:
    """Why a point did not come to its end."""

    kind: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, failure: Failure) -> "PointError":
        return cls(str(getattr(failure, "kind", "guest")), failure.message, failure.hint)


@dataclass(frozen=True)
class PointResult:
    """One point: what was run, and what came of it."""

    index: int
    """Its place in the plan, from 0."""
    parameters: dict[str, Any]
    repetition: int
    seed: int
    verified: bool
    iterations: int
    pages: int
    messages: dict[str, int]
    """Sent by all kernels, by message name; barriers and control are in `harness_messages`."""
    latency_us: dict[str, Latency]
    duration_s: float
    """Of the workload on the slowest kernel."""
    messages_total: int
    """Of the protocol; `messages.protocol` in an expectation."""
    harness_messages: dict[str, int]
    kernels: int
    roles: dict[str, list[str]]
    array_bytes: int
    resident_most: int = 0
    """Most pages that were present on one kernel at the same time."""
    mismatches: tuple[Mismatch, ...] = ()
    mismatch_count: int = 0
    expectations: tuple[Verdict, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    """Numbers that programs reported; of several threads that report one, the largest."""
    wall_s: float = 0.0
    """From the moment it was begun until the next could begin."""
    overhead_s: float = 0.0
    """What of `wall_s` is the tool's own: neither the workload nor its warm-up."""
    error: PointError | None = None
    """Of a point that did not come to its end: it has no figures."""
    lost: tuple[PointError, ...] = ()
    """How earlier attempts ended, of a point that was repeated because guests had died."""

    losses: Losses = field(default_factory=Losses)

    @property
    def passed(self) -> bool:
        """Whether it came to its end whole, no value was wrong and every expectation holds."""
        if self.error is not None or self.losses:
            return False
        return self.verified and all(verdict.holds for verdict in self.expectations)


def summed(point: Point, roles: dict[str, list[str]], reports: Iterable[Report]) -> PointResult:
    """The point's result from its nodes' reports, with every expectation of its file judged."""
    reports = list(reports)
    workload = point.experiment.workload
    assert workload is not None, "a point without a workload was run"
    coherency = point.experiment.coherency
    pages = coherency.pages if workload.pages is None and coherency else workload.pages or 0
    messages = _total(report.messages for report in reports)
    result = PointResult(
        index=point.index,
        parameters=point.parameters,
        repetition=point.repetition,
        seed=point.seed,
        verified=all(report.verified for report in reports),
        iterations=workload.iterations,
        pages=pages,
        messages=messages,
        latency_us={
            kind: Latency.of([sample for report in reports for sample in report.latencies_us.get(kind, ())])
            for kind in LATENCIES
        },
        duration_s=round(max(report.duration_s for report in reports), 6),
        messages_total=sum(messages.values()),
        harness_messages=_total(report.harness_messages for report in reports),
        kernels=len(roles),
        roles=roles,
        array_bytes=workload.array_bytes or pages * PAGE_BYTES,
        resident_most=max(report.resident_most for report in reports),
        mismatches=tuple(mismatch for report in reports for mismatch in report.mismatches),
        mismatch_count=sum(report.mismatch_count for report in reports),
        figures=_largest(report.figures for report in reports),
    )
    return judged(result, point.experiment.expect)


def unfinished(point: Point, roles: dict[str, list[str]], failure: Failure) -> PointResult:
    """The result of a point that did not come to its end: without figures, and with no expectation judged."""
    report = Report("", False, 0, (), {}, {}, {}, 0.0)
    result = summed(point, roles, [report])
    return replace(result, kernels=len(roles), error=PointError.of(failure), expectations=())


def judged(result: PointResult, expressions: Iterable[str]) -> PointResult:
    """The result with a verdict on every expression."""
    names = asdict(result)
    threads = [role for roles in result.roles.values() for role in roles]
    names |= {"readers": threads.count("reader"), "writers": threads.count("writer")}
    names["messages"] = result.messages | {"protocol": result.messages_total}
    verdicts = [
        Verdict(expression, expectation.holds(names), expectation.shown(names))
        for expression in expressions
        for expectation in [Expectation.parse(expression)]
    ]
    return replace(result, expectations=tuple(verdicts))


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {name: count for name, count in sorted(total.items()) if count}


def _largest(figures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for each in figures:
        for name, value in each.items():
            largest[name] = max(value, largest.get(name, value))
    return dict(sorted(largest.items()))


@dataclass
class RunSummary:
    """A whole run. Written when the run begins, as one that did not end, and again at its end."""

    run_id: str
    experiment: str
    stage: str
    outcome: Outcome = Outcome.ERROR
    nodes: list[NodeSummary] = field(default_factory=list)
    points: list[PointResult] = field(default_factory=list)
    stages_s: dict[str, float] = field(default_factory=dict)
    error: dict[str, str] | None = field(
        default_factory=lambda: {"kind": "interrupted", "message": "the run did not come to its end", "hint": ""}
    )
    planned_points: int = 0
    resumed: int = 0
    """How often the run was interrupted and gone on with."""
    earlier_ends: list[dict[str, str]] = field(default_factory=list)
    """What ended the parts before, as `error` has it; of one that was killed, nothing."""
    started: str = ""
    duration_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    """The file, the command, the source tree and the host (`orchestrator.results.provenance`)."""
    tool: dict[str, Any] = field(default_factory=dict)
    """The command's own use of the host: `peak_rss_mib`."""
    results: str = ""
    """The folder with everything about the run."""

    def as_json(self) -> dict[str, Any]:
        """The content of run.json."""
        return asdict(self)
