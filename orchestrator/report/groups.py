"""Points that belong together: the same sharing, size and settings, whatever their repetition."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.experiments.parameters import head, show_value
from orchestrator.report.chart import number
from orchestrator.results.past_run import PastPoint, PastRun
from orchestrator.words import counted

_SHOWN = ("workload.threads", "workload.array", "workload.iterations")
"""Parameters that charts have an axis or a panel for."""


@dataclass(frozen=True)
class Measured:
    """A point that came to its end, and where it stands in the charts."""

    run: PastRun
    point: PastPoint
    setting: str
    """All that varies and has neither axis nor panel: protocol, way of waiting, the run if there are several …"""

    @property
    def result(self) -> dict[str, Any]:
        assert self.point.result is not None
        return self.point.result

    @property
    def sharing(self) -> str:
        return self.point.sharing

    @property
    def pages(self) -> int:
        return int(self.result.get("pages") or 0)

    @property
    def iterations(self) -> int:
        return int(self.result.get("iterations") or 0)


@dataclass(frozen=True)
class Spread:
    """Median, and the smallest and largest, of figures of one kind."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def shown(self) -> str:
        """`18 (18–22)`; where all are the same, `18`."""
        spread = f" ({number(self.low)}–{number(self.high)})" if self.low < self.high else ""
        return number(self.median) + spread

    @property
    def whiskers(self) -> tuple[float, float]:
        """Above and below the median."""
        return self.high - self.median, self.median - self.low


def measured(runs: Sequence[PastRun]) -> list[Measured]:
    """All points that came to their end, of all runs, in order."""
    found = []
    for run in runs:
        for point in run.points:
            if point.result is None:
                continue
            own_program = point.workload.get("kind") != "shared-array"  # its roles are no sharing
            words = [run.run_id] if len(runs) > 1 else []
            words += [
                show_value(value) if isinstance(value, str) else f"{head(path)} {show_value(value)}"
                for path, value in point.parameters.items()
                if not path.startswith(_SHOWN) or (path == "workload.threads" and own_program)
            ]
            found.append(Measured(run, point, ", ".join(words)))
    return found


def by(points: Sequence[Measured], *keys: str) -> dict[tuple[Any, ...], list[Measured]]:
    """Points by the values of these attributes, in the order in which they first appear."""
    groups: dict[tuple[Any, ...], list[Measured]] = defaultdict(list)
    for point in points:
        groups[tuple(getattr(point, key) for key in keys)].append(point)
    return dict(groups)


def title(sharing: str, pages: int) -> str:
    """Of a panel: `R,W, 64 pages`; a workload that has no array has no pages either."""
    return f"{sharing}, {counted(pages, 'page')}" if pages else sharing
