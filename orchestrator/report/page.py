"""The page itself: outcome first, then figures, then where they come from."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from images.errors import writing
from orchestrator.experiments.parameters import describe
from orchestrator.report.groups import measured
from orchestrator.report.latencies import latencies
from orchestrator.report.messages import messages
from orchestrator.report.pages import pages
from orchestrator.report.reported import reported
from orchestrator.report.sequence import sequence
from orchestrator.report.settings import settings
from orchestrator.report.stays import stays
from orchestrator.report.times import times
from orchestrator.results.past_run import PastRun
from orchestrator.words import counted

FAILED_SHOWN = 50
_WORDS = {"passed": "Passed", "failed": "Failed", "error": "Did not come to its end"}
_STAGES = {"vm": "real guests", "local": "processes of the host, no machines", "sim": "simulated, in virtual time"}


def render(runs: Sequence[PastRun], remarks: Mapping[str, Sequence[str]] | None = None) -> str:
    """The HTML of a report about these runs; `remarks` are what else is to be said about one, by its id."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    points = measured(runs)
    drawn = [
        reported(points), messages(points), settings(points), latencies(points), pages(points), stays(points),
        sequence(points), times(runs),
    ]  # fmt: skip
    charts = [chart for chart in drawn if chart is not None]
    environment = Environment(
        loader=PackageLoader("orchestrator.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=_title(runs),
        verdicts=[_verdict(run) | {"remarks": [*_second(run), *(remarks or {}).get(run.run_id, ())]} for run in runs],
        charts=charts,
        origins=[_origin(run) for run in runs],
        style=_file("report.css"),
        script=_file("report.js"),
        plotly=_plotly(),
        data=_embedded([chart.as_json() for chart in charts]),
    )


def write(runs: Sequence[PastRun], file: Path, remarks: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write the report in one step: whoever has it open sees the old one or the new one. Raises HostError."""
    text = render(runs, remarks)
    draft = file.with_name(f".{file.name}.part")
    try:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8", errors="replace")  # a folder may be called anything
            draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _title(runs: Sequence[PastRun]) -> str:
    names = list(dict.fromkeys(str(run.summary.get("experiment", "")) for run in runs))
    title = ", ".join(names)
    return title if len(runs) > 1 else f"{title}: {_WORDS[runs[0].summary['outcome']].lower()}"


def _verdict(run: PastRun) -> dict[str, Any]:
    """What stands on top: how the run ended, and what did not go as expected."""
    summary = run.summary
    broken = [point for point in run.points if point.result is not None and not point.passed]
    done = sum(point.result is not None for point in run.points)
    planned = summary.get("planned_points", done)
    failures = []
    for point in broken[:FAILED_SHOWN]:
        assert point.result is not None
        lines = [
            f"wrong value on node {wrong['node']}, page {wrong['page']}, offset {wrong['offset']}: "
            f"expected {wrong['expected']:#x}, found {wrong['found']:#x}"
            for wrong in point.result["mismatches"][:5]
        ]
        verdicts = [each for each in point.result["expectations"] if not each["holds"]]
        lines += [f"does not hold: {each['expression']} ({each['shown']})" for each in verdicts]
        failures.append({"what": f"Point {point.index + 1}: {describe(point.parameters)}", "lines": lines})
    return {
        "run_id": run.run_id,
        "outcome": summary["outcome"],
        "word": _WORDS.get(summary["outcome"], summary["outcome"]),
        "points": counted(done, "point") if done == planned else f"{done} of {planned} points",
        "ended": f"{done - len(broken)} of {planned} passed",
        "stage": _STAGES.get(summary.get("stage", ""), ""),
        "started": summary.get("started", "").replace("T", " ").replace("+00:00", " UTC"),
        "duration_s": f"{summary.get('duration_s', 0.0):.1f}",
        "messages": sum(point.result.get("messages_total") or 0 for point in run.points if point.result is not None),
        "error": summary.get("error") if not broken else None,
        "failures": failures,
        "more": max(0, len(broken) - FAILED_SHOWN),
        "nodes": summary.get("nodes", []),
    }


def _second(run: PastRun) -> list[str]:
    """What was tried a second time."""
    lines = [
        f"Point {point.index + 1}, {describe(point.parameters)}, was repeated: {lost['message'].partition(chr(10))[0]}"
        for point in run.points
        for lost in (point.result or {}).get("lost", ())
    ]
    ends = run.summary.get("earlier_ends", ())
    return lines + [f"The run was gone on with after: {end['message'].partition(chr(10))[0]}" for end in ends]


def _origin(run: PastRun) -> dict[str, Any]:
    """Where the figures come from."""
    summary = run.summary
    provenance = dict(summary.get("provenance", {}))
    host = provenance.pop("host", {})
    facts = {
        "command": provenance.get("command"),
        "file": provenance.get("file"),
        "source": f"{provenance.get('commit') or 'no repository'}{', changed' if provenance.get('dirty') else ''}",
        "host": ", ".join(
            str(each)
            for each in (
                host.get("name"), host.get("cpu"), f"{host.get('cpus', '?')} CPUs",
                f"{host.get('memory_mib', 0) / 1024:.0f} GiB", host.get("distribution"), host.get("kernel"),
            )
            if each
        ),
    }  # fmt: skip
    return {
        "run_id": run.run_id,
        "facts": {name: value for name, value in facts.items() if value},
        "versions": summary.get("versions", {}),
        "nodes": summary.get("nodes", []),
        "text": _text(run.directory / "experiment.yaml"),
        "results": summary.get("results", ""),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


@cache
def _file(name: str) -> str:
    return resources.files("orchestrator.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Plotly's own code. Its Python side is not needed, and costs a second to import."""
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script")


def _embedded(data: Any) -> str:
    """JSON that no browser takes for markup."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
