"""The JSON Schema that editors check experiment files with: it takes what the models take."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.experiments.schema import json_schema
from tests.unit.test_experiment_errors import GOOD

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
EXTENDING = "extends: base.yaml\nmatrix: null\nworkload: {iterations: 3, threads: {x86: null}}\n"


def wrong(text: str) -> list[Any]:
    return [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.name)
def test_every_experiment_that_comes_with_the_project_fits_it(path: Path) -> None:
    assert wrong(path.read_text()) == []


def test_a_file_that_extends_another_needs_no_key_of_its_own() -> None:
    assert wrong(EXTENDING) == []
    assert wrong(EXTENDING.replace("extends: base.yaml\n", ""))


@pytest.mark.parametrize(("old", "new"), [("region", "regoin"), ("x86_64", "x86-64"), ("writer", "wirter")])
def test_a_wrong_word_does_not_fit(old: str, new: str) -> None:
    assert wrong(GOOD) == []
    assert wrong(GOOD.replace(old, new))
    assert wrong("extends: base.yaml\n" + GOOD.replace(old, new))
