"""A run as JUnit XML, which every CI shows: the run is a suite, each of its points a case."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from images.errors import writing
from orchestrator.parameters import describe


def junit(summary: dict[str, Any]) -> str:
    """The XML. A wrong value or a broken expectation is a failure; what kept the run from its end is an error."""
    points = summary["points"]
    missing = summary["planned_points"] - len(points)
    error = summary.get("error") if summary["outcome"] == "error" else None
    broken = [point for point in points if not _passed(point)]
    suite = ET.Element(
        "testsuite",
        name=_text(summary["experiment"]),
        tests=str(len(points) + missing + (error is not None)),
        failures=str(len(broken)),
        errors=str(int(error is not None)),
        skipped=str(missing),
        time=f"{summary['duration_s']:.3f}",
        timestamp=summary["started"],
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"run_id": summary["run_id"], "stage": summary["stage"], **summary.get("versions", {})}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=_text(str(value)))
    for number, point in enumerate(points, 1):
        _case(suite, summary, number, point)
    for number in range(len(points) + 1, len(points) + missing + 1):
        case = _element(suite, summary, f"point {number}", 0.0)
        ET.SubElement(case, "skipped", message="the run ended before this point")
    if error is not None:
        case = _element(suite, summary, "the run as a whole", 0.0)
        told = ET.SubElement(case, "error", type=error["kind"], message=_text(_first_line(error["message"])))
        told.text = _text("\n".join(filter(None, [error["message"], error["hint"] and f"hint: {error['hint']}"])))
    document = ET.Element("testsuites")
    document.append(suite)
    ET.indent(document)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(document, encoding="unicode") + "\n"


def write_junit(summary: dict[str, Any], file: Path) -> None:
    """Write it to `file`, for `--junit`. Raises HostError when there is no room."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(junit(summary), encoding="utf-8")


def _case(suite: ET.Element, summary: dict[str, Any], number: int, point: dict[str, Any]) -> None:
    name = f"point {number}: {describe(point['parameters'])}"
    if point["repetition"]:
        name += f", repetition {point['repetition'] + 1}"
    case = _element(suite, summary, name, point["duration_s"])
    if _passed(point):
        return
    lines = [f"wrong value: {_mismatch(each)}" for each in point["mismatches"]]
    if point["mismatch_count"] > len(lines):
        lines.append(f"{point['mismatch_count']} wrong values in all")
    verdicts = [each for each in point["expectations"] if not each["holds"]]
    lines += [f"does not hold: {each['expression']}   ({each['shown']})" for each in verdicts]
    kind = "expectation" if point["verified"] else "wrong value"
    failure = ET.SubElement(case, "failure", type=kind, message=_text(lines[0] if lines else kind))
    failure.text = _text("\n".join(lines))


def _element(suite: ET.Element, summary: dict[str, Any], name: str, time_s: float) -> ET.Element:
    classname = f"{summary['experiment']}.{summary['stage']}"
    return ET.SubElement(suite, "testcase", classname=_text(classname), name=_text(name), time=f"{time_s:.6f}")


def _passed(point: dict[str, Any]) -> bool:
    return point["verified"] and all(verdict["holds"] for verdict in point["expectations"])


def _mismatch(wrong: dict[str, Any]) -> str:
    place = f"node {wrong['node']}, page {wrong['page']}, offset {wrong['offset']}"
    when = f"iteration {wrong['iteration']}, thread {wrong['thread']}"
    return f"{place}: expected {wrong['expected']:#x}, found {wrong['found']:#x} ({when})"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _text(text: str) -> str:
    """Without the control characters that XML cannot carry, escaped or not."""
    return "".join(each if each >= " " or each in "\t\n" else "\N{REPLACEMENT CHARACTER}" for each in text)
