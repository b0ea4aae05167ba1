"""What it costs to move a thread to the other kernel: to where the process is new, to where it is, and back.

The threads note themselves when they leave and when they go on (`guest.bench.traveller`); how each was placed is in the
notes of the runtime. Both clocks are brought together by the runtime's own messages, as those of runs are by their
barriers: a thread *leaves*, of which its destination hears (*placed*), of which the source hears in turn (*left*). The
quickest of each direction leaves an interval for the offset of the clocks. Whatever the offset, the times of a way
there and of the way back add up to what one clock has measured.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest.protocol.messages import MessageName
from orchestrator.bench.figures import Figure, Quantity, Unit
from orchestrator.results.clocks import Clock, beside_first
from testbed import GuestError

PROGRAM = Path(__file__).parents[2] / "guest" / "bench" / "traveller.py"
TRAVELLERS = 10
"""Threads that go there and back in one run."""
RUNS = 5
"""Runs from each home: a process is created on a kernel once in each."""
PAGES = 64
WORKLOAD = {"kind": "process", "file": PROGRAM.name, "iterations": TRAVELLERS, "pages": PAGES, "seed": 0, "pool": 3}
PLACEMENTS = {"CREATED": Quantity.CREATION, "CLONED": Quantity.CLONE, "BACK": Quantity.RETURN}
MESSAGES = {
    "CREATED": Quantity.CREATION_MESSAGES,
    "CLONED": Quantity.CLONE_MESSAGES,
    "BACK": Quantity.RETURN_MESSAGES,
}
_MIGRATION = (MessageName.THREAD_MIGRATE, MessageName.THREAD_PLACED)
_CREATION = (MessageName.JOIN, MessageName.JOINED)


@dataclass(frozen=True)
class Move:
    """One migration. Kernels are numbers of the run."""

    placement: str
    source: int
    destination: int
    took_us: float


def moves(answers: Sequence[Mapping[str, Any]]) -> tuple[list[Move], Clock]:
    """The migrations of one run of the travellers, by the agents' answers in kernel order; and kernel 1's clock beside
    kernel 0's. Raises GuestError if the runtime's notes and the travellers' differ."""
    clock = clocks(answers)
    placements: dict[tuple[int, int], list[str]] = defaultdict(list)
    for kernel, answer in enumerate(answers):
        for note in answer["moves"]:
            if note["event"] == "left":
                placements[note["thread"], kernel].append(note["placement"])
    found = []
    for thread, source, left_ns, destination, arrived_ns in _hops(answers):
        if not placements[thread, source]:
            raise GuestError(f"thread {thread} says that it left kernel {source}, which knows nothing of it")
        took_ns = _at(answers, clock, destination, arrived_ns) - _at(answers, clock, source, left_ns)
        found.append(Move(placements[thread, source].pop(0), source, destination, took_ns / 1e3))
    return found, clock


def clocks(answers: Sequence[Mapping[str, Any]]) -> Clock:
    """Kernel 1's clock beside kernel 0's: see the top. Times are since each kernel's own beginning."""
    notes: list[dict[tuple[int, str], list[int]]] = [defaultdict(list) for _ in answers]
    for kernel, answer in enumerate(answers):
        for note in answer["moves"]:
            notes[kernel][note["thread"], note["event"]].append(note["at_ns"])
    timelines: list[dict[str, list[list[int]]]] = [{"announced_ns": [], "heard_ns": []} for _ in answers]
    said = 0
    for source, destination in ((0, 1), (1, 0)):
        there, here = notes[destination], notes[source]
        for (thread, event), lefts in here.items():
            if event != "left":
                continue
            leaves, placed = here[thread, "leaves"], there[thread, "placed"]
            count = len(lefts)  # where it begins it is placed once more, at first
            for leaves_ns, placed_ns, left_ns in zip(leaves, placed[-count:], lefts, strict=True):
                timelines[source]["announced_ns"].append([said, leaves_ns])
                timelines[destination]["heard_ns"].append([source, said, placed_ns])
                timelines[destination]["announced_ns"].append([said + 1, placed_ns])
                timelines[source]["heard_ns"].append([destination, said + 1, left_ns])
                said += 2
    return beside_first(timelines)[1]


def figures(runs: Sequence[tuple[Sequence[str], Sequence[Mapping[str, Any]]]]) -> list[Figure]:
    """Of runs, each the nodes in kernel order and their agents' answers: medians by placement and direction."""
    took: dict[tuple[str, tuple[str, str]], list[float]] = defaultdict(list)
    counted: dict[tuple[str, tuple[str, str]], list[float]] = defaultdict(list)
    for nodes, answers in runs:
        found, _ = moves(answers)
        messages = _messages(answers, found)
        for move in found:
            key = move.placement, (nodes[move.destination], nodes[move.source])
            took[key].append(move.took_us)
            counted[key].append(messages[move.placement])
    return [
        Figure.of(quantity[placement], pair, unit, samples[placement, pair])
        for quantity, unit, samples in ((PLACEMENTS, Unit.MICROSECONDS, took), (MESSAGES, Unit.MESSAGES, counted))
        for placement, pair in sorted(samples)
    ]


def _messages(answers: Sequence[Mapping[str, Any]], found: Sequence[Move]) -> dict[str, float]:
    """How many each migration took, by placement: what all took divided by their number; joining is the creation's."""
    sent = {name: sum(answer["messages"].get(name.name, 0) for answer in answers) for name in _MIGRATION + _CREATION}
    each = sum(sent[name] for name in _MIGRATION) / len(found)
    joining = sum(sent[name] for name in _CREATION) / sum(move.placement == "CREATED" for move in found)
    return {"CREATED": each + joining, "CLONED": each, "BACK": each}


def _hops(answers: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int, int, int]]:
    """Of one thread after the other; who ran it, and so in whose output it has printed, is a matter of chance."""
    lines = [line for answer in answers for text in answer["output"] for line in text.splitlines()]
    threads = sorted((json.loads(line) for line in lines), key=lambda hops: hops[0][0])
    return [tuple(hop) for hops in threads for hop in hops]


def _at(answers: Sequence[Mapping[str, Any]], clock: Clock, kernel: int, at_ns: int) -> float:
    """That moment of the kernel's clock, by kernel 0's, since that began."""
    since_ns: int = at_ns - answers[kernel]["timeline"]["begun_ns"]
    return since_ns + clock.offset_s * 1e9 * kernel
