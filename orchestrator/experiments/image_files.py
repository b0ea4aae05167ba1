"""Image definitions that an experiment file names: by a word, those of the project; by a path, one's own."""

from pathlib import Path as FilePath
from typing import Any

from images.cloud.definition import load as load_cloud
from images.definition import load as load_packages
from images.errors import Failure
from images.store import definitions, says_cloud
from orchestrator.experiments.experiment import is_path
from orchestrator.experiments.marked_yaml import Marks, Path, Problem
from orchestrator.experiments.vocabulary import look_up


def definition_of(image: str) -> FilePath:
    """The file of the definition that `image` names, in a checked experiment."""
    return FilePath(image) if is_path(image) else definitions()[image]


def take(data: Any, marks: Marks, folder: FilePath, problems: list[Problem]) -> None:
    """Checks the definitions that `data` names by paths, and makes those absolute: each is relative to its place.

    What is wrong with one is added to `problems`.
    """
    nodes = look_up(data, ("testbed", "nodes"))
    names = list(nodes) if isinstance(nodes, dict) else []
    for path in (("testbed", "image"), *(("testbed", "nodes", name, "image") for name in names)):
        _take(data, path, marks, folder, problems)


def _take(data: Any, path: Path, marks: Marks, folder: FilePath, problems: list[Problem]) -> None:
    value = look_up(data, path)
    if not isinstance(value, str) or not is_path(value) or "\0" in value:
        return
    mark = marks.of_value(path)
    if mark.source and not mark.line:  # an option: relative to where the command was given
        folder = FilePath()
    elif mark.source:
        folder = FilePath(mark.source).parent
    file = (folder / FilePath(value).expanduser()).resolve()
    try:
        (load_cloud if says_cloud(file) else load_packages)(file)
    except Failure as failure:
        problems.append(Problem(mark, failure.message))
        return
    look_up(data, path[:-1])[path[-1]] = str(file)
