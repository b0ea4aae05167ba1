"""YAML into plain data, and for every key and value the line and column it stands at.

PyYAML's own construction forgets positions, lets the last of two equal keys win, and expands aliases without bound.
This module takes the *nodes* PyYAML composes (safe: tags never name Python objects) and builds the data itself.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

NODES_MAX = 20_000
"""Values a file may amount to once its aliases are expanded; a bomb of nine aliases of nine would be 10⁹."""
DEPTH_MAX = 32
BYTES_MAX = 1 << 20

Path = tuple[str | int, ...]
"""Where a value is: keys and list positions from the top, e.g. `("testbed", "nodes", "x86", "arch")`."""


@dataclass(frozen=True)
class Mark:
    """A place: line and column from 1, and of which source; line 0 is a place outside of files, an option."""

    line: int
    column: int
    source: str = ""
    """A file that the experiment file extends, or an option; "" is the experiment file itself."""


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file, where, and in the words of the error: what was found and what was expected."""

    mark: Mark
    text: str

    def located(self, file: str) -> str:
        """The form every error about a file has, which editors and terminals turn into links."""
        source = self.mark.source or file
        return (
            f"{source}:{self.mark.line}:{self.mark.column}: {self.text}" if self.mark.line else f"{source}: {self.text}"
        )


@dataclass
class Marks:
    """Places of keys and values by path."""

    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)

    def of_value(self, path: Path) -> Mark:
        """Where the value at `path` stands, or the nearest thing around it that is in the file."""
        while path not in self.values:
            if not path:
                return Mark(1, 1)
            path = path[:-1]
        return self.values[path]

    def of_key(self, path: Path) -> Mark:
        """Where the key of `path` stands; for a place in a list, its value."""
        return self.keys.get(path) or self.of_value(path)

    def without(self, path: Path) -> "Marks":
        """A copy that knows nothing at and below `path`."""
        return Marks(
            *({p: m for p, m in known.items() if p[: len(path)] != path} for known in (self.keys, self.values))
        )

    def moved(self, source: Path, target: Path) -> "Marks":
        """A copy in which all at and below `target` stands where `source` does: a value was put in another's place."""
        marks = Marks()
        for old, new in ((self.keys, marks.keys), (self.values, marks.values)):
            for path, mark in old.items():
                if path[: len(target)] != target or path == target:
                    new[path] = mark
            for path, mark in old.items():
                if path[: len(source)] == source:
                    new[target + path[len(source) :]] = mark
        return marks


@dataclass
class Document:
    """A file's data, the places of all its parts, and what is wrong with it as YAML."""

    data: Any
    marks: Marks
    problems: list[Problem]

    def of(self, source: str, *, option: bool = False) -> "Document":
        """The same, its places told to be in `source`; those of an option have no line."""

        def stamped(mark: Mark) -> Mark:
            return Mark(0, 0, source) if option else Mark(mark.line, mark.column, source)

        marks = Marks(*({path: stamped(mark) for path, mark in known.items()} for known in vars(self.marks).values()))
        problems = [Problem(stamped(problem.mark), problem.text) for problem in self.problems]
        return Document(self.data, marks, problems)


def read_yaml(text: str) -> Document:
    """Build the data of `text`. Broken YAML gives `data` None and one problem; everything else is collected."""
    if len(text) > BYTES_MAX:
        return Document(
            None, Marks(), [Problem(Mark(1, 1), f"found {len(text)} characters, expected at most {BYTES_MAX}")]
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return Document(None, Marks(), [_broken(error)])
    except yaml.YAMLError as error:  # a character that YAML does not allow
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        return Document(None, Marks(), [Problem(Mark(line, 1), f"found {error}, expected YAML")])
    except RecursionError:
        return Document(None, Marks(), [Problem(Mark(1, 1), f"found nesting without end, expected ≤ {DEPTH_MAX}")])
    builder = _Builder()
    if node is None:
        return Document(None, builder.marks, [Problem(Mark(1, 1), "found an empty file, expected an experiment")])
    try:
        data = builder.build(node, ())
    except _TooMuch as stop:
        return Document(None, builder.marks, [Problem(stop.mark, str(stop))])
    return Document(data, builder.marks, builder.problems)


def _broken(error: yaml.MarkedYAMLError) -> Problem:
    place = error.problem_mark or error.context_mark
    flow = re.fullmatch(r"while parsing a flow (mapping|sequence)", error.context or "")
    if flow and error.context_mark and error.problem_mark and error.problem_mark.line > error.context_mark.line:
        # What comes on a later line is seldom wrong: the bracket before it is open.
        mark = Mark(error.context_mark.line + 1, error.context_mark.column + 1)
        opened, closed = ("{", "}") if flow[1] == "mapping" else ("[", "]")
        seen = f"found a '{opened}' that is not closed before line {error.problem_mark.line + 1}"
        return Problem(mark, f"{seen}, expected ',' or '{closed}'")
    mark = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
    context = f" ({error.context})" if error.context else ""
    seen = error.problem or "something that is no YAML"
    swapped = re.fullmatch(r"expected (.+), but (?:found|got) (.+)", seen, re.DOTALL)
    if swapped:  # PyYAML's order of words, into ours
        return Problem(mark, f"found {swapped[2]}{context}, expected {swapped[1]}")
    seen = seen if seen.startswith("found ") else f"found broken YAML: {seen}"
    return Problem(mark, f"{seen}{context}, expected well-formed YAML")


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _TooMuch(Exception):
    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark


class _Builder:
    """One pass over the composed nodes. Aliases are expanded by value, under a budget."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.problems: list[Problem] = []
        self._left = NODES_MAX
        # Only PyYAML knows how a plain scalar is typed; a constructor is safe on single scalars.
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, path: Path) -> Any:
        mark = _mark(node)
        self.marks.values[path] = mark
        self._left -= 1
        if self._left < 0:
            raise _TooMuch(mark, f"found aliases that expand without end, expected at most {NODES_MAX} values in all")
        if len(path) > DEPTH_MAX:
            raise _TooMuch(mark, f"found nesting deeper than {DEPTH_MAX}, expected an experiment")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, mark)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(mark, "found a list or mapping as key, expected a word"))
                continue
            key = str(key_node.value)
            if key in data:
                first = self.marks.keys[(*path, key)]
                self.problems.append(
                    Problem(mark, f"found '{key}' a second time, expected it once (first in line {first.line})")
                )
                continue
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problems.append(Problem(mark, "found the merge key '<<', expected the keys written out"))
                continue
            self.marks.keys[(*path, key)] = mark
            data[key] = self.build(value_node, (*path, key))
        return data

    def _scalar(self, node: yaml.Node, mark: Mark) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp" or (node.tag in _NUMBERS and ":" in node.value):
            return node.value  # a date is a word here, and so is 1:30, which YAML 1.1 takes for ninety
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self.problems.append(Problem(mark, f"found the tag '{node.tag}', expected a plain value"))
            return None
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self.problems.append(Problem(mark, f"found {node.tag.rpartition(':')[2]} {node.value!r}, expected a value"))
            return None


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
