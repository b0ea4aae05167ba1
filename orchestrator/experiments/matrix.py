"""The matrix of an experiment file: which combinations of values it amounts to.

    matrix:
      PATH: [VALUE, …]                 every value with every other one: the grid (`grid: {PATH: […]}` is the same)
      zip: {PATH: […], PATH: […]}      first with first, second with second; a list of such is a grid of them
      exclude: [{PATH: VALUE, …}, …]   combinations that have all of these values are left out
      include: [{PATH: VALUE, …}, …]   further combinations; what they do not name is as the file says

Works on plain data with its places, so that a wrong value is told where it stands.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from orchestrator.experiments.marked_yaml import Document, Path, Problem
from orchestrator.experiments.sizes import SizeError, parse_size
from orchestrator.experiments.vocabulary import matrix_paths, nearest
from orchestrator.experiments.wording import sentence, show

POINTS_MAX = 10_000
WORDS = ("grid", "zip", "include", "exclude")
"""Keys of a matrix that are no paths."""


class Choice(NamedTuple):
    """A value for one path, and where in the file it stands."""

    value: Any
    place: Path


Combination = dict[str, Choice]
"""By dotted path."""


def combinations(document: Document, problems: list[Problem]) -> list[Combination]:
    """All of them in order; what is wrong with the matrix goes to `problems`, and is left out."""
    matrix = document.data.get("matrix") if isinstance(document.data, dict) else None
    if not isinstance(matrix, dict):
        return [{}]
    return _Reader(document, problems).combinations(matrix)


class _Reader:
    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self._marks = document.marks
        self._known = matrix_paths(document.data)
        self._problems = problems

    def combinations(self, matrix: dict[str, Any]) -> list[Combination]:
        dimensions = [*self._grid(matrix), *self._zips(matrix.get("zip"))]
        count = 1
        for dimension in dimensions:
            count *= len(dimension)
        included = list(self._entries(matrix.get("include"), "include"))
        if count + len(included) > POINTS_MAX:
            text = sentence(f"{count + len(included)} combinations", f"at most {POINTS_MAX}")
            self._problems.append(Problem(self._marks.of_value(("matrix",)), text))
            return [{}]
        found = [_joined(parts) for parts in itertools.product(*dimensions)] if dimensions or not included else []
        kept = self._without_excluded(found, matrix.get("exclude"))
        if not kept and not included:
            text = sentence("no combination that is not excluded", "at least one")
            self._problems.append(Problem(self._marks.of_value(("matrix", "exclude")), text))
        return kept + included

    def _grid(self, matrix: dict[str, Any]) -> Iterator[list[Combination]]:
        plain: list[tuple[str, Any, Path]] = [
            (key, values, ("matrix", key)) for key, values in matrix.items() if key not in WORDS
        ]
        named = matrix.get("grid")
        if isinstance(named, dict):
            plain += [(key, values, ("matrix", "grid", key)) for key, values in named.items()]
        seen: set[str] = set()
        for key, values, place in plain:
            if key in seen:
                self._wrong(place, f"'{key}' a second time", "each path once")
            elif self._is_path(key, place) and isinstance(values, list) and values:
                seen.add(key)
                yield [{key: Choice(value, (*place, index))} for index, value in enumerate(values)]

    def _zips(self, groups: Any) -> Iterator[list[Combination]]:
        listed: list[tuple[Path, Any]] = [(("matrix", "zip"), groups)] if isinstance(groups, dict) else []
        if isinstance(groups, list):
            listed = [(("matrix", "zip", index), group) for index, group in enumerate(groups)]
        for place, group in listed:
            columns = {
                key: values
                for key, values in (group.items() if isinstance(group, dict) else ())
                if self._is_path(key, (*place, key)) and isinstance(values, list) and values
            }
            lengths = {key: len(values) for key, values in columns.items()}
            first = next(iter(lengths.values()), 0)
            for key, length in lengths.items():
                if length != first:
                    name = next(iter(lengths))
                    self._wrong((*place, key), f"{length} values for '{key}'", f"{first}, as many as '{name}' has")
            rows = range(min(lengths.values(), default=0))
            if rows:
                yield [{key: Choice(columns[key][row], (*place, key, row)) for key in columns} for row in rows]

    def _entries(self, entries: Any, word: str) -> Iterator[Combination]:
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            place: Path = ("matrix", word, index)
            known = isinstance(entry, dict) and [self._is_path(key, (*place, key)) for key in entry]
            if known and all(known):
                yield {key: Choice(value, (*place, key)) for key, value in entry.items()}

    def _without_excluded(self, found: list[Combination], exclude: Any) -> list[Combination]:
        kept = found
        for entry in self._entries(exclude, "exclude"):
            if not any(_has(combination, entry) for combination in found):
                place = next(iter(entry.values())).place[:-1] if entry else ("matrix", "exclude")
                shown = ", ".join(f"{key}: {show(choice.value)}" for key, choice in entry.items()) or "nothing"
                self._wrong(
                    place, f"an exclusion of {shown}, which no combination has", "values of the matrix", key=False
                )
            kept = [combination for combination in kept if not _has(combination, entry)]
        return kept

    def _is_path(self, key: str, place: Path) -> bool:
        if key in self._known:
            return True
        found = f"'{key}', which is no path of this file"
        words = (*self._known, *WORDS) if len(place) == 2 else self._known
        text = sentence(found, "a path such as workload.array", nearest(key, words))
        self._problems.append(Problem(self._marks.of_key(place), text))
        return False

    def _wrong(self, place: Path, found: str, expected: str, *, key: bool = True) -> None:
        mark = self._marks.of_key(place) if key else self._marks.of_value(place)
        self._problems.append(Problem(mark, sentence(found, expected)))


def _joined(parts: tuple[Combination, ...]) -> Combination:
    return {key: choice for part in parts for key, choice in part.items()}


def _has(combination: Combination, entry: Combination) -> bool:
    """Whether the combination has all values of the entry."""
    return all(key in combination and _same(combination[key].value, choice.value) for key, choice in entry.items())


def _same(left: Any, right: Any) -> bool:
    """Equal as written, or as sizes: 4KiB is 4096. `true` is not 1."""
    if type(left) is type(right) and left == right:
        return True
    try:
        return parse_size(left) == parse_size(right)
    except SizeError:
        return False
