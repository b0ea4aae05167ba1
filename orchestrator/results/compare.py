"""Two sets of runs compared: what changed, and what may be noise.

The unit is the repetition: of each point, a repetition gives one figure for each metric. Thousands of page faults of
one repetition are no thousands of independent observations, for they share a boot, a host and a minute; their median
is one.

- *Point by point*, the repetitions of both sides are compared by the Mann-Whitney test, with Cliff's delta as effect
  size.
- *Over all points*, the ratios of the medians are compared with 1 by Wilcoxon's signed-rank test, with the
  matched-pairs rank-biserial correlation as effect size. That tells a shift that is too small for any single point.

Both give a 95 % interval of the ratio by bootstrap. Within each of the two families, p is corrected by Holm for the
number of comparisons. A change is called one when the corrected p is below ALPHA and the effect is at least EFFECT;
the percentage decides nothing. The tests are in `orchestrator.results.rank_tests`.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from orchestrator.results.past_run import PastRun
from orchestrator.results.rank_tests import holm, mann_whitney, signed_rank

ALPHA = 0.05
"""Of the corrected p: how often a family of comparisons without any change may call one."""
EFFECT = 0.33
"""Of the effect size, from 0 to 1: what Romano et al. (2006) call more than small."""
RESAMPLES = 2000
SEED = 20130401
"""Of the bootstrap: the same runs always compare alike."""

METRICS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "messages": lambda result: result.get("messages_total"),
    "duration_s": lambda result: result.get("duration_s"),
    "remote_read_us": lambda result: _median_of(result, "remote_read"),
    "remote_write_us": lambda result: _median_of(result, "remote_write"),
    "local_fault_us": lambda result: _median_of(result, "local_fault"),
}
"""What is compared, and where a point's result has it. Of all of them, less is better."""


class Verdict(StrEnum):
    """What can be said of a comparison."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "no change seen"
    TOO_FEW = "too few to tell"


@dataclass(frozen=True)
class Comparison:
    """One metric, of one point or over all of them, on both sides."""

    metric: str
    what: str
    base: float
    """Median on the one side; over all points, the ratio's own base: 1."""
    new: float
    base_count: int
    """Repetitions; over all points, points."""
    new_count: int
    ratio: float | None
    """New to base; None where the base is 0."""
    low: float | None
    """Of the 95 % interval of the ratio."""
    high: float | None
    effect: float
    """From -1, all of new below all of base, to 1."""
    p: float
    p_least: float
    """The smallest p that so few figures can have, whatever they are."""
    p_corrected: float = 1.0
    verdict: Verdict = Verdict.SAME


@dataclass(frozen=True)
class Compared:
    """What came of comparing two sides."""

    overall: tuple[Comparison, ...]
    points: tuple[Comparison, ...]
    unalike: tuple[str, ...]
    """In what both sides differ that may explain a change."""
    only_base: int
    """Points that only one side has."""
    only_new: int
    same_host: bool = True
    """Whether both sides ran on processors of one kind, as many of them, and with the same accelerators."""

    @property
    def worse(self) -> list[Comparison]:
        """All that got worse."""
        return [each for each in (*self.overall, *self.points) if each.verdict is Verdict.WORSE]


def compare(base: Sequence[PastRun], new: Sequence[PastRun]) -> Compared:
    """Compare two sides of one run or more each."""
    here, there = _figures(base), _figures(new)
    both = [key for key in here if key in there]
    points, overall = [], []
    for metric in METRICS:
        ratios = []
        for key in both:
            ours, theirs = here[key].get(metric, []), there[key].get(metric, [])
            if not ours or not theirs:
                continue
            points.append(_by_point(metric, _shown(key), ours, theirs))
            if statistics.median(ours) > 0 and statistics.median(theirs) > 0:
                ratios.append(statistics.median(theirs) / statistics.median(ours))
        if len(ratios) > 1:
            overall.append(_over_all(metric, ratios))
    unalike = _unalike(base, new)
    return Compared(
        tuple(_judged(overall)),
        tuple(_judged(points)),
        tuple(f"{what}: {change}" for what, change in unalike.items()),
        len(here.keys() - there.keys()),
        len(there.keys() - here.keys()),
        same_host=not unalike.keys() & _HOST,
    )


