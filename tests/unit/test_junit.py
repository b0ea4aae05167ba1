"""JUnit XML of a run: what CI counts must be what the run says."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

from images.errors import HostError
from orchestrator.results.directories import read_summary
from orchestrator.results.junit import junit, write_junit
from tests.unit.past_runs import MATRIX, past_run
from tests.unit.test_experiment_errors import GOOD


def suite_of(run: Path) -> ET.Element:
    suite = ET.fromstring(junit(read_summary(run))).find("testsuite")
    assert suite is not None
    for word in ("tests", "failures", "errors", "skipped"):
        tag = {"tests": "testcase", "failures": "failure", "errors": "error"}.get(word, word)
        assert int(suite.attrib[word]) == len(list(suite.iter(tag))), word
    return suite


def test_every_point_is_a_case(tmp_path: Path) -> None:
    suite = suite_of(past_run(tmp_path, tmp_path / "results"))
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("8", "0", "0")
    names = [case.attrib["name"] for case in suite.iter("testcase")]
    assert names[:2] == [
        "point 1: iterations 1, notify poll",
        "point 2: iterations 1, notify poll, repetition 2",
    ]
    assert len(set(names)) == 8


def test_a_broken_expectation_is_a_failure_with_its_values(tmp_path: Path) -> None:
    text = GOOD + MATRIX + "expect: [messages.protocol <= 12, verified == true]\n"
    suite = suite_of(past_run(tmp_path, tmp_path / "results", text))
    failures = list(suite.iter("failure"))
    assert len(failures) == 4
    assert failures[0].attrib["message"] == "does not hold: messages.protocol <= 12   (messages.protocol = 18)"


def test_what_ended_a_run_is_an_error_and_what_was_left_is_skipped(tmp_path: Path) -> None:
    ended = HostError("node arm: killed\x1b[31m\nthe agent said <nothing> & more", "look at its console")
    suite = suite_of(past_run(tmp_path, tmp_path / "results", error=ended))
    assert (suite.attrib["tests"], suite.attrib["errors"], suite.attrib["skipped"]) == ("9", "1", "7")
    (error,) = suite.iter("error")
    assert error.attrib == {"type": "HostError", "message": "node arm: killed\N{REPLACEMENT CHARACTER}[31m"}
    assert (error.text or "").endswith("said <nothing> & more\nhint: look at its console")


def test_wrong_values_are_told(tmp_path: Path) -> None:
    summary = read_summary(past_run(tmp_path, tmp_path / "results"))
    wrong = {
        "node": "arm", "page": 2, "offset": 64, "expected": 32, "found": 16, "iteration": 5, "thread": 0
    }  # fmt: skip
    summary["points"][0] |= {"verified": False, "mismatches": [wrong], "mismatch_count": 3}
    write_junit(json.loads(json.dumps(summary)), tmp_path / "ci" / "junit.xml")
    (failure,) = ET.parse(tmp_path / "ci" / "junit.xml").getroot().iter("failure")
    assert failure.attrib["type"] == "wrong value"
    assert failure.text is not None
    assert "node arm, page 2, offset 64: expected 0x20, found 0x10 (iteration 5, thread 0)" in failure.text
    assert "3 wrong values in all" in failure.text


def test_what_kept_a_point_from_its_end_is_told_and_so_is_what_it_lost(tmp_path: Path) -> None:
    run = past_run(tmp_path, tmp_path / "results")
    summary = read_summary(run)
    summary["points"][0] |= {"verified": False, "error": {"kind": "deadline", "message": "too late", "hint": "more"}}
    summary["points"][1]["losses"] = {"kernels": {"arm": "its agent was gone"}, "threads": [], "pages": [3]}
    summary["points"][3] |= {"verified": False, "error": {"kind": "check", "message": "assert", "hint": ""}}
    summary["points"][2]["lost"] = [{"kind": "guest", "message": "node arm has ended\nlast words", "hint": ""}]
    (run / "run.json").write_text(json.dumps(summary))
    suite = suite_of(run)
    (error,), (failure, asserted), (flaky,) = suite.iter("error"), suite.iter("failure"), suite.iter("flakyError")
    assert asserted.attrib == {"type": "check", "message": "assert"}
    assert (error.attrib, error.text) == ({"type": "deadline", "message": "too late"}, "too late\nhint: more")
    assert failure.attrib == {"type": "losses", "message": "node arm is gone: its agent was gone"}
    assert "1 page lost" in (failure.text or "")
    assert (flaky.attrib["message"], flaky.text) == ("node arm has ended", "node arm has ended\nlast words")
