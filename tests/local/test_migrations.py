"""What `testbed bench migration` makes of a run of its travellers: by the runtime's notes, on one clock."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.figures import Quantity
from orchestrator.bench.migrations import PROGRAM, TRAVELLERS, WORKLOAD, clocks, figures, moves
from tests.local.test_process import answers, text
from tests.local.test_run_local import run, summary_of

NODES = ("x86", "arm")
Answers = list[dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("travellers")
    (folder / "own.py").write_text(PROGRAM.read_text())
    more = f", iterations: {TRAVELLERS}, pool: {WORKLOAD['pool']}"
    summary = summary_of(run(folder, text(more=more), "--json"))
    said = {node: path.read_text() for node in NODES for path in Path(summary["results"]).glob(f"output/*/{node}.txt")}
    return [{**answer, "output": [said.get(node, "")]} for node, answer in zip(NODES, answers(summary), strict=True)]


def test_every_migration_is_found_with_how_the_thread_was_placed(told: Answers) -> None:
    found, _ = moves(told)
    first, *others = [found[4 * number : 4 * number + 4] for number in range(TRAVELLERS)]
    assert [move.placement for move in first] == ["CREATED", "BACK", "BACK", "BACK"]
    assert all([move.placement for move in each] == ["CLONED", "BACK", "BACK", "BACK"] for each in others)
    assert all((move.source, move.destination) == (index % 2, 1 - index % 2) for index, move in enumerate(found))
    assert all(move.took_us > 0 for move in found)


def test_whose_output_a_thread_was_in_does_not_matter(told: Answers) -> None:
    turned = [{**each, "output": ["\n".join(reversed("".join(each["output"]).splitlines()))]} for each in told]
    assert moves(turned)[0] == moves(told)[0]


def test_clocks_of_one_host_are_found_to_be_one(told: Answers) -> None:
    clock = clocks(told)
    begun_s = [answer["timeline"]["begun_ns"] / 1e9 for answer in told]
    assert abs(begun_s[1] - begun_s[0] - clock.offset_s) <= clock.error_s


def test_times_are_the_same_however_far_the_clocks_are_from_each_other(told: Answers) -> None:
    """Had the other kernel's clock been an hour ahead, and had that kernel begun to count a second later."""
    hour_ns, second_ns = 3_600_000_000_000, 1_000_000_000
    told_1 = told[1]
    later = {
        **told_1,
        "timeline": {"begun_ns": told_1["timeline"]["begun_ns"] + hour_ns + second_ns},
        "moves": [{**note, "at_ns": note["at_ns"] - second_ns} for note in told_1["moves"]],
    }
    hops = [json.loads(line) for line in told[0]["output"][0].splitlines()]
    for thread in hops:
        for hop in thread:
            hop[2 if hop[1] else 4] += hour_ns
    moved = [{**told[0], "output": [json.dumps(thread) for thread in hops]}, later]
    assert [each.took_us for each in moves(moved)[0]] == pytest.approx([each.took_us for each in moves(told)[0]])


def test_figures_are_by_placement_and_direction_with_the_messages_of_each(told: Answers) -> None:
    found = {(each.quantity, each.nodes): each for each in figures([(("x86", "arm"), told)])}
    there, back = ("arm", "x86"), ("x86", "arm")

    assert found[Quantity.CREATION, there].count == 1
    assert found[Quantity.CLONE, there].count == TRAVELLERS - 1
    assert found[Quantity.RETURN, there].count == TRAVELLERS
    assert found[Quantity.RETURN, back].count == 2 * TRAVELLERS
    assert found[Quantity.CLONE_MESSAGES, there].median == found[Quantity.RETURN_MESSAGES, back].median == 2
    assert found[Quantity.CREATION_MESSAGES, there].median > 2
    assert (Quantity.CLONE, back) not in found
