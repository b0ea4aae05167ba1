"""One experiment's life: plan → provision → deploy → run → collect → judge → report."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from images.errors import Failure, HostError
from orchestrator.errors import OutOfTime
from orchestrator.experiments.experiment import Experiment, Testbed
from orchestrator.experiments.parameters import describe
from orchestrator.experiments.plan import Plan, Point
from orchestrator.experiments.workloads import Command, Native, Process, Script
from orchestrator.progress import Progress
from orchestrator.results.clocks import beside_host
from orchestrator.results.judging import judge, outcome
from orchestrator.results.losses import Losses, as_failure, losses_of
from orchestrator.results.record import Record
from orchestrator.results.summary import Mismatch, NodeSummary, PointResult, Report, summed, unfinished
from orchestrator.signals import signals_wait
from orchestrator.stages.agents import Agents, Refused, Silent, answer_within
from orchestrator.stages.executing import executed
from orchestrator.stages.programs import Programs
from orchestrator.stages.stage import Stage
from orchestrator.words import counted
from testbed.deadline import Deadline
from testbed.errors import GuestError

HELLO_S = 10.0
JOIN_S = 10.0
TRACE_S = 20.0
"""How long an agent may take to hand over its trace, with hardware acceleration."""
OUTPUT_S = 3.0
"""How long an agent may take to hand over what its programs have said."""
SETTLE_S = 3.0
"""How long agents may take to drop a point that failed, with hardware acceleration."""
_BROKEN = frozenset(["protocol", "system", "defect"])
"""Kinds of an agent's errors after which it is not trusted with another point."""
GRACE_S = 2.0
"""How long a node that the others declared dead may still take to say something, with hardware acceleration."""
_NO_FACTS = ("event", "op", "monotonic_ns")


def run(
    plan: Plan,
    stage_for: Callable[[Testbed], Stage],
    programs: Programs,
    record: Record,
    progress: Progress,
    *,
    keep: bool = False,
    fail_fast: bool = False,
    deadline: Deadline | None = None,
    at_failure: Callable[[Stage, str], None] = lambda _stage, _what: None,
) -> None:
    """Run every point of the plan that is not complete, each testbed it needs brought up once, and judge the results.

    A point that fails does not stop the others, unless `fail_fast`. Guests that die are replaced, and what they were at
    is repeated once. After the `deadline` nothing more is begun. Whatever ends the run, what was started is stopped,
    unless `keep`; `at_failure` is called before that, and after each point that did not pass, while everything is as it
    was then. Raises PointsFailed when a point did not come to its end, CheckFailed when a value was wrong or an
    expectation does not hold, OutOfTime, and whatever host, guests or the person in front of it ended it with.
    """
    for testbed, points in plan.testbeds:
        waiting = deque(point for point in points if not record.is_complete(point))
        while waiting:
            _check_time(deadline, record)
            stage = stage_for(testbed)
            agents: Agents | None = None
            replaced = False
            try:
                with record.stage("provision", f"starting {', '.join(testbed.nodes)}"):
                    nodes = stage.provision()
                    for node in nodes:
                        record.booted(node)
                with record.stage("deploy", "deploying the daemon"):
                    agents = stage.deploy()
                    _greet(agents, nodes, stage, record)
                    _join(waiting[0].experiment, stage, agents)  # this and what follows: not in the first point's time
                    for point in waiting:
                        _deliver(point.experiment, stage, agents, programs)
                with record.stage("run", f"running {counted(len(waiting), 'point')}"):
                    points_run = _PointsRun(len(plan.points), stage, agents, programs, record, progress, at_failure)
                    points_run.run(waiting, deadline, fail_fast=fail_fast)
                    replaced = bool(waiting)
            except (HostError, GuestError) as failure:
                if isinstance(failure, GuestError) and stage.taken_down():  # no guest's fault
                    raise _taken_down("deploying the daemon", record) from failure
                at_failure(stage, failure.message)
                raise
            finally:
                with signals_wait(progress.say_soon):
                    _end(stage, agents, record, progress, keep and not replaced)
    judge(record.summary.points, record.directory.asked_for)