def _figures(runs: Sequence[PastRun]) -> dict[str, dict[str, list[float]]]:
    """By point (its parameters) and metric, a figure of each repetition in each run."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for point in run.points:
            if point.result is None:
                continue
            own = found.setdefault(json.dumps(point.parameters), defaultdict(list))
            for metric, read in METRICS.items():
                value = read(point.result)
                if value is not None:
                    own[metric].append(float(value))
    return found


def _median_of(result: Mapping[str, Any], kind: str) -> float | None:
    median: float | None = result.get("latency_us", {}).get(kind, {}).get("median")
    return median


def _by_point(metric: str, what: str, base: list[float], new: list[float]) -> Comparison:
    tested = mann_whitney(base, new)
    middle, other = statistics.median(base), statistics.median(new)
    low, high = _interval(base, new) if middle else (None, None)
    ratio = other / middle if middle else None
    counts = len(base), len(new)
    return Comparison(metric, what, middle, other, *counts, ratio, low, high, tested.effect, tested.p, tested.p_least)


def _over_all(metric: str, ratios: list[float]) -> Comparison:
    import numpy as np

    logs = np.log(ratios)
    tested = signed_rank([math.log(ratio) for ratio in ratios])
    draws = np.random.default_rng(SEED).choice(logs, (RESAMPLES, len(logs)))
    low, high = (float(each) for each in np.exp(np.percentile(np.median(draws, axis=1), [2.5, 97.5])))
    middle, count = statistics.median(ratios), len(ratios)
    what = f"all {count} points"
    return Comparison(
        metric, what, 1.0, middle, count, count, middle, low, high, tested.effect, tested.p, tested.p_least
    )


def _interval(base: list[float], new: list[float]) -> tuple[float | None, float | None]:
    """Of the ratio of the medians, by drawing both sides again and again."""
    import numpy as np

    chance = np.random.default_rng(SEED)
    ours = np.median(chance.choice(base, (RESAMPLES, len(base))), axis=1)
    theirs = np.median(chance.choice(new, (RESAMPLES, len(new))), axis=1)
    kept = ours > 0
    if not kept.any():
        return None, None
    low, high = np.percentile(theirs[kept] / ours[kept], [2.5, 97.5])
    return float(low), float(high)


def _judged(family: Sequence[Comparison]) -> list[Comparison]:
    corrected = holm([each.p for each in family])
    judged = []
    for each, p_corrected in zip(family, corrected, strict=True):
        if p_corrected < ALPHA and abs(each.effect) >= EFFECT:
            verdict = Verdict.WORSE if each.effect > 0 else Verdict.BETTER
        elif each.effect and each.p_least * len(family) >= ALPHA and (each.p < ALPHA or each.p_least >= ALPHA):
            # So few figures that the correction leaves no room, whatever they are: a person should know it is open.
            verdict = Verdict.TOO_FEW
        else:
            verdict = Verdict.SAME
        judged.append(replace(each, p_corrected=p_corrected, verdict=verdict))
    return judged


def _nodes(run: PastRun) -> list[dict[str, Any]]:
    return list(run.summary.get("nodes", ()))


def _host(run: PastRun) -> dict[str, Any]:
    return dict(run.summary.get("provenance", {}).get("host", {}))


_CIRCUMSTANCES: dict[str, Callable[[PastRun], object]] = {
    "stage": lambda run: run.summary.get("stage"),
    "processor": lambda run: _host(run).get("cpu"),
    "CPUs": lambda run: _host(run).get("cpus"),
    "accelerators": lambda run: ", ".join(f"{node['name']} {node['accelerator']}" for node in _nodes(run)),
    "starts": lambda run: ", ".join(f"{node['name']} {'warm' if node.get('warm') else 'cold'}" for node in _nodes(run)),
    "images": lambda run: ", ".join(sorted({node.get("image", "")[:12] for node in _nodes(run)})),
    "source": lambda run: run.summary.get("versions", {}).get("source"),
}


_HOST = {"processor", "CPUs", "accelerators"}


def _unalike(base: Sequence[PastRun], new: Sequence[PastRun]) -> dict[str, str]:
    """What may explain a change, but is not what is compared: hosts, accelerators, stages, versions."""
    found = {}
    for what, read in _CIRCUMSTANCES.items():
        ours, theirs = ({str(read(run)) for run in side} for side in (base, new))
        if ours != theirs:
            found[what] = f"{' / '.join(sorted(ours))} → {' / '.join(sorted(theirs))}"
    return found


def _shown(key: str) -> str:
    from orchestrator.experiments.parameters import describe

    return describe(json.loads(key))
