"""What keys a place in an experiment file may have: read off the models, so that no list of words is kept twice."""

import difflib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from orchestrator.experiments.experiment import Experiment
from orchestrator.experiments.marked_yaml import Path

BY_NODE = ("threads", "commands", "send", "collect")
"""Keys of workloads whose values are by node."""
MATRIX_SECTIONS = ("testbed", "coherency", "workload", "timeout_s")
"""Keys of the file that may differ from point to point."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of `words` that was probably meant, or ""."""
    known = list(words)
    folded = {candidate.lower(): candidate for candidate in reversed(known)}
    close = difflib.get_close_matches(word, known, 1, 0.55) or difflib.get_close_matches(word.lower(), folded, 1, 0.55)
    return folded.get(close[0].lower(), close[0]) if close else ""


def keys_at(path: Path, data: Any) -> list[str]:
    """The keys the mapping at `path` may have; empty where it may have any, or is no mapping."""
    return sorted({key for kind in _types_at(path, data) if _is_model(kind) for key in kind.model_fields})


def matrix_paths(data: Any) -> list[str]:
    """Every dotted path a matrix may vary, in a file that holds `data`."""
    return [".".join(map(str, path)) for path in _paths((), Experiment, data) if path and path[0] in MATRIX_SECTIONS]


def setting_paths(data: Any) -> list[str]:
    """Every dotted path at which `--set` may put a value into a file that holds `data`."""
    return [".".join(map(str, path)) for path in _paths((), Experiment, data) if path and path[0] != "extends"]


def look_up(data: Any, path: Path) -> Any:
    """The value at `path` in plain data, or None where there is none."""
    for step in path:
        held = step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))
        if not held:
            return None
        data = data[step]
    return data


def _paths(path: Path, kind: Any, data: Any) -> Iterator[Path]:
    yield path
    for candidate in _unwrapped(kind, look_up(data, path)):
        if _is_model(candidate):
            for key, info in candidate.model_fields.items():
                yield from _paths((*path, key), info.annotation, data)
        elif get_origin(candidate) is dict:
            # What can be keyed by node may be given for any node; links only where they stand in the file.
            by_node = path[:1] == ("workload",) and path[-1] in BY_NODE
            places = [("testbed", "nodes"), path] if by_node else [path]
            keyed = [value for place in places if isinstance(value := look_up(data, place), dict)]
            keys = {key for value in keyed for key in value}
            for key in sorted(keys):
                yield from _paths((*path, key), get_args(candidate)[1], data)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _types_at(path: Path, data: Any) -> list[Any]:
    kinds: list[Any] = [Experiment]
    for depth, step in enumerate(path):
        kinds = [
            unwrapped
            for kind in kinds
            for child in _children(kind, step)
            for unwrapped in _unwrapped(child, look_up(data, path[: depth + 1]))
        ]
    return kinds


def _children(kind: Any, step: str | int) -> list[Any]:
    if _is_model(kind):
        info = kind.model_fields.get(step)
        return [info.annotation] if info else []
    if get_origin(kind) in (dict, list, tuple):
        return [get_args(kind)[1 if get_origin(kind) is dict else 0]]
    return []


def _unwrapped(kind: Any, value: Any) -> list[Any]:
    """The plain types behind annotations and unions; of models told apart by `kind:`, the one that `value` is."""
    if get_origin(kind) is Annotated:
        return _unwrapped(get_args(kind)[0], value)
    if get_origin(kind) not in (Union, UnionType):
        return [kind]
    kinds = [plain for member in get_args(kind) for plain in _unwrapped(member, value)]
    word = value.get("kind") if isinstance(value, dict) else None
    told_apart = [k for k in kinds if _is_model(k) and "kind" in k.model_fields and word in _literal(k)]
    return told_apart or kinds


def _literal(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)
