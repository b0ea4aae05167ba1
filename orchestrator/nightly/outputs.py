"""What a night leaves beside night.json: summaries, JUnit XML, and a report of all its runs."""

from pathlib import Path
from xml.etree import ElementTree as ET

from images.errors import Failure, writing
from orchestrator.nightly.night import Entry, Night
from orchestrator.nightly.summary import as_markdown, as_text
from orchestrator.report.page import write as write_report
from orchestrator.results.directories import read_summary
from orchestrator.results.junit import case_of, counted_up, document, suite_of, write_xml
from orchestrator.results.past_run import PastRun, read_run

SUMMARY, TEXT, JUNIT, REPORT = "summary.md", "summary.txt", "junit.xml", "report.html"


def write_outputs(night: Night, directory: Path, results: Path) -> None:
    """Write all of them into the night's directory. Raises HostError when there is no room."""
    for name, content in ((SUMMARY, as_markdown(night)), (TEXT, as_text(night))):
        with writing(directory / name):
            (directory / name).write_text(content, encoding="utf-8")
    write_xml(junit(night, results), directory / JUNIT)
    runs, remarks = _runs(night, results)
    if runs:
        write_report(runs, directory / REPORT, remarks)


def junit(night: Night, results: Path) -> str:
    """A suite for each run; one with a single skipped case for what was not run."""
    suites = []
    for entry in night.entries:
        about = {"experiment": entry.experiment, "stage": night.stage}
        for run_id in entry.runs:
            try:
                suite = suite_of(read_summary(results / run_id))
            except Failure:  # it was stopped before it had written anything
                continue
            if run_id == entry.runs[0]:
                _compared(suite, about, entry)
            suites.append(counted_up(suite))
        if not entry.has_run:
            suite = ET.Element("testsuite", name=entry.experiment, timestamp=night.started, time="0")
            ET.SubElement(case_of(suite, about, "all points"), "skipped", message=entry.reason)
            suites.append(counted_up(suite))
    return document(suites)


def _compared(suite: ET.Element, about: dict[str, str], entry: Entry) -> None:
    if not entry.baseline:
        return
    case = case_of(suite, about, "compared with the baseline")
    if entry.worse:
        ET.SubElement(case, "failure", type="worse", message=entry.baseline).text = "\n".join(entry.worse)
    else:
        ET.SubElement(case, "system-out").text = entry.baseline


def _runs(night: Night, results: Path) -> tuple[list[PastRun], dict[str, list[str]]]:
    """The runs that are there to be read, and what is to be said about each."""
    runs, remarks = [], {}
    for entry in night.entries:
        for run_id in entry.runs:
            try:
                runs.append(read_run(results / run_id))
            except Failure:
                continue
            remarks[run_id] = [f"worse than the baseline: {each}" for each in entry.worse]
    return runs, remarks
