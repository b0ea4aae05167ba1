"""An experiment file read, checked, and laid out as the points that will be run."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from orchestrator.consistency import contradictions
from orchestrator.errors import FileError
from orchestrator.experiment import Experiment, Testbed
from orchestrator.marked_yaml import Document, Mark, Marks, Path, Problem, read_yaml
from orchestrator.vocabulary import matrix_paths, nearest
from orchestrator.wording import problems_of, sentence, worth_telling

POINTS_MAX = 10_000


@dataclass(frozen=True)
class Point:
    """One run of the workload."""

    index: int
    parameters: dict[str, Any]
    """What the matrix put in, by dotted path, as written in the file."""
    repetition: int
    """From 0."""
    experiment: Experiment
    """The file with those values in their places."""


@dataclass(frozen=True)
class Plan:
    """A checked experiment file."""

    path: FilePath
    text: str
    name: str
    points: tuple[Point, ...]

    @property
    def testbeds(self) -> list[tuple[Testbed, list[Point]]]:
        """The points by the testbed they need, in order: each is booted once."""
        groups: dict[str, tuple[Testbed, list[Point]]] = {}
        for point in self.points:
            testbed = point.experiment.testbed
            groups.setdefault(testbed.model_dump_json(), (testbed, []))[1].append(point)
        return list(groups.values())


def load(path: FilePath) -> Plan:
    """Read and check the file. Raises `FileError` with every problem there is."""
    text = _text(path)
    document = read_yaml(text)
    problems = list(document.problems)
    combinations: list[tuple[dict[str, Any], Experiment]] = []
    if document.data is not None or not problems:
        matrix = _matrix(document, problems)
        for parameters, data, marks in _combinations(document, matrix):
            experiment = _checked(data, marks, problems)
            if experiment is not None:
                combinations.append((parameters, experiment))
    if problems:
        shown = path.as_posix()
        raise FileError([problem.located(shown) for problem in worth_telling(problems)])
    points = [
        (parameters, repetition, experiment)
        for parameters, experiment in combinations
        for repetition in range(experiment.repeat)
    ]
    laid_out = tuple(Point(index, *point) for index, point in enumerate(points))
    return Plan(path, text, combinations[0][1].name, laid_out)


def _text(path: FilePath) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folders = (path.parent, FilePath("configs"))
        known = sorted(each.as_posix() for folder in folders for each in folder.glob("*.yaml") if each.exists())
        found = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
        near = nearest(path.as_posix(), known)
        raise FileError([f"{path}: " + sentence(found, "an experiment file", near)]) from None
    except IsADirectoryError:
        raise FileError([f"{path}: " + sentence("a directory", "an experiment file")]) from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()  # all of it is UTF-8, or the error would have come earlier
        mark = Mark(before.count("\n") + 1, error.start - len(before[: before.rfind("\n") + 1].encode()) + 1)
        found = f"the byte 0x{error.object[error.start]:02x}, which is no UTF-8"
        raise FileError([Problem(mark, sentence(found, "text")).located(path.as_posix())]) from None
    except OSError as error:
        raise FileError([f"{path}: " + sentence(str(error.strerror), "a file that can be read")]) from None


def _matrix(document: Document, problems: list[Problem]) -> dict[str, list[Any]]:
    """The usable part of the matrix; what is wrong with the rest goes to `problems`."""
    data, marks = document.data, document.marks
    matrix = data.get("matrix") if isinstance(data, dict) else None
    if not isinstance(matrix, dict):
        return {}
    known = matrix_paths(data)
    usable: dict[str, list[Any]] = {}
    for key, values in matrix.items():
        if key not in known:
            found = f"'{key}', which is no path of this file"
            text = sentence(found, "a path such as workload.array", nearest(key, known))
            problems.append(Problem(marks.of_key(("matrix", key)), text))
        elif isinstance(values, list):
            usable[key] = values
    count = 1
    for values in usable.values():
        count *= max(1, len(values))
    if count > POINTS_MAX:
        text = sentence(f"{count} combinations", f"at most {POINTS_MAX}")
        problems.append(Problem(marks.of_value(("matrix",)), text))
        return {}
    return usable


def _combinations(document: Document, matrix: dict[str, list[Any]]) -> Iterator[tuple[dict[str, Any], Any, Marks]]:
    """The file's data once for every combination of the matrix, each with the marks of what was put in."""
    choices = [[(key, index, value) for index, value in enumerate(values)] for key, values in matrix.items() if values]
    for combination in itertools.product(*choices):
        data, marks = copy.deepcopy(document.data), document.marks
        for key, index, value in combination:
            target: Path = tuple(key.split("."))
            if _put(data, target, copy.deepcopy(value)):
                marks = marks.moved(("matrix", key, index), target)
        yield {key: value for key, _, value in combination}, data, marks


def _put(data: Any, path: Path, value: Any) -> bool:
    for step in path[:-1]:
        if not isinstance(data, dict):
            return False
        data = data.setdefault(step, {})
    if isinstance(data, dict):
        data[path[-1]] = value
    return isinstance(data, dict)


def _checked(data: Any, marks: Marks, problems: list[Problem]) -> Experiment | None:
    for wrong in contradictions(data):
        mark = marks.of_key(wrong.path) if wrong.of_key else marks.of_value(wrong.path)
        problems.append(Problem(mark, wrong.text))
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        problems.extend(problems_of(error, data, marks))
        return None
