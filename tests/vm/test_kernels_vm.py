"""More kernels than two, and pairs of one instruction set, on real guests."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.leftovers import ROOT, Cockpit

PAIRS = """\
name: alike
testbed:
  nodes: {left: {arch: x86_64}, right: {arch: x86_64}}
  links:
    shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [left, right]}
coherency: {link: shm0, region: 1MiB}
workload: {kind: shared-array, threads: {left: writer, right: writer}, array: 16KiB, iterations: 4}
matrix:
  testbed.nodes:
    - {left: {arch: x86_64}, right: {arch: x86_64}}
    - {left: {arch: aarch64}, right: {arch: aarch64}}
"""


@pytest.fixture
def cockpit(tmp_path: Path) -> Iterator[Cockpit]:
    cockpit = Cockpit(tmp_path)
    yield cockpit
    cockpit.command("down", "--all")


def test_two_kernels_of_each_instruction_set_share_one_memory(cockpit: Cockpit) -> None:
    done = cockpit.command("run", str(ROOT / "configs/four-kernels.yaml"), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [node["facts"]["isa"] for node in summary["nodes"]] == ["x86_64", "x86_64", "aarch64", "aarch64"]
    assert [point["verified"] for point in summary["points"]] == [True] * 6
    for point in summary["points"][:2]:  # four readers: each asks the three others on its first touch, some once more
        assert 4 * 2 * 3 <= point["messages_total"] / point["pages"] <= 2 * 4 * 2 * 3
    cockpit.assert_nothing_left([])


def test_kernels_of_one_instruction_set_do_too(cockpit: Cockpit) -> None:
    (cockpit.folder / "alike.yaml").write_text(PAIRS)
    done = cockpit.command("run", "alike.yaml", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [node["facts"]["isa"] for node in summary["nodes"]] == ["x86_64"] * 2 + ["aarch64"] * 2
    assert [point["verified"] for point in summary["points"]] == [True] * 2
    cockpit.assert_nothing_left([])
