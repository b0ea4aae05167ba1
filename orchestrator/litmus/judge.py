"""What came of a shape's instances: each one's history, judged, and how often each outcome was seen."""

import base64
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from orchestrator.histories import History, Interval, Operation, is_linearizable, is_sequentially_consistent
from orchestrator.litmus.shapes import Outcome, Shape

SLOTS = 16
"""Instances in a round."""
CODES = 8
"""Mirrors `guest.workloads.litmus.CODES`: a value is (round + 1) × CODES + what the shape calls the value."""
FOREIGN = -1
"""A value that nobody stored in this round and that is not the one from before it either."""
KEPT = 16
"""Violations of a row that are spelled out; the rest is only counted."""


class Instance(NamedTuple):
    """One run of all programs of a shape."""

    number: int
    outcome: Outcome
    history: History
    """With the times of every operation."""


@dataclass(frozen=True)
class Violation:
    """An instance that no sequentially consistent, or no linearizable, memory could have shown."""

    instance: int
    outcome: str
    model: str
    threads: dict[str, str]
    """What each program did and saw, by node and program."""

    def __str__(self) -> str:
        threads = "; ".join(f"{place}: {done}" for place, done in self.threads.items())
        return f"instance {self.instance}: {self.outcome} is not {self.model} ({threads})"


@dataclass
class Row:
    """What came of one shape, on one memory, in one placement."""

    shape: str
    memory: str
    placement: dict[str, list[int]]
    """Numbers of the programs that each node ran."""
    instances: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How often each was seen, the most frequent first."""
    allowed: int = 0
    """Outcomes that sequential consistency allows."""
    allowed_seen: int = 0
    violation_count: int = 0
    violations: list[Violation] = field(default_factory=list)
    messages: int = 0
    duration_s: float = 0.0

    @property
    def weak(self) -> bool:
        """Whether the instances hardly met: one outcome only where several are allowed."""
        return self.allowed_seen < 2 <= self.allowed

    def judge(self, shape: Shape, instances: Iterator[Instance], nodes: Sequence[str]) -> None:
        """Count and judge instances; `nodes` are those that ran the programs."""
        seen: Counter[Outcome] = Counter()
        for instance in instances:
            seen[instance.outcome] += 1
            model = broken_model(instance.history.with_ranks())
            if model:
                self.violation_count += 1
                if len(self.violations) < KEPT:
                    self.violations.append(_violation(shape, instance, model, nodes))
        self.instances = seen.total()
        for outcome, count in seen.most_common():  # outcomes that differ in a hidden value look the same
            shown = shape.shown(outcome)
            self.outcomes[shown] = self.outcomes.get(shown, 0) + count
        self.allowed = len(shape.allowed)
        self.allowed_seen = len(shape.allowed & set(seen))


@cache
def broken_model(history: History) -> str:
    """The weakest model that the history breaks; "" if it breaks none."""
    if not is_sequentially_consistent(history):
        return "sequentially consistent"
    return "" if is_linearizable(history) else "linearizable"


def unpacked(history: str) -> "array[int]":
    """A thread's history as an agent's answer carries it."""
    words = array("q")
    words.frombytes(zlib.decompress(base64.b64decode(history)) if history else b"")
    return words


def instances_of(
    shape: Shape, rounds: int, histories: Sequence["array[int]"], clocks: Sequence[int]
) -> Iterator[Instance]:
    """The instances in what the programs' threads kept (its layout: `guest.workloads.litmus`), in the order of time.

    `clocks` says which clock each program's times are of.
    """
    before: dict[tuple[int, str], set[int]] = {}
    readers = [_Reader(shape, number, words) for number, words in enumerate(histories)]
    for number in range(rounds):
        base = (number + 1) * CODES
        slots = [[list(reader.operations()) for reader in readers] for _ in range(SLOTS)]
        finals = [[reader.final() for reader in readers] for _ in range(SLOTS)]
        for slot in range(SLOTS):
            places = [(slot, name) for name in shape.variables]
            old = {name: before.get(place, {0}) for place, name in zip(places, shape.variables, strict=True)}
            threads = tuple(
                tuple(
                    Operation(store, name, _value(value, base, old[name]), Interval(clock, begin, end))
                    for store, name, value, begin, end in thread
                )
                for thread, clock in zip(slots[slot], clocks, strict=True)
            )
            last: dict[str, int] = {}
            for place, name, values in zip(places, shape.variables, zip(*finals[slot], strict=True), strict=True):
                before[place] = set(values)
                agreed = len(before[place]) == 1
                last[name] = _value(values[0], base, old[name]) if agreed else FOREIGN
            loads = tuple(each.value for thread in threads for each in thread if not each.is_store)
            outcome = Outcome(loads, tuple(last.values()))
            yield Instance(number * SLOTS + slot, outcome, History(threads, tuple(last.items())))


def _value(value: int, base: int, old: set[int]) -> int:
    """What the shape calls a value that was found in memory."""
    if value in old:
        return 0
    return value - base if 0 < value - base < CODES else FOREIGN


class _Reader:
    """Goes through one thread's history."""

    def __init__(self, shape: Shape, program: int, words: "array[int]") -> None:
        self._steps = [(s.kind == "store", s.variable) for s in shape.programs[program] if s.kind != "fence"]
        self._variables = len(shape.variables)
        self._words = iter(words)

    def operations(self) -> Iterator[tuple[bool, str, int, int, int]]:
        """Of the next slot: whether it stored, variable, value, begin, end."""
        for is_store, variable in self._steps:
            yield is_store, variable, next(self._words), next(self._words), next(self._words)

    def final(self) -> list[int]:
        """Of the next slot, by variable."""
        return [next(self._words) for _ in range(self._variables)]


def _violation(shape: Shape, instance: Instance, model: str, nodes: Sequence[str]) -> Violation:
    threads = {
        f"{node} p{number}": ", ".join(map(str, thread))
        for number, (node, thread) in enumerate(zip(nodes, instance.history.threads, strict=True))
    }
    threads["in the end"] = ", ".join(f"{name}={value}" for name, value in instance.history.final)
    return Violation(instance.number, shape.shown(instance.outcome), model, threads)


def placement_of(nodes: Sequence[str]) -> dict[str, list[int]]:
    """Which programs each node runs."""
    placed: dict[str, list[int]] = {}
    for number, node in enumerate(nodes):
        placed.setdefault(node, []).append(number)
    return placed


def histories_by_program(
    placement: Mapping[str, Sequence[int]], answers: Mapping[str, dict[str, Any]]
) -> list["array[int]"]:
    """The threads' histories from the agents' answers, in the order of the programs."""
    found = {
        program: unpacked(packed)
        for node, programs in placement.items()
        for program, packed in zip(programs, answers[node]["histories"], strict=True)
    }
    return [found[program] for program in sorted(found)]
