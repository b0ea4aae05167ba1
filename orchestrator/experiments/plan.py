"""An experiment file read, checked, and laid out as the points that will be run."""

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from orchestrator.errors import FileError, InputError
from orchestrator.experiments import image_files
from orchestrator.experiments.consistency import contradictions
from orchestrator.experiments.experiment import DriverName, Experiment, Testbed
from orchestrator.experiments.layers import Override, Unreadable, composed, laid_over, overrides_of, read_text
from orchestrator.experiments.marked_yaml import Document, Mark, Marks, Path, Problem
from orchestrator.experiments.matrix import Combination, combinations
from orchestrator.experiments.vocabulary import look_up, nearest
from orchestrator.experiments.wording import problems_of, sentence, worth_telling
from orchestrator.experiments.workloads import FILE_KEYS

DRIVER_VARIABLE = "TESTBED_DRIVER"
"""Of the environment: what `testbed.driver` is in a file that does not say."""


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

    @property
    def warm_up(self) -> int:
        """How often it is run before it counts: once for all repetitions of a combination."""
        return 0 if self.repetition else self.experiment.warm_up

    @property
    def seed(self) -> int:
        """Of the workload's chance: the same for all combinations, so that they are compared on the same footing."""
        return self.experiment.seed + self.repetition


@dataclass(frozen=True)
class Plan:
    """A checked experiment file."""

    path: FilePath
    text: str
    name: str
    points: tuple[Point, ...]
    files: dict[str, bytes]
    """What the workloads take along, by the name that their experiments have for it: `files/HASH/NAME`."""
    content: dict[str, Any]
    """An experiment file's content that amounts to the same points, and needs no other file and no `--set`."""

    def resolved(self) -> str:
        """`content` as YAML."""
        return yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True, width=120)

    @property
    def testbeds(self) -> list[tuple[Testbed, list[Point]]]:
        """The points by the testbed they need, in order: each is booted once."""
        groups: dict[str, tuple[Testbed, list[Point]]] = {}
        for point in self.points:
            testbed = point.experiment.testbed
            groups.setdefault(testbed.model_dump_json(), (testbed, []))[1].append(point)
        return list(groups.values())


def load(path: FilePath, overrides: Sequence[str] = ()) -> Plan:
    """Read and check the file, with `overrides` (`PATH=VALUE`) put in. Raises `FileError` with all its problems."""
    shown = path.as_posix()
    try:
        text = read_text(path)
    except Unreadable as error:
        place = Problem(error.mark or Mark(0, 0), str(error))
        raise FileError([place.located(shown)]) from None
    document = composed(path, text)
    problems = list(document.problems)
    found: list[tuple[dict[str, Any], Experiment]] = []
    told: list[dict[str, Any]] = []
    files = Files(path.parent)
    if document.data is not None or not problems:
        settings = overrides_of(overrides, document.data, problems)
        if isinstance(document.data, dict):
            for override in settings:
                document = laid_over(document, override.layer())
        _choose_driver(document.data)
        for parameters, data, marks in _laid_out(document, combinations(document, problems), settings):
            _choose_driver(data)
            files.take(data, marks, problems)
            image_files.take(data, marks, path.parent, problems)
            experiment = _checked(data, marks, problems)
            if experiment is not None:
                found.append((parameters, experiment))
                told.append({key: look_up(data, tuple(key.split("."))) for key in parameters})
        if isinstance(document.data, dict) and "matrix" in document.data:
            problems += _overruled(document.data, document.marks)
    if problems:
        raise FileError([problem.located(shown) for problem in worth_telling(problems)])
    files.take(document.data, document.marks, [])
    image_files.take(document.data, document.marks, path.parent, [])
    content = _content(document.data, told)
    points = [
        (parameters, repetition, experiment)
        for parameters, experiment in _alike(found)
        for repetition in range(experiment.repeat)
    ]
    laid_out = tuple(Point(index, *point) for index, point in enumerate(points))
    return Plan(path, text, found[0][1].name, laid_out, files.content, content)


def driver_of_environment() -> str | None:
    """The driver of files that name none, if the environment says one. Raises InputError."""
    chosen = os.environ.get(DRIVER_VARIABLE)
    if chosen and chosen not in get_args(DriverName):
        known = ", ".join(get_args(DriverName))
        raise InputError(f"{DRIVER_VARIABLE}: found {chosen!r}, expected one of: {known}", f"unset {DRIVER_VARIABLE}")
    return chosen or None


