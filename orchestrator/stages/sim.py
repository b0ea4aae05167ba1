"""Stage `sim`: the protocol's engines alone, in virtual time. There is nothing to bring up, so it runs whole points.

Chance begins at the point's seed, so that a file with `repeat: 100` is run with 100 seeds, and another time with the
same.
"""

from orchestrator.errors import CheckFailed
from orchestrator.experiments.parameters import describe
from orchestrator.experiments.plan import Plan, Point
from orchestrator.progress import Progress
from orchestrator.results.judging import judge, outcome
from orchestrator.results.record import Record
from orchestrator.results.summary import NodeSummary
from orchestrator.run import kernels_of
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.series import Series, Simulated
from orchestrator.words import counted

REASON = "an engine in virtual time, no machine"


def run_simulated(plan: Plan, record: Record, progress: Progress, *, fail_fast: bool = False) -> None:
    """Simulate every point of the plan and judge the results.

    Raises CheckFailed when an expectation does not hold, or, at once, when the protocol did what it must not.
    """
    with record.stage("run", f"simulating {counted(len(plan.points), 'point')}"):
        for point in plan.points:
            if record.is_complete(point):
                continue
            what = f"point {point.index + 1} of {len(plan.points)}: {describe(point.parameters)}"
            with progress.step(what, announced=False):
                simulated = _simulate(plan, point, record)
            progress.say(f"{what}: {outcome(simulated.result)} of virtual time")
            if fail_fast and not simulated.result.passed:
                break
    judge(record.summary.points, record.directory.asked_for)


def _simulate(plan: Plan, point: Point, record: Record) -> Simulated:
    for node in kernels_of(point.experiment):
        record.booted(NodeSummary(node, point.experiment.testbed.nodes[node].arch.value, "none", REASON, 0.0))
    record.point_started(point)
    series = Series(plan, range(point.seed, point.seed + 1), Conditions(), point=point.index + 1)
    (simulated,) = series.run()
    record.point_finished(point, simulated.result)
    if simulated.failure is not None:
        lines = [f"{describe(point.parameters)}: {simulated.failure.kind}: {simulated.failure.message}"]
        lines += ["  the last events:", *(f"  {line}" for line in simulated.last)]
        raise CheckFailed("\n".join(lines), f"repeat it with: `{series.again(point.seed, point)}`")
    return simulated
