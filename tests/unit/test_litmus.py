"""Shapes against the hand-written lists of the literature, and how a run's words become outcomes."""

import json
import subprocess
import sys
from array import array
from itertools import chain
from pathlib import Path

import pytest

from guest.workloads.litmus import Litmus
from guest.workloads.race import ENTRY_WORDS, FOR_EVER
from guest.workloads.race_code import CODES
from guest.workloads.workload import PAGE_BYTES, WorkloadError
from orchestrator.errors import InputError
from orchestrator.litmus import judge
from orchestrator.litmus.command import settings_of
from orchestrator.litmus.judge import FOREIGN, Row, instances_of
from orchestrator.litmus.run import SLOTS, Memory, litmus_of, workload_of
from orchestrator.litmus.shapes import SHAPES, Outcome, Shape

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/litmus.yaml"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_search_forbids_what_the_literature_forbids_and_nothing_else(shape: Shape) -> None:
    for outcome in shape.conceivable:
        by_hand = shape.is_forbidden(outcome) or 0 in outcome.final  # every variable is stored to
        assert (outcome not in shape.allowed) == by_hand, shape.shown(outcome)
    assert len(shape.allowed) > 1  # otherwise nobody could say whether the programs had met


def entry(value: int, begin: int = 0, end: int = FOR_EVER) -> list[int]:
    """What is kept of one access: the code it stored, or the value that it found."""
    words = {"ADDRESS": 1 << 44, "VALUE": value, "PAUSE": 7, "BEGIN": begin, "END": end}
    assert len(words) == len(ENTRY_WORDS)
    return list(words.values())


def kept(*rounds: tuple[list[list[int]], list[int]]) -> "array[int]":
    """A thread's history with one instance a round: its accesses, and the final values."""
    return array("q", chain.from_iterable([*chain.from_iterable(accesses), *final] for accesses, final in rounds))


def store_buffering(own: int, other: int, final: list[int]) -> list["array[int]"]:
    """Both threads of SB store 1 in the first instance, and load `own` and `other`."""
    return [kept(([entry(1), entry(own)], final)), kept(([entry(1), entry(other)], final))]


ONE, TWO = CODES + 1, 2 * CODES + 1
"""A stored 1, in the first instance and in the second."""


def judged(words: list["array[int]"], shape: str = "SB") -> Row:
    row = Row(shape, "coherent", {"x86": [0], "arm": [1]})
    row.judge(SHAPES[shape], instances_of(SHAPES[shape], 1, words, [0, 1]), ["x86", "arm"])
    return row


def test_outcomes_are_counted_with_values_of_the_instance_before_as_zero() -> None:
    row = judged(store_buffering(0, ONE, [ONE, ONE]))
    assert (row.outcomes, row.violation_count) == ({"r0=0 r1=1": 1}, 0)
    assert (row.allowed, row.allowed_seen, row.weak) == (3, 1, True)


def test_a_forbidden_outcome_is_told_with_instance_and_nodes() -> None:
    # Value, pause, begin, end behind an address: times count from the first on each clock.
    words = [kept(([[0, 1, 0, 5000, 5010], [0, 0, 0, 5020, 5040]], [ONE, ONE]))]
    words.append(kept(([[0, 1, 0, 70, 71], [0, 0, 0, 72, 79]], [ONE, ONE])))
    row = judged(words)
    assert row.violation_count == 1
    text = str(row.violations[0])
    assert "instance 0: r0=0 r1=0 is not sequentially consistent" in text
    assert "x86 p0: store x=1 at 0..40, load y=0 at 0..40; arm p1: store y=1 at 0..9, load x=0 at 0..9" in text


def test_a_lost_store_is_forbidden() -> None:
    row = judged(store_buffering(ONE, ONE, [ONE, 0]), "false-sharing")
    assert (row.violation_count, row.outcomes) == (1, {"r0=1 r1=1 y=0": 1})


def test_a_value_of_no_store_of_this_instance_is_forbidden() -> None:
    row = judged(store_buffering(3 * CODES + 1, ONE, [ONE, ONE]))
    assert (row.violation_count, row.outcomes) == (1, {"r0=? r1=1": 1})


