"""Many simulations of one experiment: every seed, every point, until one shows what must not be."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

from orchestrator.experiments.plan import Plan, Point
from orchestrator.results.summary import PointResult, Report, summed
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.memory import Violation
from orchestrator.simulator.setting import Setting
from orchestrator.simulator.world import Lost, World


@dataclass(frozen=True)
class Series:
    """What is simulated, and how to say so on a command line."""

    plan: Plan
    seeds: range
    conditions: Conditions
    kernels: int | None = None
    """Instead of the file's nodes."""
    point: int | None = None
    """This one alone; from 1, as people count."""
    overrides: tuple[str, ...] = ()
    """What `--set` put into the file."""

    @property
    def points(self) -> tuple[Point, ...]:
        """The points to simulate. What a file expects of its own nodes need not hold for other kernels: of those only
        that every value is right."""
        points = self.plan.points if self.point is None else (self.plan.points[self.point - 1],)
        if self.kernels is None:
            return points
        other = {"expect": ["verified == true"]}
        return tuple(replace(point, experiment=point.experiment.model_copy(update=other)) for point in points)

    def again(self, seed: int, point: Point) -> str:
        """The command that simulates this once more."""
        words = ["testbed", "simulate", str(self.plan.path), "--seed", str(seed), "--point", str(point.index + 1)]
        words += [f"--set={override}" for override in self.overrides]
        words += [] if self.kernels is None else ["--kernels", str(self.kernels)]
        return shlex.join(words + self.conditions.words())

    def run(self, log: IO[str] | None = None) -> Iterator["Simulated"]:
        """One simulation after the other; the first that failed is the last one."""
        for seed in self.seeds:
            for point in self.points:
                simulated = self._simulate(seed, point, log)
                yield simulated
                if not simulated.passed:
                    return

    def _simulate(self, seed: int, point: Point, log: IO[str] | None) -> "Simulated":
        setting = Setting.of(point.experiment, self.kernels)
        if log is not None:
            log.write(json.dumps({"simulation": {"seed": seed, "point": point.index + 1}}) + "\n")
        world = World(setting, self.conditions, f"{seed}/{point.index}", log)
        world.run()
        return Simulated(
            seed=seed,
            point=point,
            result=_result(world, setting, point),
            events=world.handled,
            died=tuple(setting.names[number] for number in world.died),
            lost=tuple(world.lost),
            failure=world.failure,
            last=tuple(event.line(setting.names) for event in world.last) if world.failure else (),
        )


@dataclass(frozen=True)
class Simulated:
    """One simulation of one point."""

    seed: int
    point: Point
    result: PointResult
    events: int
    died: tuple[str, ...]
    """The kernels that were killed before the end."""
    lost: tuple[Lost, ...]
    """Accesses that found their page's only valid copy gone with a dead kernel."""
    failure: Violation | None
    last: tuple[str, ...]
    """The events before the failure, for people."""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong and every expectation holds."""
        return self.failure is None and self.result.passed

    def as_json(self) -> dict[str, Any]:
        """As it stands in the JSON; times are virtual."""
        failure = self.failure and {"kind": self.failure.kind, "message": self.failure.message, "last": self.last}
        lost = [{"error": "page lost", **each._asdict()} for each in self.lost]
        own = {"events": self.events, "died": self.died, "lost": lost, "failure": failure}
        return {**asdict(self.result), "seed": self.seed, "point": self.point.index + 1, **own}


def _result(world: World, setting: Setting, point: Point) -> PointResult:
    """In the form of every stage, with the file's expectations judged."""
    roles = {name: list(own) for name, own in zip(setting.names, setting.roles, strict=True)}
    reports = []
    for kernel, sent in zip(world.kernels, world.sent_by_each(), strict=True):
        name = setting.names[kernel.number]
        mismatch = world.mismatch if world.mismatch and world.mismatch.node == name else None
        reports.append(
            Report(
                node=name,
                verified=world.failure is None,
                mismatch_count=1 if mismatch else 0,
                mismatches=(mismatch,) if mismatch else (),
                messages=sent,
                harness_messages={},
                latencies_us=kernel.latency_us,
                duration_s=world.ended_ns / 1e9,
            )
        )
    return summed(point, roles, reports)