@dataclass
class _PointsRun:
    """Points on guests that are up."""

    planned: int
    stage: Stage
    agents: Agents
    programs: Programs
    record: Record
    progress: Progress
    at_failure: Callable[[Stage, str], None]

    def run(self, waiting: deque[Point], deadline: Deadline | None, *, fail_fast: bool) -> None:
        """Run points off the queue until it is empty, or the guests are dead and have to be replaced."""
        alive = True
        while waiting and alive:
            _check_time(deadline, self.record)
            point = waiting[0]
            what = f"point {point.index + 1} of {self.planned}: {describe(point.parameters)}"
            with self.progress.step(what, announced=False):
                result, alive = self._attempt(point, what)
            if result is None:
                return
            waiting.popleft()
            self.progress.say(f"{what}: {outcome(result)}")
            if fail_fast and not result.passed:
                judge(self.record.summary.points, self.record.directory.asked_for)

    def _attempt(self, point: Point, what: str) -> tuple[PointResult | None, bool]:
        """The point's result, and whether the guests can go on. Without a result it is to be repeated on new guests."""
        alive = True
        try:
            result = _run_point(point, self.stage, self.agents, self.programs, self.record)
        except GuestError as failure:
            self.at_failure(self.stage, failure.message)
            alive = _usable(self.agents, self.stage, failure)
            if self._to_be_repeated(point, failure, what, alive=alive):
                return None, alive
            return self.record.point_finished(point, unfinished(point, roles_of(point.experiment), failure)), alive
        if result.losses.kernels:
            alive = False
            loss = as_failure(result.losses)
            self.at_failure(self.stage, f"{what}: {loss.message}")
            if self._to_be_repeated(point, loss, what, alive=alive):
                return None, alive
        elif not result.passed:
            self.at_failure(self.stage, what)
        return self.record.point_finished(point, result), alive

    def _to_be_repeated(self, point: Point, failure: GuestError, what: str, *, alive: bool) -> bool:
        """Note an attempt that failed; whether there is another one, as guests died.

        Raises HostError when they did not: whoever takes a testbed down does not want another one.
        """
        again = self.record.attempt_failed(point, failure) <= point.experiment.retries and not alive
        if not alive and self.stage.taken_down():
            raise _taken_down(what, self.record)
        if again:
            self.progress.say(f"{what}: lost, repeated on new guests: {failure.message}")
        return again


def _taken_down(what: str, record: Record) -> HostError:
    return HostError(
        f"{what}: the testbed was taken down by another command",
        f"`testbed run --resume {record.directory.asked_for}` goes on after the last complete point",
    )


def _usable(agents: Agents, stage: Stage, failure: GuestError) -> bool:
    """Whether the agents can be given the next point: they refused this one, or were slow, and all of them live."""
    if not isinstance(failure, Refused | Silent) or (isinstance(failure, Refused) and failure.kind in _BROKEN):
        return False
    try:
        agents.settle(stage.deadline(SETTLE_S))
    except GuestError:
        return False
    return True


def _check_time(deadline: Deadline | None, record: Record) -> None:
    """Raise OutOfTime when nothing more is to be begun."""
    if deadline is not None and deadline.expired:
        done, planned = len(record.summary.points), record.summary.planned_points
        what = f"the time given for the run was over after {done} of {counted(planned, 'point')}"
        raise OutOfTime(what, f"`testbed run --resume {record.directory.asked_for}` runs the others")


def _greet(agents: Agents, nodes: list[NodeSummary], stage: Stage, record: Record) -> None:
    answers = agents.ask({node.name: {"op": "hello"} for node in nodes}, stage.deadline(HELLO_S))
    for node in nodes:
        facts = {key: value for key, value in answers[node.name].items() if key not in _NO_FACTS}
        clock = beside_host(partial(_time_of, agents, node.name, stage.deadline(HELLO_S)))
        record.node(replace(node, facts=facts, clock=clock))


