"""What a plan will take before anything of it is started: time, memory, and what need not be made again.

A point's time is the median of what it took in earlier runs of the same name and parameters. Where there are none, it
is computed for `shared-array`: page faults and barriers, at the costs that `testbed bench` finds on an idle machine.
For other workloads nobody can know.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from images.store import DEFINITION, key_of, present
from orchestrator.experiments.experiment import Accelerator, EthernetLink, Experiment, Testbed
from orchestrator.experiments.plan import Plan, Point
from orchestrator.experiments.workloads import SharedArray
from testbed.accelerator import obstacle, remembered
from testbed.deadline import SLOWDOWN
from testbed.spec import Accelerator as Kind

_FAULT_S = {"vm": 500e-6, "local": 150e-6}
"""A page fault that another kernel serves. How long the stage `sim` takes nobody knows."""
_BARRIER_S = {"vm": 1e-3, "local": 0.2e-3}
_POINT_S = {"vm": 0.1, "local": 0.02, "sim": 0.0}
"""From the end of a point's workload to the beginning of the next one's."""
_BOOT_S = {"vm": 5.0, "local": 0.3, "sim": 0.0}
"""Provision, deploy and teardown of a testbed."""
RUNS_READ = 50
"""Earlier runs that are looked at, the latest."""


@dataclass(frozen=True)
class PointForecast:
    """One point, its warm-up included."""

    point: Point
    expected_s: float | None
    """None if nobody knows."""
    basis: str
    """Where that number comes from."""
    limit_s: float
    """What `timeout_s` allows on this testbed."""


@dataclass(frozen=True)
class TestbedForecast:
    """Machines that are started once, and the points that run on them."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    shape: Testbed
    memory_bytes: int
    """Main memory of all nodes, and the links'."""
    start_s: float
    points: tuple[PointForecast, ...]

    @property
    def expected_s(self) -> float | None:
        """None as soon as one point's time is not known."""
        times = [point.expected_s for point in self.points]
        return None if None in times else self.start_s + sum(time for time in times if time is not None)

    @property
    def limit_s(self) -> float:
        """When the last point is given up at the latest, if every one takes all that it may."""
        return self.start_s + sum(point.limit_s for point in self.points)


def forecast(plan: Plan, stage: str, results: Path, accelerator: str | None) -> list[TestbedForecast]:
    """For every testbed of the plan."""
    measured = _measured(plan, stage, results)
    found = []
    for shape, points in plan.testbeds:
        slowdown = _slowdown(shape, accelerator) if stage == "vm" else 1.0
        forecasts = tuple(_point(point, stage, slowdown, measured) for point in points)
        found.append(TestbedForecast(shape, memory_of(shape, stage), _BOOT_S[stage], forecasts))
    return found


def memory_of(shape: Testbed, stage: str) -> int:
    """Bytes of the host that the testbed may come to use."""
    links = sum(link.size for link in shape.links.values() if not isinstance(link, EthernetLink))
    nodes = sum(node.memory for node in shape.nodes.values()) if stage == "vm" else 0
    return links + nodes


def _point(point: Point, stage: str, slowdown: float, measured: dict[str, list[float]]) -> PointForecast:
    rounds = 1 + point.warm_up
    limit_s = point.experiment.timeout_s * slowdown * rounds
    earlier = measured.get(_key(point.parameters), []) if stage in _FAULT_S else []
    if earlier:
        runs = f"measured {len(earlier)} time{'s' if len(earlier) != 1 else ''}"
        return PointForecast(point, rounds * (median(earlier) + _POINT_S[stage]), runs, limit_s)
    computed = _computed(point.experiment, stage)
    if computed is None:
        return PointForecast(point, None, "never run", limit_s)
    return PointForecast(point, rounds * (computed + _POINT_S[stage]), "computed", limit_s)


def _computed(experiment: Experiment, stage: str) -> float | None:
    """Each round, all that write the array take its pages from each other, and all that read it fetch them."""
    workload = experiment.workload
    if not isinstance(workload, SharedArray) or stage not in _FAULT_S:
        return None
    roles = [role for node in experiment.testbed.nodes for role in workload.roles(node)]
    writers = roles.count("writer")
    others = len(roles) - roles.count("idle") - 1
    rounds = workload.iterations if writers else 1
    faults = workload.pages * rounds * (2 * writers * max(1, others) if others else 0)
    return faults * _FAULT_S[stage] + 2 * workload.iterations * _BARRIER_S[stage]


def _slowdown(shape: Testbed, accelerator: str | None) -> float:
    """The waits of a testbed are those of its slowest node."""
    wanted = [(Accelerator(accelerator or node.accelerator.value), node.arch.value) for node in shape.nodes.values()]
    emulated = any(each is Accelerator.TCG or not _kvm_runs(arch) for each, arch in wanted)
    return SLOWDOWN["tcg" if emulated else "kvm"]


def _kvm_runs(arch: str) -> bool:
    """Whether it does, as far as is known without starting a probe guest."""
    image = present(key_of(DEFINITION), arch)
    return not obstacle(arch) and (image is None or remembered(image) is not Kind.TCG)


def _measured(plan: Plan, stage: str, results: Path) -> dict[str, list[float]]:
    """Durations in seconds of earlier points, by their parameters."""
    found: dict[str, list[float]] = {}
    for run in _runs(results):
        if (run.get("experiment"), run.get("stage")) != (plan.name, stage):
            continue
        for point in run.get("points", ()):
            if point.get("verified"):
                found.setdefault(_key(point["parameters"]), []).append(float(point["duration_s"]))
    return found


def _runs(results: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(results.glob("*/run.json"), reverse=True)[:RUNS_READ]:
        try:
            run = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # one that somebody else spoilt, or is writing
        if isinstance(run, dict):
            yield run


def _key(parameters: dict[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)
