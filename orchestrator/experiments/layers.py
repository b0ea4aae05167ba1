"""Layers of an experiment file: what it extends lies below it, what `--set` says lies above.

A mapping is laid over a mapping key by key; anything else takes the place of what is below. `null` takes a key away.
A mapping of another `kind` replaces the whole mapping: its keys would mean nothing there. Every value keeps its place,
in the file or the option that it came from.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from orchestrator.experiments.marked_yaml import BYTES_MAX, Document, Mark, Marks, Path, Problem, read_yaml
from orchestrator.experiments.vocabulary import keys_at, nearest, setting_paths
from orchestrator.experiments.wording import listed, sentence, show

LAYERS_MAX = 8
"""Files that may extend each other in a row."""


class Unreadable(Exception):
    """A file that is no text; the problem says where in it, if there is a place."""

    def __init__(self, found: str, expected: str, near: str = "", mark: Mark | None = None) -> None:
        super().__init__(sentence(found, expected, near))
        self.mark = mark


def read_text(path: FilePath, folders: Iterable[FilePath] = (FilePath("configs"),)) -> str:
    """The text of an experiment file. Raises Unreadable; `folders` are where else such files are, for its hint."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * BYTES_MAX + 1)  # a character has four bytes at most; a device has no end
        if len(content) > 4 * BYTES_MAX:
            raise Unreadable(f"more than {4 * BYTES_MAX} bytes", "an experiment file")
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        places = (path.parent, *folders)
        known = sorted(each.as_posix() for folder in places for each in folder.glob("*.yaml") if each.exists())
        found = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"
        raise Unreadable(found, "an experiment file", nearest(path.as_posix(), known)) from None
    except IsADirectoryError:
        raise Unreadable("a directory", "an experiment file") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()  # all of it is UTF-8, or the error would have come earlier
        mark = Mark(before.count("\n") + 1, error.start - len(before[: before.rfind("\n") + 1].encode()) + 1)
        raise Unreadable(f"the byte 0x{error.object[error.start]:02x}, which is no UTF-8", "text", mark=mark) from None
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise Unreadable(getattr(error, "strerror", None) or str(error), "a file that can be read") from None


def composed(path: FilePath, text: str, *, source: str = "", above: tuple[FilePath, ...] = ()) -> Document:
    """The file's content laid over that of the files it extends, without the key `extends`."""
    document = read_yaml(text).of(source)
    if not isinstance(document.data, dict) or "extends" not in document.data:
        return document
    named = document.data.pop("extends")
    marks = document.marks
    document.marks = marks.without(("extends",))
    bases = [named] if isinstance(named, str) else named
    if not isinstance(bases, list) or not bases or not all(isinstance(each, str) for each in bases):
        text = sentence(show(named), "a file to extend, or a list of files")
        return Document(None, Marks(), [*document.problems, Problem(marks.of_value(("extends",)), text)])
    below = Document({}, Marks(), [])
    for index, name in enumerate(bases):
        mark = marks.of_value(("extends", index) if isinstance(named, list) else ("extends",))
        base = _base(path, name, mark, (*above, path.resolve()))
        if base.data is None:  # half of the content is missing: what that makes wrong is not worth telling
            return Document(None, Marks(), [*below.problems, *base.problems, *document.problems])
        below = laid_over(below, base)
    return laid_over(below, document)


def _base(path: FilePath, name: str, mark: Mark, above: tuple[FilePath, ...]) -> Document:
    """The file called `name` in the file at `path`; its data is None if it cannot be had."""
    base = path.parent / name
    nothing = Document(None, Marks(), [])
    if base.resolve() in above:
        found = "itself" if len(above) == 1 else "a file that extends this one"
        return _with_problem(nothing, Problem(mark, sentence(f"'{name}', which is {found}", "another file")))
    if len(above) >= LAYERS_MAX:
        found = f"'{name}' below {LAYERS_MAX} others"
        return _with_problem(nothing, Problem(mark, sentence(found, f"at most {LAYERS_MAX} files in a row")))
    shown = FilePath(os.path.relpath(base)).as_posix() if not base.is_absolute() else base.as_posix()
    try:
        text = read_text(base, ())
    except Unreadable as error:
        where = f"'{name}': " if error.mark is None else f"'{shown}' line {error.mark.line}: "
        return _with_problem(nothing, Problem(mark, where + str(error)))
    document = composed(base, text, source=shown, above=above)
    if not isinstance(document.data, dict) and not document.problems:
        found = sentence(show(document.data), "a mapping")
        document = _with_problem(document, Problem(document.marks.of_value(()), found))
    return document if isinstance(document.data, dict) else Document(None, Marks(), document.problems)


