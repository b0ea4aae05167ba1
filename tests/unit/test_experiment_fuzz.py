"""Whatever stands in a file, reading it ends in a plan or in problems with places; never in anything else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import FileError
from orchestrator.experiments.plan import load
from tests.unit.test_experiment_errors import GOOD

PLACED = re.compile(r".*\.yaml:\d+:\d+: found .+, expected .+", re.DOTALL)
WORDS = ["x86", "arm", "shm0", "reader", "4KiB", "1GiB", "-1", "kind", "ivshmem-doorbell", "workload.array", "size"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner),
    max_leaves=6,
)


def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        inner = list(data.items())
    elif isinstance(data, list):
        inner = list(enumerate(data))
    return [path] + [found for key, value in inner for found in paths(value, (*path, key))]


RIGHT = yaml.safe_load(GOOD + "matrix: {workload.array: [4KiB, 8KiB]}\nexpect: [verified == true]\nrepeat: 2\n")
PATHS = [path for path in paths(RIGHT) if path]


def outcome(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    try:
        assert load(path).points
    except FileError as error:
        for problem in error.problems:
            assert PLACED.fullmatch(problem), problem


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "experiment.yaml"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PATHS), values), min_size=1, max_size=3))
def test_any_value_in_any_place(place: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = yaml.safe_load(yaml.safe_dump(RIGHT))
    for path, value in changes:
        target = data
        try:
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took that place away
    outcome(place, yaml.safe_dump(data, allow_unicode=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text(st.characters(codec="utf-8"), max_size=6))
def test_any_piece_of_the_text_replaced_by_any_other(place: Path, start: int, length: int, other: str) -> None:
    outcome(place, GOOD[:start] + other + GOOD[start + length :])


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("&*!{}[]:,-|>'\"#%@`?\n\t ab1<"), max_size=40))
def test_any_salad_of_yamls_own_signs(place: Path, text: str) -> None:
    outcome(place, text)
