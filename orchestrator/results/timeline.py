"""A point's timeline: the page faults, messages and barriers of all kernels on one clock, for reports and traces.

Times are in seconds since the first barrier opened on kernel 0. Messages are known when the point was traced
(`coherency.trace`); the order of a link says which receipt belongs to which send.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest.protocol.messages import MessageName
from orchestrator.results.clocks import beside_first
from orchestrator.results.directories import TRACES
from orchestrator.results.past_run import PastPoint

KINDS = ("local_fault", "remote_read", "remote_write")
"""Of page faults, in the order of their numbers in an agent's answer."""


@dataclass(frozen=True)
class Fault:
    """A thread waited for a page."""

    node: str
    thread: int
    page: int
    kind: str
    begin_s: float
    duration_s: float


@dataclass(frozen=True)
class Sent:
    """A message of the protocol."""

    name: str
    page: int | None
    """None for a message that is not about one page."""
    sender: str
    receiver: str
    sent_s: float
    received_s: float


@dataclass(frozen=True)
class Timeline:
    """What happened in a point."""

    nodes: tuple[str, ...]
    """In the order of their kernel ids."""
    faults: tuple[Fault, ...]
    messages: tuple[Sent, ...]
    barriers: tuple[tuple[int, float], ...]
    """Number, and when the last kernel announced it."""
    error_s: float
    """How far two kernels' times may be apart at most, for clocks are known no better."""
    begun_s: float | None
    """On the host's monotonic clock; None when the host never asked for the time."""


def timeline(point: PastPoint, run: Path) -> Timeline | None:
    """The point's timeline; None when its agents told none. `run` is the run's directory, for its traces."""
    told = {node: answer["timeline"] for node, answer in point.answers.items() if "timeline" in answer}
    if not told:
        return None
    clocks = dict(zip(told, beside_first(list(told.values())), strict=True))
    shifts = {node: clock.offset_s for node, clock in clocks.items()}
    first = next(iter(told))
    beside_host = point.clocks.get(first)
    begun_s = beside_host["offset_s"] + told[first]["begun_ns"] / 1e9 if beside_host else None
    faults = [fault for node, own in told.items() for fault in _faults(node, own["faults"], shifts[node])]
    barriers: dict[int, float] = {}
    for node, own in told.items():
        for number, at_ns in own["announced_ns"]:
            barriers[number] = max(barriers.get(number, float("-inf")), at_ns / 1e9 + shifts[node])
    return Timeline(
        nodes=tuple(told),
        faults=tuple(sorted(faults, key=lambda fault: fault.begin_s)),
        messages=tuple(_messages(run / TRACES / str(point.index + 1), told, shifts)),
        barriers=tuple(sorted(barriers.items())),
        error_s=sum(sorted(clock.error_s for clock in clocks.values())[-2:]),
        begun_s=begun_s,
    )


def _faults(node: str, columns: dict[str, list[int]], shift_s: float) -> Iterator[Fault]:
    names = ("thread", "page", "kind", "begin_ns", "duration_ns")
    for thread, page, kind, begin_ns, duration_ns in zip(*(columns[name] for name in names), strict=True):
        yield Fault(node, thread, page, KINDS[kind], begin_ns / 1e9 + shift_s, duration_ns / 1e9)


def _messages(folder: Path, told: dict[str, Any], shifts: dict[str, float]) -> list[Sent]:
    nodes = list(told)
    sent: dict[tuple[str, str], deque[tuple[list[int], float]]] = defaultdict(deque)
    received: list[tuple[str, str, list[int], float]] = []
    for node in nodes:
        for time_us, event, arguments, effects in _entries(folder / f"{node}.jsonl"):
            at_s = time_us / 1e6 - told[node]["begun_ns"] / 1e9 + shifts[node]
            if event.rpartition(".")[2] == "receive":  # of any of the kernel's engines
                received.append((nodes[arguments[0]], node, arguments[1], at_s))
            for effect in effects:
                if effect[0] == "Send":
                    sent[node, nodes[effect[1]]].append((effect[2], at_s))
    found = []
    for sender, receiver, message, at_s in received:
        link = sent[sender, receiver]
        if link:
            _, sent_s = link.popleft()
            name = MessageName(message[0]).name
            page = message[1] if message[0] <= MessageName.GRANT else None
            found.append(Sent(name, page, sender, receiver, sent_s, at_s))
    return sorted(found, key=lambda message: message.sent_s)


def _entries(path: Path) -> Iterator[list[Any]]:
    """A trace's entries, behind its header; nothing if there is no trace."""
    try:
        lines = path.read_text().splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        yield json.loads(line)
