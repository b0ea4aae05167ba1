"""configs/poster.yaml and what docs/poster.md says of it: the counts do not depend on the machines, so processes do."""

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.plan import load
from tests.local.test_run_local import ROOT, command, environment, summary_of

POSTER = ROOT / "configs" / "poster.yaml"


def ran(tmp_path: Path, protocol: str) -> dict[tuple[int, int, int], dict[str, Any]]:
    """By writers, pages and iterations: 1 and 4 of these."""
    import subprocess

    settings = ("matrix.workload.iterations=[1,4]", "repeat=1", f"coherency.protocol={protocol}")
    words = [word for setting in settings for word in ("--set", setting)]
    line = command("run", str(POSTER), "--stage", "local", "--json", *words)
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=200, env=environment())
    return {
        (str(point["roles"]).count("writer"), point["pages"], point["iterations"]): point
        for point in summary_of(done)["points"]
    }  # fmt: skip


def test_it_is_the_posters_three_workloads_for_one_page_and_for_64_over_1_to_64_iterations() -> None:
    points = load(POSTER).points
    assert len(points) == 3 * 2 * 7 * 3
    found = {(point.parameters["workload.array"], point.parameters["workload.iterations"]) for point in points}
    assert found == {(size, 1 << power) for size in ("4KiB", "256KiB") for power in range(7)}
    both = load(ROOT / "configs" / "poster-policies.yaml").points
    settings = {(point.experiment.coherency.protocol, str(point.experiment.coherency.notify)) for point in both
                if point.experiment.coherency is not None}  # fmt: skip
    assert len(settings) == 2 * 3


def test_the_voting_protocols_counts_are_those_of_the_page(tmp_path: Path) -> None:
    points = ran(tmp_path, "voting")
    for pages in (1, 64):
        read = [points[0, pages, iterations]["messages_total"] for iterations in (1, 4)]
        # Each kernel fetches each page once: 2 messages, shared where one was first.
        assert all(2 * pages <= total <= 4 * pages for total in read)
        for iterations in (1, 4):
            assert points[1, pages, iterations]["messages_total"] == 4 * pages * iterations
            assert points[2, pages, iterations]["messages_total"] >= 8 * pages * iterations - 2 * pages
        assert points[1, pages, 4]["messages"]["INVALIDATE"] == points[1, pages, 4]["messages"]["VOTE"] == 3 * pages


def test_the_origin_protocols_counts_are_those_of_the_page(tmp_path: Path) -> None:
    points = ran(tmp_path, "origin")
    for pages in (1, 64):
        for iterations in (1, 4):
            # The origin asks nobody, unless both touch a page at once.
            assert 2 * pages <= points[0, pages, iterations]["messages_total"] <= 4 * pages
            assert points[1, pages, iterations]["messages_total"] == 2 * pages + 4 * pages * (iterations - 1)


@pytest.mark.parametrize("iterations", [1, 2, 4, 8, 16, 32, 64])
def test_the_page_states_the_share_that_follows_from_the_counts(iterations: int) -> None:
    """4 messages a page and iteration for R,W, 4 a page for R,R: the share is that of the iterations."""
    text = (ROOT / "docs" / "poster.md").read_text()
    row = re.search(rf"^\| {iterations} \| 4 \| {4 * iterations} \| ([\d,]+) % \|", text, re.MULTILINE)
    assert row, f"no row for {iterations} iterations"
    assert int(row[1].replace(",", "")) == 100 * (4 * iterations - 4) // 4
