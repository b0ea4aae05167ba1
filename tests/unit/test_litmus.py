"""Shapes against the hand-written lists of the literature, and how a run's words become outcomes."""

import json
import subprocess
import sys
from array import array
from itertools import chain
from pathlib import Path

import pytest

from guest.workloads.litmus import CODES, Litmus
from guest.workloads.workload import PAGE_BYTES, WorkloadError
from orchestrator.errors import InputError
from orchestrator.litmus import judge, run
from orchestrator.litmus.command import settings_of
from orchestrator.litmus.judge import FOREIGN, SLOTS, Row, instances_of
from orchestrator.litmus.shapes import SHAPES, Outcome, Shape

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/litmus.yaml"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_search_forbids_what_the_literature_forbids_and_nothing_else(shape: Shape) -> None:
    for outcome in shape.conceivable:
        by_hand = shape.is_forbidden(outcome) or 0 in outcome.final  # every variable is stored to
        assert (outcome not in shape.allowed) == by_hand, shape.shown(outcome)
    assert len(shape.allowed) > 1  # otherwise nobody could say whether the programs had met


def thread(operations: list[list[int]], final: list[list[int]]) -> "array[int]":
    """One round's history: for each slot the values of its operations, and the final values. Slots repeat the last."""
    operations += [operations[-1]] * (SLOTS - len(operations))
    final += [final[-1]] * (SLOTS - len(final))
    timed = [[value, 2 * n, 2 * n + 1] for slot in operations for n, value in enumerate(slot)]
    return array("q", [*chain(*timed), *chain(*final)])


def store_buffering(own: int, other: int, final: list[int]) -> list["array[int]"]:
    """Both threads of SB store 1 in round 0, and load `own` and `other`."""
    one = CODES + 1
    return [thread([[one, own]], [list(final)]), thread([[one, other]], [list(final)])]


def judged(words: list["array[int]"], shape: str = "SB") -> Row:
    row = Row(shape, "coherent", {"x86": [0], "arm": [1]})
    row.judge(SHAPES[shape], instances_of(SHAPES[shape], 1, words, [0, 1]), ["x86", "arm"])
    return row


def test_outcomes_are_counted_with_values_of_the_round_before_as_zero() -> None:
    row = judged(store_buffering(0, CODES + 1, [CODES + 1, CODES + 1]))
    assert (row.outcomes, row.violation_count) == ({"r0=0 r1=1": SLOTS}, 0)
    assert (row.allowed, row.allowed_seen, row.weak) == (3, 1, True)


def test_a_forbidden_outcome_is_told_with_instance_and_nodes() -> None:
    row = judged(store_buffering(0, 0, [CODES + 1, CODES + 1]))
    assert row.violation_count == SLOTS
    text = str(row.violations[0])
    assert "instance 0: r0=0 r1=0 is not sequentially consistent" in text
    assert "x86 p0: store x=1, load y=0; arm p1: store y=1, load x=0" in text


def test_a_lost_store_is_forbidden() -> None:
    row = judged(store_buffering(CODES + 1, CODES + 1, [CODES + 1, 0]), "false-sharing")
    assert row.violation_count == SLOTS
    assert row.outcomes == {"r0=1 r1=1 y=0": SLOTS}


def test_a_value_of_no_store_of_this_round_is_forbidden() -> None:
    row = judged(store_buffering(3 * CODES + 1, CODES + 1, [CODES + 1, CODES + 1]))
    assert (row.violation_count, row.outcomes) == (SLOTS, {"r0=? r1=1": SLOTS})


def test_kernels_that_disagree_in_the_end_are_forbidden() -> None:
    one = CODES + 1
    words = [thread([[one, one]], [[one, one]]), thread([[one, one]], [[one, 0]])]
    (first, *_) = instances_of(SHAPES["SB"], 1, words, [0, 1])
    assert first.outcome == Outcome((1, 1), (1, FOREIGN))
    assert judged(words).violation_count == SLOTS


def test_what_was_older_than_the_round_before_is_no_initial_value() -> None:
    one, two = CODES + 1, 2 * CODES + 1
    first, second = store_buffering(one, one, [one, one]), store_buffering(0, two, [two, two])
    for thread_words in second:
        thread_words[0::3] = array("q", [two if value == one else value for value in thread_words[0::3]])
    words = [a + b for a, b in zip(first, second, strict=True)]
    instances = list(instances_of(SHAPES["SB"], 2, words, [0, 1]))
    assert instances[SLOTS].outcome.loads[0] == FOREIGN  # it found 0, and 0 had been overwritten before


def test_two_threads_of_one_clock_must_keep_its_order() -> None:
    """T1 loads 0 long after T0's store has ended: consistent in some order, but not in the one that was."""
    one = CODES + 1
    words = [array("q", [one, 0, 1] * SLOTS + [one] * SLOTS)]
    words.append(array("q", [0, 2, 3, 0, 4, 5] * SLOTS + [one] * SLOTS))
    for clocks, models in (([0, 0], {"linearizable"}), ([0, 1], {""})):
        instances = instances_of(SHAPES["CoRR"], 1, words, clocks)
        assert {judge.broken_model(each.history) for each in instances} == models


def test_the_guest_lays_out_each_variable_in_a_page_of_its_own_or_all_in_one() -> None:
    fields = {"programs": [[["store", 0, 1]], [["load", 1]]], "variables": 2, "rounds": 1, "slots": 4, "seed": 1}
    apart, together = Litmus.parse({**fields}), Litmus.parse({**fields, "same_page": True})
    pages = {apart.word(slot, variable) * 8 // PAGE_BYTES for slot in range(4) for variable in range(2)}
    assert (len(pages), apart.pages) == (8, 8 + 2)
    assert {together.word(slot, 1) * 8 // PAGE_BYTES for slot in range(4)} == set(range(4))
    assert together.word(2, 0) != together.word(2, 1)


def test_what_the_host_sends_is_what_the_guest_lays_out() -> None:
    for shape in SHAPES.values():
        parsed = Litmus.parse(run.workload_of(shape.fenced(), 3, 7))
        assert (parsed.pages, parsed.slots) == (run.pages_of(shape), SLOTS)
        assert judge.CODES == CODES


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"programs": [[["jump"]]]}, r"step \['jump'\], expected"),
        ({"programs": [[["store", 0, 8]]]}, "C from 1 to 7"),
        ({"programs": []}, "expected a list of lists"),
        ({"slots": 0}, "slots 0, expected a whole number"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(WorkloadError, match=said):
        Litmus.parse({**run.workload_of(SHAPES["SB"], 1, 1), **change})


def test_every_program_needs_exactly_one_thread() -> None:
    workload = Litmus.parse(run.workload_of(SHAPES["SB"], 1, 1))
    workload.check_roles([["p0"], ["p1"], ["idle"]])
    for roles in ([["p0"], ["p0"]], [["p0"]], [["reader"], ["p1"]]):
        with pytest.raises(WorkloadError, match="expected one thread for each"):
            workload.check_roles(roles)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "SV"], "'SV', expected some of SB, MP"),
        (["--shape", "SB,,MP"], "'', expected some of"),
        (["nowhere.yaml"], "no such file"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(words: list[str], said: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "orchestrator", "litmus", *words, "--stage", "local", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert said in done.stderr
    assert said in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("region: 1MiB", "region: 64KiB", "coherency.region is 64KiB, litmus tests need"),
        ("coherency: {", "# {", "found no coherency"),
    ],
)
def test_files_without_room_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(CONFIG.read_text().replace(old, new))
    with pytest.raises(InputError, match=said):
        settings_of(file, "", 1, None, True, 1, "local")
