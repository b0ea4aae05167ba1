"""`testbed plan`: what a file amounts to, before anything is started."""

import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.experiments.durations import duration
from orchestrator.experiments.forecast import PointForecast, TestbedForecast, forecast
from orchestrator.experiments.parameters import describe
from orchestrator.experiments.plan import Plan, load
from orchestrator.experiments.sizes import show_size
from orchestrator.output import put, sheet
from orchestrator.words import counted


def plan_file(
    file: Path, overrides: Sequence[str], stage: str, *, accelerator: str | None, results: Path, as_json: bool
) -> None:
    """Print every point, its time and time-out, each testbed's memory, and what is reused. Raises FileError."""
    import psutil

    plan = load(file, overrides)
    testbeds = forecast(plan, stage, results, accelerator)
    images = _images(plan) if stage == "vm" else {}
    available_bytes = psutil.virtual_memory().available
    if as_json:
        put(json.dumps(_as_json(plan, stage, testbeds, images, available_bytes), indent=2) + "\n")
    else:
        put(_rendered(plan, stage, testbeds, images, available_bytes))


def _images(plan: Plan) -> dict[str, bool]:
    """The images that the plan needs, by architecture and definition, and whether they are there."""
    from images.store import there
    from orchestrator.experiments.image_files import definition_of

    wanted = {
        (node.arch.value, shape.image_of(name)) for shape, _ in plan.testbeds for name, node in shape.nodes.items()
    }
    return {
        arch if image == "default" else f"{arch} ({image})": there(arch, definition_of(image)) is not None
        for arch, image in sorted(wanted)
    }


def _as_json(
    plan: Plan, stage: str, testbeds: list[TestbedForecast], images: dict[str, bool], available_bytes: int
) -> dict[str, Any]:
    return {
        "experiment": plan.name,
        "stage": stage,
        "points": len(plan.points),
        "expected_s": _expected_s(testbeds),
        "limit_s": round(sum(each.limit_s for each in testbeds), 3),
        "memory_bytes": max(each.memory_bytes for each in testbeds),
        "available_bytes": available_bytes,
        "images": {arch: "present" if there else "to be built" for arch, there in images.items()},
        "testbeds": [
            {
                "nodes": {name: node.arch.value for name, node in each.shape.nodes.items()},
                "memory_bytes": each.memory_bytes,
                "start_s": each.start_s,
                "expected_s": _rounded(each.expected_s),
                "limit_s": round(each.limit_s, 3),
                "points": [_point_as_json(point) for point in each.points],
            }
            for each in testbeds
        ],
    }


def _point_as_json(forecasted: PointForecast) -> dict[str, Any]:
    point = forecasted.point
    return {
        "index": point.index,
        "parameters": point.parameters,
        "repetition": point.repetition,
        "seed": point.seed,
        "warm_up": point.warm_up,
        "expected_s": _rounded(forecasted.expected_s),
        "basis": forecasted.basis,
        "limit_s": forecasted.limit_s,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _expected_s(testbeds: list[TestbedForecast]) -> float | None:
    times = [each.expected_s for each in testbeds]
    return None if None in times else round(sum(time for time in times if time is not None), 3)


def _rendered(
    plan: Plan, stage: str, testbeds: list[TestbedForecast], images: dict[str, bool], available_bytes: int
) -> str:
    from rich import box
    from rich.table import Table

    text = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 400
    console = sheet(text, width)
    for number, each in enumerate(testbeds, 1):
        nodes = ", ".join(f"{name} ({node.arch.value})" for name, node in each.shape.nodes.items())
        memory = show_size(each.memory_bytes)
        console.print(f"testbed {number} of {len(testbeds)}: {nodes}; {memory}; started once for "
                      f"{counted(len(each.points), 'point')}", markup=False, soft_wrap=True)  # fmt: skip
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
        for title, justify in (("point", "right"), ("what", "left"), ("seed", "right"), ("takes", "right")):
            table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=title != "what")
        table.add_column("known from", no_wrap=True)
        table.add_column("at most", justify="right", no_wrap=True)
        for point in each.points:
            table.add_row(*_row(point))
        console.print(table)
    for line in _lines(plan, stage, testbeds, images, available_bytes):
        console.print(line, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _row(forecasted: PointForecast) -> tuple[str, ...]:
    point = forecasted.point
    what = describe(point.parameters)
    if point.experiment.repeat > 1:
        what += f", repetition {point.repetition + 1} of {point.experiment.repeat}"
    if point.warm_up:
        what += f", after {counted(point.warm_up, 'warm-up')}"
    takes = "?" if forecasted.expected_s is None else f"{forecasted.expected_s:.1f} s"
    limit = f"{forecasted.limit_s:g} s"
    return str(point.index + 1), what, str(point.seed), takes, forecasted.basis, limit


def _lines(
    plan: Plan, stage: str, testbeds: list[TestbedForecast], images: dict[str, bool], available_bytes: int
) -> Iterator[str]:
    expected_s = _expected_s(testbeds)
    takes = "time not known" if expected_s is None else f"about {duration(expected_s)}"
    limit = duration(sum(each.limit_s for each in testbeds))
    yield f"{plan.name} on stage {stage}: {counted(len(plan.points), 'point')}, {takes}, at most {limit}"
    most = max(each.memory_bytes for each in testbeds)
    verdict = "" if most <= available_bytes else ": NOT ENOUGH"
    yield f"memory: {show_size(most)} at a time, {available_bytes / (1 << 30):.1f} GiB available{verdict}"
    if images:
        shown = ", ".join(f"{arch} {'there' if there else 'to be built'}" for arch, there in images.items())
        yield f"images: {shown}"
    reused = len(plan.points) - len(testbeds)
    started = counted(len(testbeds), "testbed")
    yield f"reused: {started} for all points, {counted(reused, 'start')} saved; memory is clean each time"