def test_kernels_that_disagree_in_the_end_are_forbidden() -> None:
    words = [kept(([entry(1), entry(ONE)], [ONE, ONE])), kept(([entry(1), entry(ONE)], [ONE, 0]))]
    (first,) = instances_of(SHAPES["SB"], 1, words, [0, 1])
    assert first.outcome == Outcome((1, 1), (1, FOREIGN))
    assert judged(words).violation_count == 1


def test_what_was_older_than_the_instance_before_is_no_initial_value() -> None:
    first = ([entry(1), entry(ONE)], [ONE, ONE])
    words = [kept(first, ([entry(1), entry(0)], [TWO, TWO])), kept(first, ([entry(1), entry(TWO)], [TWO, TWO]))]
    _, second = instances_of(SHAPES["SB"], 1, words, [0, 1])
    assert second.outcome.loads == (FOREIGN, 1)  # it found 0, and 0 had been overwritten before


def test_slots_of_a_round_lie_one_after_the_other_and_remember_their_own_past() -> None:
    def words(load: int) -> "array[int]":
        accesses = [entry(1), entry(ONE), entry(1), entry(TWO)]  # two slots of a round
        later = [entry(1), entry(ONE if load == 0 else load), entry(1), entry(TWO)]
        three, four = 3 * CODES + 1, 4 * CODES + 1
        return kept((accesses, [ONE, ONE, TWO, TWO]), (later, [three, three, four, four]))

    instances = list(instances_of(SHAPES["SB"], 2, [words(0), words(3 * CODES + 1)], [0, 1]))
    assert [each.outcome.loads for each in instances] == [(1, 1), (1, 1), (0, 1), (0, 0)]


def test_two_threads_of_one_clock_must_keep_its_order() -> None:
    """T1 loads 0 long after T0's store has ended: consistent in some order, but not in the one that was."""
    words = [kept(([entry(1, 0, 1)], [ONE])), kept(([entry(0, 2, 3), entry(0, 4, 5)], [ONE]))]
    for clocks, model in (([0, 0], "linearizable"), ([0, 1], "")):
        (instance,) = instances_of(SHAPES["CoRR"], 1, words, clocks)
        assert judge.broken_model(instance.history) == model


def test_a_program_that_ran_at_once_has_times_as_a_whole_and_one_access_by_access_has_them_of_each() -> None:
    first = [entry(0, 10, 11), entry(ONE, 12, 13)]
    words = [kept(([entry(1, 5, 9)], [ONE]), ([entry(1, 5, 9)], [TWO])), kept((first, [ONE]), (first, [TWO]))]
    at_once, one_by_one = instances_of(SHAPES["CoRR"], 1, words, [0, 0])
    times = [[each.during for each in instance.history.threads[1]] for instance in (at_once, one_by_one)]
    assert [[during[1:] for during in each if during] for each in times] == [[(10, 13)] * 2, [(10, 11), (12, 13)]]


def test_the_guest_lays_out_each_variable_in_a_page_of_its_own_or_all_in_one() -> None:
    fields = {"programs": [[["store", 0, 1]], [["load", 1]]], "variables": 2, "rounds": 1, "slots": 4, "seed": 1}
    apart, together = Litmus.parse({**fields}), Litmus.parse({**fields, "same_page": True})
    pages = {apart.word(slot, variable) * 8 // PAGE_BYTES for slot in range(4) for variable in range(2)}
    assert (len(pages), apart.pages) == (8, 8)
    assert {together.word(slot, 1) * 8 // PAGE_BYTES for slot in range(4)} == set(range(4))
    assert together.word(2, 0) != together.word(2, 1)
    assert 0 < apart.meeting_bytes <= PAGE_BYTES


def test_a_control_has_more_instances_in_a_round_and_in_all() -> None:
    shape = SHAPES["MP"]
    coherent, bare = (Litmus.parse(workload_of(shape, memory, 100, 1)) for memory in (Memory.COHERENT, Memory.BARE))
    assert coherent.rounds * coherent.slots >= 100
    assert (bare.rounds, bare.slots) == (coherent.rounds, coherent.slots * 8)
    assert coherent.slots == SLOTS


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
        Litmus.parse({**workload_of(SHAPES["SB"], Memory.BARE, 1, 1), **change})


def test_every_program_needs_exactly_one_thread() -> None:
    workload = litmus_of(SHAPES["SB"], Memory.COHERENT)
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
        (["--set", "coherency.protocol=mesi"], "'mesi', expected"),
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
        settings_of(file, (), "", 1, True, 1, "local")