def _join(experiment: Experiment, stage: Stage, agents: Agents) -> None:
    """Have the agents take the device of their link: an emulated guest needs half a second for that."""
    if experiment.coherency is None or isinstance(experiment.workload, Command):
        return
    link = experiment.coherency.link
    joining = {
        node: {"op": "join", "kernel": kernel, "link": stage.link_for(link, node)}
        for kernel, node in enumerate(kernels_of(experiment))
    }
    agents.ask(joining, stage.deadline(JOIN_S))


def _deliver(experiment: Experiment, stage: Stage, agents: Agents, programs: Programs) -> dict[str, str]:
    """Programs to the kernels that run them; the names by which agents know them. Done once for each program."""
    if isinstance(experiment.workload, Command):
        return {}  # its files go to its folder, which every point has anew
    return programs.deliver(experiment, kernels_of(experiment), agents, stage.deadline(experiment.timeout_s))


def _time_of(agents: Agents, node: str, deadline: Deadline) -> int:
    return int(agents.ask({node: {"op": "hello"}}, deadline)[node]["monotonic_ns"])


def _run_point(point: Point, stage: Stage, agents: Agents, programs: Programs, record: Record) -> PointResult:
    """The point after its warm-up, which is not recorded; one that reads wrong values, or loses something, takes the
    point's place."""
    begin = time.monotonic()
    warm_up_s = 0.0
    record.point_started(point)
    for number in range(point.warm_up):
        answers, losses = _measured(point, stage, agents, programs, record, trace=False)
        warm_up_s += max(answer["duration_s"] for answer in answers.values())
        if losses or not all(answer["verified"] for answer in answers.values()):
            what = "lost something" if losses else "read wrong values"
            record.said(f"warm-up {number + 1} of point {point.index + 1} {what}")
            break
    else:
        answers, losses = _measured(point, stage, agents, programs, record, trace=True)
    for node, answer in answers.items():
        record.agent_finished(point, node, answer)
    result = summed(point, roles_of(point.experiment), [_report(node, answer) for node, answer in answers.items()])
    wall_s = time.monotonic() - begin
    overhead_s = wall_s - warm_up_s - result.duration_s
    return replace(result, losses=losses, wall_s=round(wall_s, 6), overhead_s=round(overhead_s, 6))


def _measured(
    point: Point, stage: Stage, agents: Agents, programs: Programs, record: Record, *, trace: bool
) -> tuple[dict[str, dict[str, Any]], Losses]:
    """The workload once on clean memory: what each node's agent counted and measured, in the order of the kernels, and
    what got lost."""
    experiment = point.experiment
    deadline = stage.deadline(experiment.timeout_s)
    if isinstance(experiment.workload, Command):
        nodes = list(roles_of(experiment))
        try:
            return executed(point, nodes, agents, programs, record, deadline), Losses()
        except GuestError as failure:
            _keep_outputs(point, [] if isinstance(failure, Silent) else nodes, stage, agents, record)
            raise
    assert experiment.coherency is not None, "a plan without coherent memory was run"
    kernels = kernels_of(experiment)
    trace = trace and experiment.coherency.trace
    stage.format_segment(experiment.coherency.link, len(kernels))
    opening = {node: _open(experiment, stage, kernels, node) | {"trace": trace} for node in kernels}
    names = _deliver(experiment, stage, agents, programs)
    agents.ask(opening, deadline)
    allowed_s = stage.deadline(experiment.timeout_s).seconds
    work = {node: _work(point, kernels, node, names[node]) | {"deadline_s": allowed_s} for node in kernels}
    try:
        grace_s = stage.deadline(GRACE_S).seconds
        answers, failures = agents.ask_survivors(work, kernels, answer_within(allowed_s), grace_s)
        agents.ask({node: {"op": "close"} for node in answers}, stage.deadline(experiment.timeout_s))
        taken_for_dead = [node for node, why in failures.items() if isinstance(why, Refused)]
        _keep_outputs(point, taken_for_dead, stage, agents, record)
    except GuestError as failure:
        _keep_outputs(point, [] if isinstance(failure, Silent) else kernels, stage, agents, record)
        raise
    finally:
        if trace:
            _keep_traces(point, kernels, stage, agents, record)
    return {node: answers[node] for node in kernels if node in answers}, losses_of(kernels, answers, failures)


