"""`testbed bench` on real guests: every figure there is to be, from one run, and nothing left behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.figures import COMPARED, Quantity
from tests.vm.leftovers import Cockpit

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cockpit = Cockpit(tmp_path_factory.mktemp("bench"))
    done = cockpit.command("bench", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    (kept,) = cockpit.folder.glob("results/*/bench.json")
    assert json.loads(kept.read_text()) == found
    cockpit.assert_nothing_left([])
    return found


def figures(bench: dict[str, Any], quantity: Quantity, which: str) -> dict[tuple[str, ...], float]:
    return {tuple(each["nodes"]): each[which] for each in bench["figures"] if each["quantity"] == quantity}


def medians(bench: dict[str, Any], quantity: Quantity) -> dict[tuple[str, ...], float]:
    return figures(bench, quantity, "median")


def test_every_quantity_is_measured_on_both_nodes_or_in_both_directions(bench: dict[str, Any]) -> None:
    for quantity in set(Quantity) - {Quantity.WARM}:
        places = set(medians(bench, quantity))
        assert {place[0] for place in places} == {"x86", "arm"}, quantity
    assert set(medians(bench, Quantity.WARM)) == {("x86", "arm")}
    assert set(medians(bench, Quantity.BOOT)) == {("x86",), ("arm",), ("x86", "arm")}
    assert all(each["count"] > 0 and 0 < each["smallest"] <= each["median"] <= each["p99"] for each in bench["figures"])


def test_each_comparison_has_its_ratio(bench: dict[str, Any]) -> None:
    assert {(each["numerator"], each["denominator"]) for each in bench["ratios"]} == set(COMPARED)


def test_figures_stand_to_each_other_as_the_mechanisms_do(bench: dict[str, Any]) -> None:
    """A doorbell is an interrupt more than polling; a page from the other kernel is a page and messages more. So are
    the smallest samples: who polls on a host that is busy loses more of its time to others than who sleeps."""
    for place, interrupt in figures(bench, Quantity.RING_INTERRUPT, "smallest").items():
        assert interrupt > figures(bench, Quantity.RING_POLL, "smallest")[place]
    for place, read in figures(bench, Quantity.REMOTE_READ, "smallest").items():
        assert read > figures(bench, Quantity.C_COPY, "smallest")[place[:1]]


def test_the_machines_say_what_runs_them(bench: dict[str, Any]) -> None:
    machines = {each["name"]: each for each in bench["machines"]}
    assert {name: each["arch"] for name, each in machines.items()} == {"x86": "x86_64", "arm": "aarch64"}
    assert all(each["accelerator"] in ("kvm", "tcg") and each["accelerator_reason"] for each in machines.values())


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    done = Cockpit(tmp_path).command("bench", "speed")
    assert done.returncode == 2
    assert "speed" in done.stderr
    assert not (tmp_path / "results").exists()
