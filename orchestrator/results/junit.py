"""Runs as JUnit XML, which every CI shows: a run is a suite, each of its points a case.

What passed at the second attempt has a `flakyError`, as Maven's reports have it: Jenkins shows it, others pass it by.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from images.errors import writing
from orchestrator.experiments.parameters import describe
from orchestrator.results.losses import told
from orchestrator.results.summary import CHECK

INTERRUPTED = "interrupted"


def junit(summary: dict[str, Any]) -> str:
    """The XML of one run."""
    return document([suite_of(summary)])


def document(suites: Sequence[ET.Element]) -> str:
    """The XML of several suites."""
    root = ET.Element("testsuites")
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def suite_of(summary: dict[str, Any]) -> ET.Element:
    """A wrong value or a broken expectation is a failure; what kept a point or the run from its end is an error."""
    suite = ET.Element("testsuite", name=_text(summary["experiment"]))
    suite.set("timestamp", summary["started"])
    suite.set("time", f"{summary['duration_s']:.3f}")
    properties = ET.SubElement(suite, "properties")
    facts = {"run_id": summary["run_id"], "stage": summary["stage"], **summary.get("versions", {})}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=_text(str(value)))
    points = summary["points"]
    for number, point in enumerate(points, 1):
        _case(suite, summary, number, point)
    for number in range(len(points) + 1, summary["planned_points"] + 1):
        case = case_of(suite, summary, f"point {number}")
        ET.SubElement(case, "skipped", message="the run ended before this point")
    error = summary.get("error") if summary["outcome"] == "error" else None
    if error is not None:
        _tell(case_of(suite, summary, "the run as a whole"), "error", error)
    elif earlier := [end for end in summary.get("earlier_ends", ()) if end["kind"] != INTERRUPTED]:
        case = case_of(suite, summary, "the run as a whole")
        for end in earlier:
            _tell(case, "flakyError", end)
    return counted_up(suite)


def counted_up(suite: ET.Element) -> ET.Element:
    """The suite with the number of its cases, and of those that failed, ended in an error, or were skipped."""
    for attribute, tag in {
        "tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"
    }.items():  # fmt: skip
        suite.set(attribute, str(len(list(suite.iter(tag)))))
    return suite


def write_junit(summary: dict[str, Any], file: Path) -> None:
    """Write it to `file`, for `--junit`. Raises HostError when there is no room."""
    write_xml(junit(summary), file)


def write_xml(text: str, file: Path) -> None:
    """Write a document to `file`. Raises HostError when there is no room."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _case(suite: ET.Element, summary: dict[str, Any], number: int, point: dict[str, Any]) -> None:
    name = f"point {number}: {describe(point['parameters'])}"
    if point["repetition"]:
        name += f", repetition {point['repetition'] + 1}"
    case = case_of(suite, summary, name, point["duration_s"])
    if error := point.get("error"):
        _tell(case, "failure" if error["kind"] == CHECK else "error", error)
    elif not point_passed(point):
        lines = list(_failures(point))
        kind = "losses" if has_losses(point) else "expectation" if point["verified"] else "wrong value"
        _tell(case, "failure", {"kind": kind, "message": "\n".join(lines) or kind})
    else:
        for lost in point.get("lost", ()):
            _tell(case, "flakyError", lost)


def _failures(point: dict[str, Any]) -> Iterator[str]:
    if has_losses(point):
        yield told(point["losses"])
    yield from (f"wrong value: {_mismatch(each)}" for each in point["mismatches"])
    if point["mismatch_count"] > len(point["mismatches"]):
        yield f"{point['mismatch_count']} wrong values in all"
    verdicts = [each for each in point["expectations"] if not each["holds"]]
    yield from (f"does not hold: {each['expression']}   ({each['shown']})" for each in verdicts)


def case_of(suite: ET.Element, summary: dict[str, Any], name: str, time_s: float = 0.0) -> ET.Element:
    """A new case of the suite."""
    classname = f"{summary['experiment']}.{summary['stage']}"
    return ET.SubElement(suite, "testcase", classname=_text(classname), name=_text(name), time=f"{time_s:.6f}")


def _tell(case: ET.Element, tag: str, end: dict[str, str]) -> None:
    told = ET.SubElement(case, tag, type=end["kind"], message=_text(end["message"].partition("\n")[0]))
    hint = end.get("hint")
    told.text = _text(end["message"] + (f"\nhint: {hint}" if hint else ""))


def point_passed(point: dict[str, Any]) -> bool:
    """Of a point in run.json: whether it came to its end whole, and as expected."""
    if point.get("error") or has_losses(point):
        return False
    return point["verified"] and all(verdict["holds"] for verdict in point["expectations"])


def has_losses(point: dict[str, Any]) -> bool:
    """Whether kernels, threads or pages were lost in it."""
    return any((point.get("losses") or {}).values())


def _mismatch(wrong: dict[str, Any]) -> str:
    place = f"node {wrong['node']}, page {wrong['page']}, offset {wrong['offset']}"
    when = f"iteration {wrong['iteration']}, thread {wrong['thread']}"
    return f"{place}: expected {wrong['expected']:#x}, found {wrong['found']:#x} ({when})"


def _text(text: str) -> str:
    """Without the control characters that XML cannot carry, escaped or not."""
    return "".join(each if each >= " " or each in "\t\n" else "\N{REPLACEMENT CHARACTER}" for each in text)
