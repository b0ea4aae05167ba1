"""What programs may report as a figure, and how much of an error travels."""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from guest.memory.samples import AccessLog, reported
from guest.programs.application import PACKET_BYTES, told_of


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (True, 1),
        (2.5, 2.5),
        (1 << 70, 1 << 70),
        (np.int64(-5), -5),
        (np.float64(2.5), 2.5),
        (np.bool_(True), 1.0),
        (Fraction(1, 2), 0.5),
        (Decimal("0.25"), 0.25),
    ],
)
def test_a_number_of_any_kind_is_one_that_json_knows(value: Any, number: float) -> None:
    found = reported("x", value)
    assert (found, type(found)) == (number, type(number))
    assert json.loads(json.dumps(["a=b", found])) == ["a=b", number]


@pytest.mark.parametrize("value", ["3", b"3", None, [1], 1j])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"figure 'x' is .*, expected a number"):
        reported("x", value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400, np.float64("inf")])
def test_a_number_that_json_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"figure 'x' is .*, expected a finite number"):
        reported("x", value)


def test_a_name_of_any_length_that_can_be_read_is_a_figures_name() -> None:
    assert reported("n" * 256, 1) == 1
    with pytest.raises(ValueError, match="a figure's name has 70000 letters, expected at most 256"):
        reported("n" * 70000, 1)


def test_a_thread_reports_such_numbers_alone() -> None:
    log = AccessLog()
    log.figure("x", np.int64(3))
    assert type(log.figures["x"]) is int
    with pytest.raises(ValueError, match=r"figure 'x' is nan"):
        log.figure("x", float("nan"))
    assert log.figures == {"x": 3}


@pytest.mark.parametrize("name", [3, "", None])
def test_a_name_is_a_word(name: Any) -> None:
    with pytest.raises(TypeError, match=r"a figure's name is .*, expected a word"):
        reported(name, 1)


@pytest.mark.parametrize("character", ["x", "\0", "\U0001f600", "\udcff"])
def test_an_error_fits_into_a_packet_however_long_its_text_is(character: str) -> None:
    told = told_of(ValueError(character * 100_000), range(100))
    assert len(told) < PACKET_BYTES
    fields = json.loads(told)
    shown = character.encode(errors="backslashreplace").decode()
    assert fields["message"] == shown * 4096 + " … (100000 characters)"
    assert json.loads(told_of(ValueError("short"), []))["message"] == "short"
