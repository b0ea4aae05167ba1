"""One experiment's life: plan → provision → deploy → run → collect → judge → report."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from images.errors import Failure
from orchestrator.agents import Agents
from orchestrator.clocks import beside_host
from orchestrator.errors import CheckFailed
from orchestrator.experiment import Experiment, Testbed
from orchestrator.losses import Losses, as_failure, losses_of
from orchestrator.parameters import describe
from orchestrator.plan import Plan, Point
from orchestrator.progress import Progress
from orchestrator.record import Record
from orchestrator.signals import signals_wait
from orchestrator.stage import Stage
from orchestrator.summary import Mismatch, NodeSummary, PointResult, Report, summed
from orchestrator.words import counted
from testbed.deadline import Deadline

HELLO_S = 10.0
TRACE_S = 20.0
"""How long an agent may take to hand over its trace, with hardware acceleration."""
GUESTS_SHARE = 0.9
"""Of a point's time, what the guests may take before they give up: they know best what they waited for."""
GRACE_S = 2.0
"""How long a node that the others declared dead may still take to say something, with hardware acceleration."""
_NO_FACTS = ("event", "op", "monotonic_ns")
SHOWN = 5
"""Wrong values and broken expectations that an error spells out; run.json has them all."""


def run(
    plan: Plan,
    stage_for: Callable[[Testbed], Stage],
    record: Record,
    progress: Progress,
    *,
    keep: bool = False,
    at_failure: Callable[[Stage, str], None] = lambda _stage, _what: None,
) -> None:
    """Run every point of the plan, each testbed it needs brought up once, and judge the results.

    Whatever ends it, what was started is stopped, unless `keep`; `at_failure` is called before that, and after each
    point that did not pass, while everything is as it was then. Raises CheckFailed when a value was wrong or an
    expectation does not hold, and whatever host, guests or the person in front of it ended it with.
    """
    for testbed, points in plan.testbeds:
        stage = stage_for(testbed)
        agents: Agents | None = None
        try:
            with record.stage("provision", f"starting {', '.join(testbed.nodes)}"):
                nodes = stage.provision()
                for node in nodes:
                    record.booted(node)
            with record.stage("deploy", "deploying the daemon"):
                agents = stage.deploy()
                _greet(agents, nodes, stage, record)
            with record.stage("run", f"running {counted(len(points), 'point')}"):
                for point in points:
                    what = f"point {point.index + 1} of {len(plan.points)}: {describe(point.parameters)}"
                    with progress.step(what, announced=False):
                        result = _run_point(point, stage, agents, record)
                    progress.say(f"{what}: {outcome(result)}")
                    if result.losses:
                        raise as_failure(result.losses, what)
                    if not result.passed:
                        at_failure(stage, what)
        except Failure as failure:
            at_failure(stage, failure.message)
            raise
        finally:
            with signals_wait(progress.say_soon):
                _end(stage, agents, record, progress, keep)
    judge(record.summary.points)


def judge(results: list[PointResult]) -> None:
    """Raise CheckFailed unless all points passed."""
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    lines = [f"{len(failed)} of {counted(len(results), 'point')} failed"]
    for result in failed[:SHOWN]:
        lines.append(f"  {describe(result.parameters)}")
        lines += [f"    wrong value: {mismatch}" for mismatch in result.mismatches[:SHOWN]]
        if result.mismatch_count > SHOWN:
            lines.append(f"    … {result.mismatch_count} wrong values in all")
        broken = [verdict for verdict in result.expectations if not verdict.holds]
        lines += [f"    does not hold: {verdict.expression}   ({verdict.shown})" for verdict in broken]
    raise CheckFailed("\n".join(lines), "`testbed results show last` lists every point; run.json has every value")


def _greet(agents: Agents, nodes: list[NodeSummary], stage: Stage, record: Record) -> None:
    answers = agents.ask({node.name: {"op": "hello"} for node in nodes}, stage.deadline(HELLO_S))
    for node in nodes:
        facts = {key: value for key, value in answers[node.name].items() if key not in _NO_FACTS}
        clock = beside_host(partial(_time_of, agents, node.name, stage.deadline(HELLO_S)))
        record.node(replace(node, facts=facts, clock=clock))


def _time_of(agents: Agents, node: str, deadline: Deadline) -> int:
    return int(agents.ask({node: {"op": "hello"}}, deadline)[node]["monotonic_ns"])


def _run_point(point: Point, stage: Stage, agents: Agents, record: Record) -> PointResult:
    """The point after its warm-up, which is not recorded; one that reads wrong values, or loses something, takes the
    point's place."""
    record.point_started(point)
    for number in range(point.warm_up):
        answers, losses = _measured(point, stage, agents, record, trace=False)
        if losses or not all(answer["verified"] for answer in answers.values()):
            what = "lost something" if losses else "read wrong values"
            record.said(f"warm-up {number + 1} of point {point.index + 1} {what}")
            break
    else:
        answers, losses = _measured(point, stage, agents, record, trace=True)
    for node, answer in answers.items():
        record.agent_finished(point, node, answer)
    workload = point.experiment.workload
    assert workload is not None
    roles = {node: [role.value for role in workload.roles(node)] for node in kernels_of(point.experiment)}
    result = summed(point, roles, [_report(node, answer) for node, answer in answers.items()])
    result = replace(result, losses=losses)
    record.point_finished(point, result)
    return result