def _with_problem(document: Document, problem: Problem) -> Document:
    return Document(document.data, document.marks, [*document.problems, problem])


def laid_over(below: Document, above: Document) -> Document:
    """Both as one; what is above wins."""
    marks = Marks(dict(below.marks.keys), dict(below.marks.values))
    data = _over(below.data, above.data, (), marks, above.marks)
    return Document(data, marks, [*below.problems, *above.problems])


def _over(below: Any, above: Any, path: Path, marks: Marks, own: Marks) -> Any:
    """`above` laid over `below`; `marks`, of `below`, become those of both."""
    if path in own.values:
        marks.values[path] = own.values[path]
    if path in own.keys:
        marks.keys[path] = own.keys[path]
    if not isinstance(below, dict) or not isinstance(above, dict) or _kinds_differ(below, above):
        _take(path, marks, own)
        return above
    data = dict(below)
    for key, value in above.items():
        inner = (*path, key)
        if key not in below:
            _take(inner, marks, own)
            data[key] = value
        elif value is None:
            _forget(inner, marks)
            del data[key]
        else:
            data[key] = _over(below[key], value, inner, marks, own)
    return data


def _kinds_differ(below: dict[str, Any], above: dict[str, Any]) -> bool:
    return "kind" in above and "kind" in below and above["kind"] != below["kind"]


def _forget(path: Path, marks: Marks) -> None:
    for known in (marks.keys, marks.values):
        for each in [each for each in known if each[: len(path)] == path]:
            del known[each]


def _take(path: Path, marks: Marks, own: Marks) -> None:
    _forget(path, marks)
    for known, new in ((marks.keys, own.keys), (marks.values, own.values)):
        known.update({each: mark for each, mark in new.items() if each[: len(path)] == path})


# -- what the command line puts in --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Override:
    """`--set PATH=VALUE`: a layer with one value in it."""

    path: Path
    document: Document

    @property
    def value(self) -> Any:
        return self.document.data

    def layer(self) -> Document:
        """The value at its path, and nothing else."""
        data, marks = self.document.data, Marks()
        for step in reversed(self.path):
            data = {step: data}
        for known, new in ((self.document.marks.keys, marks.keys), (self.document.marks.values, marks.values)):
            new.update({self.path + each: mark for each, mark in known.items()})
        own = self.document.marks.of_value(())
        marks.keys[self.path] = own
        marks.values |= {self.path[:depth]: own for depth in range(1, len(self.path))}
        return Document(data, marks, [])


def overrides_of(options: Sequence[str], data: Any, problems: list[Problem]) -> list[Override]:
    """The overrides that `options` (`PATH=VALUE`) mean; what is wrong with them goes to `problems`."""
    found = []
    known = setting_paths(data)
    for option in options:
        mark = Mark(0, 0, f"--set {option}")
        name, equals, text = option.partition("=")
        path = _path(name)
        if not equals:
            problems.append(Problem(mark, sentence(f"'{option}'", "PATH=VALUE, such as workload.array=4KiB")))
        elif not text.strip():
            problems.append(Problem(mark, sentence("nothing after '='", "a value; null takes the key away")))
        elif name not in known and path[:1] != ("matrix",):
            below = keys_at(path[:-1], data)
            expected = listed(below) if len(path) > 1 and below else "a path such as workload.array"
            problems.append(
                Problem(mark, sentence(f"'{name}', which is no path of this file", expected, nearest(name, known)))
            )
        else:
            document = read_yaml(text).of(mark.source, option=True)
            problems += document.problems
            if not document.problems:
                found.append(Override(path, document))
    return found


def _path(name: str) -> Path:
    """Dots part a path; what follows `matrix.` is one key, itself a path."""
    head, _, rest = name.partition(".")
    return (head, rest) if head == "matrix" and rest else tuple(name.split("."))