def _choose_driver(data: Any) -> None:
    chosen = driver_of_environment()
    testbed = look_up(data, ("testbed",))
    if chosen and isinstance(testbed, dict):
        testbed.setdefault("driver", chosen)


def _laid_out(
    document: Document, found: list[Combination], overrides: list[Override]
) -> Iterator[tuple[dict[str, Any], Any, Marks]]:
    """The file's data once for every combination, each with the marks of what was put in. Overrides overrule it."""
    seen: set[str] = set()
    for combination in found:
        data, marks = copy.deepcopy(document.data), document.marks
        for key, choice in combination.items():
            target: Path = tuple(key.split("."))
            if _put(data, target, copy.deepcopy(choice.value)):
                marks = marks.moved(choice.place, target)
        parameters = {key: choice.value for key, choice in combination.items()}
        for override in overrides:
            touched = [key for key in parameters if _related(tuple(key.split(".")), override.path)]
            if touched:
                over = laid_over(Document(data, marks, []), override.layer())
                data, marks = over.data, over.marks
            for key in touched:
                path = tuple(key.split("."))
                if path[: len(override.path)] == override.path:
                    del parameters[key]  # it no longer varies
                else:
                    parameters[key] = look_up(data, path)
        told = json.dumps(parameters, sort_keys=True, default=str)
        if told not in seen:
            seen.add(told)
            yield parameters, data, marks


def _related(one: Path, other: Path) -> bool:
    """Whether one is at, above or below the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


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


class Files:
    """The files that workloads name, read once, and named anew by what they hold: a run keeps them by these names."""

    def __init__(self, folder: FilePath) -> None:
        self.content: dict[str, bytes] = {}
        self._folder = folder

    def take(self, data: Any, marks: Marks, problems: list[Problem]) -> None:
        """Read those that `data` names, and put their new names into it. A name is relative to where it stands."""
        for key in FILE_KEYS:
            self._take(data, ("workload", key), marks, problems)

    def _take(self, data: Any, path: Path, marks: Marks, problems: list[Problem]) -> None:
        """At `path`, and below it."""
        value = look_up(data, path)
        if isinstance(value, dict | list):
            for step in list(value) if isinstance(value, dict) else range(len(value)):
                self._take(data, (*path, step), marks, problems)
        elif isinstance(value, str) and value not in self.content and "\0" not in value:
            mark = marks.of_value(path)
            folder = FilePath(mark.source).parent if mark.source and mark.line else self._folder
            file = FilePath(value) if mark.source and not mark.line else folder / value
            try:
                content = file.read_bytes()
            except OSError as error:
                near = nearest(value, [each.name for each in file.parent.glob("*")] if file.parent.is_dir() else [])
                found = f"'{value}': {error.strerror}"
                problems.append(Problem(mark, sentence(found, "a file that can be read", near)))
                return
            name = f"files/{hashlib.sha256(content).hexdigest()[:16]}/{file.name}"
            look_up(data, path[:-1])[path[-1]] = name
            self.content[name] = content


def _overruled(data: dict[str, Any], marks: Marks) -> Iterator[Problem]:
    """What is wrong with the file's own values where the matrix puts others into their place: what is left out may be
    left to it, and sizes may fit nothing but what it puts in, but words and kinds are right or wrong by themselves."""
    for wrong in contradictions(data):
        if wrong.of_key:
            yield Problem(marks.of_key(wrong.path), wrong.text)
    try:
        Experiment.model_validate(data)
    except ValidationError as error:
        yield from problems_of(error, data, marks, missing=False)


def _alike(found: list[tuple[dict[str, Any], Experiment]]) -> list[tuple[dict[str, Any], Experiment]]:
    """Every combination with a value for every path that varies: where it names none, the one that it has."""
    paths = list(dict.fromkeys(key for parameters, _ in found for key in parameters))
    full = []
    for parameters, experiment in found:
        missing = [key for key in paths if key not in parameters]
        own = experiment.model_dump(mode="json") if missing else {}
        values = parameters | {key: look_up(own, tuple(key.split("."))) for key in missing}
        full.append(({key: values[key] for key in paths}, experiment))
    return full


def _content(data: dict[str, Any], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    content = {key: value for key, value in data.items() if key != "matrix"}
    if any(parameters):
        content["matrix"] = {"include": parameters}
    return content