def _measured(
    point: Point, stage: Stage, agents: Agents, record: Record, *, trace: bool
) -> tuple[dict[str, dict[str, Any]], Losses]:
    """The workload once on clean memory: what each node's agent counted and measured, in the order of the kernels, and
    what got lost."""
    experiment = point.experiment
    assert experiment.coherency is not None, "a plan without coherent memory was run"
    kernels = kernels_of(experiment)
    deadline = stage.deadline(experiment.timeout_s)
    trace = trace and experiment.coherency.trace
    stage.format_segment(experiment.coherency.link, len(kernels))
    opening = {node: _open(experiment, stage, kernels, node) | {"trace": trace} for node in kernels}
    agents.ask(opening, deadline)
    allowed_s = round(deadline.remaining() * GUESTS_SHARE, 3)
    work = {node: _work(experiment, kernels, node) | {"deadline_s": allowed_s} for node in kernels}
    try:
        answers, failures = agents.ask_survivors(work, kernels, deadline, stage.deadline(GRACE_S).seconds)
        agents.ask({node: {"op": "close"} for node in answers}, deadline)
    finally:
        if trace:
            _keep_traces(point, kernels, stage, agents, record)
    return {node: answers[node] for node in kernels if node in answers}, losses_of(kernels, answers, failures)


def _keep_traces(point: Point, kernels: list[str], stage: Stage, agents: Agents, record: Record) -> None:
    """Of a point that failed too: then they are of most use. A node that is gone has none."""
    for node in kernels:
        try:
            answer = agents.ask({node: {"op": "trace"}}, stage.deadline(TRACE_S))[node]
        except Failure as failure:
            record.said(f"no trace of {node}: {failure.message}")
            continue
        record.directory.keep_trace(point.index, node, answer["header"], answer["entries"])


def outcome(result: PointResult) -> str:
    """Of a point, in a few words."""
    verdict = "ok" if result.passed else "LOSSES" if result.losses else "FAILED"
    return f"{verdict}, {result.messages_total} messages, {result.duration_s:.3f} s"


def kernels_of(experiment: Experiment) -> list[str]:
    """The nodes that share the coherent memory; a node's place in the list is its kernel id."""
    assert experiment.coherency is not None
    members = experiment.testbed.links[experiment.coherency.link].nodes
    return [node for node in experiment.testbed.nodes if node in members]


def _open(experiment: Experiment, stage: Stage, kernels: list[str], node: str) -> dict[str, Any]:
    coherency = experiment.coherency
    assert coherency is not None
    return {
        "op": "open",
        "kernel": kernels.index(node),
        "kernels": len(kernels),
        "link": stage.link_for(coherency.link, node),
        "protocol": coherency.protocol,
        "notify": coherency.notify.value,
        "pages": coherency.pages,
        "failure_deadline_s": stage.deadline(coherency.failure_deadline_s).seconds,
    }


def _work(experiment: Experiment, kernels: list[str], node: str) -> dict[str, Any]:
    workload = experiment.workload
    assert workload is not None
    return {
        "op": "run",
        "workload": {
            "kind": workload.kind,
            "array_bytes": workload.array,
            "stride": workload.stride,
            "iterations": workload.iterations,
        },
        "roles": [role.value for role in workload.roles(node)],
        "all_roles": [[role.value for role in workload.roles(kernel)] for kernel in kernels],
    }


def _report(node: str, answer: dict[str, Any]) -> Report:
    """An agent's `finished` as a Report."""
    wrong = tuple(
        Mismatch(
            node,
            each["page"],
            each["offset"],
            each["expected"],
            each["found"],
            each["iteration"],
            each["thread"],
        )
        for each in answer["mismatches"]
    )
    return Report(
        node=node,
        verified=bool(answer["verified"]),
        mismatch_count=answer["wrong"],
        mismatches=wrong,
        messages=answer["messages"],
        harness_messages=answer["harness_messages"],
        latencies_us=answer["latency_us"],
        duration_s=answer["duration_s"],
    )


def _end(stage: Stage, agents: Agents | None, record: Record, progress: Progress, keep: bool) -> None:
    try:
        with record.stage("collect", "collecting consoles"):
            stage.collect(record.directory)
    except Failure as failure:
        progress.say(f"not all could be collected: {failure.message}")
    finally:
        with record.stage("teardown", "keeping the guests" if keep else "stopping the guests"):
            if agents is not None:
                agents.close()
            stage.teardown(keep=keep)
