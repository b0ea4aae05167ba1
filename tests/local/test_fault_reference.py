"""The C reference of `testbed bench`, compiled for this host and run on real page faults."""

import json
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "guest" / "native" / "fault_reference.c"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("native") / "fault_reference"
    flags = ["-std=c17", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", binary, SOURCE], check=True)
    return binary


def test_every_kind_of_fault_is_served_for_every_page_and_round(reference: Path) -> None:
    done = subprocess.run([reference, "32", "3"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kinds = json.loads(done.stdout)
    assert list(kinds) == ["zero", "copy", "protect"]
    for samples in kinds.values():
        assert len(samples) == 32 * 3
        assert min(samples) > 1  # a fault goes through another process: two switches cannot be had for less


@pytest.mark.parametrize("arguments", [[], ["8"], ["0", "1"], ["1", "0"], ["x", "1"], ["99999999", "99999999"]])
def test_wrong_arguments_are_refused(reference: Path, arguments: list[str]) -> None:
    done = subprocess.run([reference, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "usage" in done.stderr
