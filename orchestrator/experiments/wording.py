"""Pydantic's errors in the words of this project: `found X, expected Y (did you mean 'Z'?)`, at a place in the file."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from orchestrator.experiments.marked_yaml import Marks, Path, Problem
from orchestrator.experiments.sizes import show_size
from orchestrator.experiments.vocabulary import keys_at, look_up, nearest
from orchestrator.words import counted

_SIZES = frozenset(["memory", "size", "region", "array", "stride"])
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a word",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "union_tag_not_found": "a key 'kind'",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "multiple_of": "a multiple of"}


def show(value: Any) -> str:
    """A value as an error names it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"'{value if len(value) <= 60 else value[:57] + '…'}'"
        case int() | float():
            return str(value)
        case dict():
            return "a mapping"
        case list() | tuple():
            return f"a list of {counted(len(value), 'value')}" if value else "an empty list"
    return str(value)


def listed(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`; whatever is empty is not worth naming."""
    words = [word for word in words if word] or ["another"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def sentence(found: str, expected: str, near: str = "") -> str:
    """The one form all these errors have."""
    return f"found {found}, expected {expected}" + (f" (did you mean '{near}'?)" if near else "")


def problems_of(error: ValidationError, data: Any, marks: Marks, *, missing: bool = True) -> Iterator[Problem]:
    """Each of pydantic's errors about `data` as a `Problem`; not `missing`: without those about what is not there."""
    details = [each for each in error.errors(include_url=False) if missing or each["type"] != "missing"]
    places = [detail["loc"] for detail in details]
    for detail in details:
        if detail["type"] == "too_short" and any(detail["loc"] == each[: len(each) - 1] for each in places):
            continue  # pydantic counts only the values that are right: those that are wrong are told already
        path, of_key = _place(detail["loc"], data)
        yield _problem(detail["type"], detail.get("ctx", {}), path, of_key, data, marks)


def worth_telling(problems: Iterable[Problem]) -> list[Problem]:
    """Each once, by place. A name that is spelt wrong is not told the rules of spelling too when it is a known one."""
    known = sorted(set(problems), key=lambda each: (each.mark.source, each.mark.line, each.mark.column, each.text))
    better = {problem.mark for problem in known if "(did you mean" in problem.text}
    return [each for each in known if each.mark not in better or not each.text.endswith(_name_rule())]


def _place(location: tuple[str | int, ...], data: Any) -> tuple[Path, bool]:
    """The path in the file that pydantic's location means, and whether the key is meant, not the value.

    Pydantic puts the tag of a union between (`links.shm0.ivshmem-doorbell.size`) and `[key]` behind a mapping's key.
    """
    of_key = bool(location) and location[-1] == "[key]"
    steps = list(location[:-1] if of_key else location)
    path: Path = ()
    for index, step in enumerate(steps):
        here = look_up(data, path)
        tag = isinstance(here, dict) and step == here.get("kind") and step not in here and index + 1 < len(steps)
        lone = isinstance(step, int) and not isinstance(here, list)  # a word where a list of one word is meant
        if not (tag or lone):
            path = (*path, step)
    return path, of_key


def _problem(kind: str, context: dict[str, Any], path: Path, of_key: bool, data: Any, marks: Marks) -> Problem:
    value = look_up(data, path)
    name = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        words = keys_at(path[:-1], data)
        text = sentence(f"unknown key '{name}'", listed(words) if words else "no keys", nearest(name, words))
        return Problem(marks.of_key(path), text)
    if kind == "missing":
        inside = f" in {'.'.join(map(str, path[:-1]))}" if path[:-1] else ""
        return Problem(marks.of_value(path[:-1]), sentence(f"no key '{name}'{inside}", f"'{name}: …'"))
    if of_key:
        return Problem(marks.of_key(path), sentence(f"the name '{name}'", _name_rule()))
    if kind == "expected":
        found, offset = context.get("found", show(value)), int(context.get("offset", 0))
        words = context.get("words", [])
        expected = context["expected"] if not words else listed(words)
        near = context.get("near", "") or (nearest(str(value), words) if words else "")
        mark = marks.of_value(path)
        return Problem(replace(mark, column=mark.column + offset), sentence(found, expected, near))
    if kind in ("union_tag_invalid", "enum", "literal_error"):
        path = (*path, "kind") if kind == "union_tag_invalid" else path
        value = look_up(data, path)
        words = re.findall(r"'([^']+)'", str(context.get("expected_tags") or context.get("expected")))
        return Problem(marks.of_value(path), sentence(show(value), listed(words), nearest(str(value), words)))
    return Problem(marks.of_value(path), sentence(show(value), _expected(kind, context, name)))


def _name_rule() -> str:
    return "at most 31 lower-case letters, digits and '-', beginning with a letter"


def _expected(kind: str, context: dict[str, Any], name: str) -> str:
    for bound, words in _BOUNDS.items():
        if bound in context:
            limit = context[bound]
            return f"{words} {show_size(limit) if name in _SIZES else limit}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        limit = context["min_length" if least else "max_length"]
        return f"{'at least' if least else 'at most'} {limit} value{'s' if limit != 1 else ''}"
    if kind == "string_pattern_mismatch":
        return "at most 48 letters, digits, '.', '_' and '-'" if name == "name" else _name_rule()
    return _EXPECTED.get(kind, kind.replace("_", " "))
