"""What came of a shape's instances: each one's history, judged, and how often each outcome was seen."""

import base64
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from guest.workloads.race import BEGIN, END, ENTRY_WORDS, VALUE
from guest.workloads.race_code import CODES
from orchestrator.histories import History, Interval, Operation, is_linearizable, is_sequentially_consistent
from orchestrator.litmus.shapes import Outcome, Shape, shown

FOREIGN = -1
"""A value that nobody stored in this instance and that is not the one from before it either."""
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
    """What each program did and saw, and when (ticks since the first of all on the same clock), by node and program."""

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
    shape: Shape, slots: int, histories: Sequence["array[int]"], clocks: Sequence[int]
) -> Iterator[Instance]:
    """The instances in what the programs' threads kept, in the order of time.

    `slots` is the number of instances in a round; `clocks` says which clock each program's times are of.
    """
    threads = [_Kept(shape, number, slots, words) for number, words in enumerate(histories)]
    before: dict[tuple[int, str], set[int]] = {}
    for number in range(threads[0].rounds * slots):
        base, slot = (number + 1) * CODES, number % slots
        old = {name: before.get((slot, name), {0}) for name in shape.variables}
        programs = tuple(
            tuple(
                Operation(store, name, value if store else _value(value, base, old[name]), Interval(clock, begin, end))
                for store, name, value, begin, end in thread.accesses(number)
            )
            for thread, clock in zip(threads, clocks, strict=True)
        )
        last: dict[str, int] = {}
        for name, values in zip(
            shape.variables, zip(*(each.final(number) for each in threads), strict=True), strict=True
        ):
            before[slot, name] = set(values)
            last[name] = _value(values[0], base, old[name]) if len(set(values)) == 1 else FOREIGN
        loads = tuple(each.value for program in programs for each in program if not each.is_store)
        yield Instance(number, Outcome(loads, tuple(last.values())), History(programs, tuple(last.items())))


def _value(value: int, base: int, old: set[int]) -> int:
    """What the shape calls a value that was found in memory."""
    if value in old:
        return 0
    return value - base if 0 < value - base < CODES else FOREIGN


class _Kept:
    """One thread's history, in the layout of `guest.workloads.litmus.Litmus.run`; instances are counted from 0."""

    def __init__(self, shape: Shape, program: int, slots: int, words: "array[int]") -> None:
        self._steps = [
            (step.kind == "store", step.variable) for step in shape.programs[program] if step.kind != "fence"
        ]
        self._slots = slots
        self._words = words
        self._variables = len(shape.variables)
        self._entry = len(self._steps) * len(ENTRY_WORDS)
        self._round = slots * (self._entry + self._variables)
        self.rounds = len(words) // self._round

    def accesses(self, instance: int) -> Iterator[tuple[bool, str, int, int, int]]:
        """Of each access: whether it stored, variable, the code it stored or the value it found, begin, end."""
        number, slot = divmod(instance, self._slots)
        start = number * self._round + slot * self._entry
        entry = self._words[start : start + self._entry]
        width = len(ENTRY_WORDS)
        for place, (is_store, variable) in enumerate(self._steps):
            first, last = (0, -width) if number % 2 == 0 else (place * width, place * width)  # at once, or one by one
            yield is_store, variable, entry[place * width + VALUE], entry[first + BEGIN], entry[last + END]

    def final(self, instance: int) -> "array[int]":
        """By variable."""
        number, slot = divmod(instance, self._slots)
        start = number * self._round + self._slots * self._entry + slot * self._variables
        return self._words[start : start + self._variables]


def _violation(shape: Shape, instance: Instance, model: str, nodes: Sequence[str]) -> Violation:
    threads = {
        f"{node} p{number}": ", ".join(map(str, thread))
        for number, (node, thread) in enumerate(zip(nodes, instance.history.from_zero().threads, strict=True))
    }
    threads["in the end"] = ", ".join(f"{name}={shown(value)}" for name, value in instance.history.final)
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