def _keep_outputs(point: Point, nodes: list[str], stage: Stage, agents: Agents, record: Record) -> None:
    """What programs of these nodes have said, which did not come to the end. One that is gone tells nothing."""
    for node in nodes:
        try:
            output = agents.ask({node: {"op": "output"}}, stage.deadline(OUTPUT_S))[node]["output"]
        except GuestError as silence:
            record.said(f"no output of {node}: {silence.message}")
        else:
            record.programs_said(point, node, output)


def _keep_traces(point: Point, kernels: list[str], stage: Stage, agents: Agents, record: Record) -> None:
    """Of a point that failed too: then they are of most use. A node that is gone has none."""
    for node in kernels:
        try:
            answer = agents.ask({node: {"op": "trace"}}, stage.deadline(TRACE_S))[node]
        except Failure as failure:
            record.said(f"no trace of {node}: {failure.message}")
            continue
        record.directory.keep_trace(point.index, node, answer["header"], answer["entries"])


def kernels_of(experiment: Experiment) -> list[str]:
    """The nodes that share the coherent memory; a node's place in the list is its kernel id."""
    assert experiment.coherency is not None
    members = experiment.testbed.links[experiment.coherency.link].nodes
    return [node for node in experiment.testbed.nodes if node in members]


def roles_of(experiment: Experiment) -> dict[str, list[str]]:
    """What the threads of each kernel do."""
    workload = experiment.workload
    assert workload is not None, "a point without a workload was run"
    nodes = list(experiment.testbed.nodes) if isinstance(workload, Command) else kernels_of(experiment)
    return {node: list(workload.roles(node)) for node in nodes if workload.roles(node)}


def _open(experiment: Experiment, stage: Stage, kernels: list[str], node: str) -> dict[str, Any]:
    coherency, workload = experiment.coherency, experiment.workload
    assert coherency is not None
    process = workload if isinstance(workload, Process) else None
    span = process.span(coherency.pages) if process else coherency.pages
    return {
        "op": "open",
        "mapped": (workload.pages or span) if isinstance(workload, Script | Native | Process) else None,
        "members": 1 if process and not coherency.resident and process.processes == 1 else None,
        "span": span,
        "kernel": kernels.index(node),
        "kernels": len(kernels),
        "link": stage.link_for(coherency.link, node),
        "protocol": coherency.protocol,
        "notify": coherency.notify.value,
        "pages": coherency.pages,
        "resident_pages": coherency.resident_pages,
        "failure_deadline_s": stage.deadline(coherency.failure_deadline_s).seconds,
    }


def _work(point: Point, kernels: list[str], node: str, file: str) -> dict[str, Any]:
    """The agent's `run` command; `file` is what `Parcels` says."""
    workload, coherency = point.experiment.workload, point.experiment.coherency
    assert workload is not None
    assert not isinstance(workload, Command)
    assert coherency is not None
    return {
        "op": "run",
        "workload": workload.described(coherency.pages, point.seed) | ({"file": file} if file else {}),
        "roles": list(workload.roles(node)),
        "all_roles": [list(workload.roles(kernel)) for kernel in kernels],
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
        resident_most=answer.get("resident_most", 0),  # commands have no part in the memory
        figures=answer.get("figures", {}),
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
