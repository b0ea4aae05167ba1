"""Runs that were, made for tests: directories as a run leaves them."""

from pathlib import Path
from typing import Any

from orchestrator.experiments.plan import Plan, load
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.judging import judge
from orchestrator.results.record import Record
from orchestrator.results.summary import NodeSummary, PointResult, Report, summed
from tests.unit.test_experiment_errors import GOOD

MATRIX = "matrix: {workload.iterations: [1, 2], coherency.notify: [poll, adaptive]}\nrepeat: 2\n"


def plan_of(folder: Path, text: str = GOOD + MATRIX) -> Plan:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return load(path)


def answer(node: str, iterations: int, read_us: list[float]) -> dict[str, Any]:
    """An agent's answer to a point, as far as anybody but the engine reads it."""
    sent = {"PAGE_REQUEST": 4 * iterations} if node == "x86" else {"PAGE_DATA": 4 * iterations, "VOTE": 2}
    kind = 2 if node == "x86" else 1
    return {
        "event": "finished",
        "op": "run",
        "messages": sent,
        "latency_us": {"remote_read": read_us, "remote_write": [7.0], "local_fault": []},
        "faults_by_page": [[0, 0, 4, 1], [3, 1, 0, iterations]],
        "timeline": {
            "begun_ns": 10**9 if node == "x86" else 5 * 10**9,
            "announced_ns": [[0, -1000], [1, 2_000_000]],
            "heard_ns": [[int(node == "x86"), 0, -500], [int(node == "x86"), 1, 2_000_500]],
            "faults": {
                "begin_ns": [100_000, 900_000], "page": [0, 3], "kind": [kind, kind], "duration_ns": [30_000, 50_000],
                "thread": [0, 0],
            },
        },
    }  # fmt: skip


def finish(record: Record, plan: Plan, index: int, read_us: list[float], *, verified: bool = True) -> PointResult:
    """One point of the run, from its start to its result."""
    point = plan.points[index]
    workload = point.experiment.workload
    assert workload is not None
    record.point_started(point)
    answers = {node: answer(node, workload.iterations, read_us) for node in ("x86", "arm")}
    reports = []
    for node, told in answers.items():
        record.agent_finished(point, node, told)
        messages, latencies = told["messages"], told["latency_us"]
        reports.append(Report(node, verified, int(not verified), (), messages, {}, latencies, 0.5))
    result = summed(point, {"x86": ["writer"], "arm": ["reader"]}, reports)
    record.point_finished(point, result)
    return result


def past_run(
    folder: Path, results: Path, text: str = GOOD + MATRIX, read_us: float = 20.0, error: Exception | None = None
) -> Path:
    """A whole run; with `error`, one that this ended after its first point. Returns its directory."""
    plan = plan_of(folder, text)
    record = Record(plan, "vm", RunDirectory.create(results, plan.name), Progress(quiet=True))
    try:
        with record:
            record.made_with({"versions": {"testbed": "0.1.0", "source": "0123456789ab"}, "host": {"name": "desk"}})
            record.node(NodeSummary("x86", "x86_64", "kvm", "proven", 2.0, {"kernel": 1.0, "sshd": 2.0}, image="feed"))
            record.node(NodeSummary("arm", "aarch64", "tcg", "another ISA", 3.0, {"kernel": 1.5, "sshd": 3.0}))
            results_of = []
            with record.stage("run", "running"):
                for point in plan.points:
                    spread = [read_us + (point.index * 7 + step * 3) % 5 for step in range(6)]
                    results_of.append(finish(record, plan, point.index, spread))
                    if error is not None:
                        raise error
            judge(results_of, "last")
    except Exception as ended:
        if error is not None and ended is not error:
            raise
    return record.directory.path
