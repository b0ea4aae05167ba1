"""The shapes: what each thread does, in the names of the literature (Alglave, Maranget, Tautschnig: "Herding cats").

Every variable is 0 at first. `forbidden` is what sequential consistency must never show, written by hand; what counts
in a run is the search of `orchestrator.histories`, and a test holds the two against each other.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from orchestrator.histories import History, Operation, is_sequentially_consistent, load, store


class Step(NamedTuple):
    """A load, a store of `value`, or a full fence, which has no variable."""

    kind: str
    variable: str = ""
    value: int = 0

    @classmethod
    def parse(cls, word: str) -> "Step":
        """From `Rx` (load x), `Wx1` (store 1 to x) or `F`."""
        if word == "F":
            return cls("fence")
        return cls("store", word[1], int(word[2:])) if word[0] == "W" else cls("load", word[1])


Program = tuple[Step, ...]


class Outcome(NamedTuple):
    """What the loads of all programs found, in the order of the programs, and what the variables held in the end."""

    loads: tuple[int, ...]
    final: tuple[int, ...]
    """By variable, in alphabetical order."""


@dataclass(frozen=True)
class Shape:
    """A litmus test."""

    name: str
    programs: tuple[Program, ...]
    forbidden: str
    """Space-separated: `r0=0` is the first load of all, `x=1` a variable's final value; all of it at once."""
    same_page: bool = False

    @classmethod
    def parse(cls, name: str, text: str, forbidden: str, *, same_page: bool = False) -> "Shape":
        """From one line: programs apart by `|`, steps by blanks."""
        programs = tuple(tuple(Step.parse(word) for word in program.split()) for program in text.split("|"))
        return cls(name, programs, forbidden, same_page)

    @cached_property
    def variables(self) -> list[str]:
        """In alphabetical order."""
        return sorted({step.variable for program in self.programs for step in program if step.variable})

    def fenced(self) -> "Shape":
        """The same with a full fence between any two steps."""
        programs = tuple(tuple(_fenced(program)) for program in self.programs)
        return Shape(self.name, programs, self.forbidden, self.same_page)

    def history(self, outcome: Outcome) -> History:
        """The outcome as a history without times."""
        found = iter(outcome.loads)
        threads = tuple(
            tuple(_operation(step, found) for step in program if step.kind != "fence") for program in self.programs
        )
        return History(threads, tuple(zip(self.variables, outcome.final, strict=True)))

    def shown(self, outcome: Outcome) -> str:
        """In a line, such as `r0=1 r1=0 x=2`; final values of variables with a single store are left out when right."""
        words = [f"r{number}={shown(value)}" for number, value in enumerate(outcome.loads)]
        for name, value in zip(self.variables, outcome.final, strict=True):
            stored = self._stored(name)
            if stored != [value]:
                words.append(f"{name}={shown(value)}")
        return " ".join(words)

    def is_forbidden(self, outcome: Outcome) -> bool:
        """Whether the hand-written condition holds of an outcome."""
        names = {f"r{number}": value for number, value in enumerate(outcome.loads)}
        names |= dict(zip(self.variables, outcome.final, strict=True))
        alternatives = [[word.split("=") for word in words.split()] for words in self.forbidden.split(" or ")]
        return any(all(names[name] == int(value) for name, value in words) for words in alternatives)

    @cached_property
    def conceivable(self) -> list[Outcome]:
        """Every outcome in which each value is one that somebody stored, or 0."""
        loads = [step.variable for program in self.programs for step in program if step.kind == "load"]
        found = itertools.product(*([0, *self._stored(name)] for name in loads))
        final = itertools.product(*([0, *self._stored(name)] for name in self.variables))
        return [Outcome(*pair) for pair in itertools.product(found, final)]

    @cached_property
    def allowed(self) -> frozenset[Outcome]:
        """The outcomes that sequential consistency allows."""
        return frozenset(each for each in self.conceivable if is_sequentially_consistent(self.history(each)))

    def _stored(self, variable: str) -> list[int]:
        steps = (step for program in self.programs for step in program)
        return [step.value for step in steps if step.kind == "store" and step.variable == variable]


def _fenced(program: Program) -> Iterator[Step]:
    for number, step in enumerate(program):
        if number:
            yield Step("fence")
        yield step


def _operation(step: Step, found: Iterator[int]) -> Operation:
    return store(step.variable, step.value) if step.kind == "store" else load(step.variable, next(found))


def shown(value: int) -> str:
    """`?` for a value that is none of the shape's."""
    return str(value) if value >= 0 else "?"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape.parse("SB", "Wx1 Ry | Wy1 Rx", "r0=0 r1=0"),
        Shape.parse("MP", "Wx1 Wy1 | Ry Rx", "r0=1 r1=0"),
        Shape.parse("LB", "Rx Wy1 | Ry Wx1", "r0=1 r1=1"),
        Shape.parse("IRIW", "Wx1 | Wy1 | Rx Ry | Ry Rx", "r0=1 r1=0 r2=1 r3=0"),
        Shape.parse("2+2W", "Wx1 Wy2 | Wy1 Wx2", "x=1 y=1"),
        Shape.parse("CoRR", "Wx1 | Rx Rx", "r0=1 r1=0"),
        Shape.parse("CoWR", "Wx1 Rx | Wx2", "r0=0 or r0=2 x=1"),
        Shape.parse("S", "Wx2 Wy1 | Ry Wx1", "r0=1 x=2"),
        Shape.parse("R", "Wx1 Wy1 | Wy2 Rx", "r0=0 y=2"),
        Shape.parse("false-sharing", "Wx1 Ry | Wy1 Rx", "r0=0 r1=0 or x=0 or y=0", same_page=True),
    )
}
"""All shapes by name. A final 0 is forbidden in each of them: every variable is stored to."""
