"""What the kernels of a testbed have counted into the shared segment, and how fast, without asking them."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from guest.errors import SegmentError
from guest.link.segment import PAIR_HEAD, PAIR_TAIL, Node, Segment
from guest.memory.samples import KINDS
from guest.protocol.messages import MessageName
from testbed.machine import Testbed
from testbed.spec import LinkKind

_WORD_BYTES = 8


@dataclass(frozen=True)
class KernelCounters:
    """One kernel's page of the node table at one moment. Counts are since the segment was formatted.

    `queued` is the number of messages that are on their way to it in the rings.
    """

    node: str
    isa: str
    state: str
    waiting: bool
    heartbeat: int
    faults: Mapping[str, int]
    messages: Mapping[str, int]
    doorbells: int
    sleeps: int
    queued: int


@dataclass(frozen=True)
class Snapshot:
    """All kernels on one link. `time_s` is on the monotonic clock; `generation` counts how often it was formatted."""

    link: str
    time_s: float
    generation: int
    kernels: tuple[KernelCounters, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the time, which means nothing elsewhere."""
        plain = asdict(self)
        del plain["time_s"]
        return plain


class Onlooker:
    """Looks at the memory of one link of a testbed, again and again. Writes nothing, rings nobody."""

    def __init__(self, testbed: Testbed, link: str, memory: memoryview) -> None:
        members = testbed.spec.link(link).nodes
        self._names = [node.name for node in testbed.spec.nodes if node.name in members]
        self._link = link
        self._memory = memory

    def look(self) -> Snapshot | None:
        """The counters now; None while no daemon's host has formatted the memory.

        Whatever a guest has scribbled there is shown or skipped, never obeyed.
        """
        try:
            # Opened each time: a run formats the memory anew before every point.
            segment = Segment.open(self._memory)
        except SegmentError:
            return None
        kernels = []
        for number, node in enumerate(segment.nodes):
            name = self._names[number] if number < len(self._names) else f"kernel {number}"
            counts = node.messages
            kernels.append(
                KernelCounters(
                    node=name,
                    isa=_named(node, "isa"),
                    state=_named(node, "state"),
                    waiting=node.waiting,
                    heartbeat=node.heartbeat,
                    faults=dict(zip(KINDS, node.faults, strict=False)),
                    messages={each.name: counts[each] for each in MessageName if counts[each]},
                    doorbells=node.doorbells,
                    sleeps=node.sleeps,
                    queued=_queued(segment, number),
                )
            )
        return Snapshot(self._link, time.monotonic(), segment.generation, tuple(kernels))


def _named(node: Node, attribute: str) -> str:
    """The name of an enumerated word of the node table; a guest may have written anything there."""
    try:
        return str(getattr(node, attribute).name).lower()
    except ValueError:
        return "scribbled over"


def _queued(segment: Segment, receiver: int) -> int:
    total = 0
    for sender in range(segment.layout.kernels):
        if sender != receiver:
            control = segment.layout.pair_offset(sender, receiver) // _WORD_BYTES
            waiting: int = segment.words[control + PAIR_HEAD] - segment.words[control + PAIR_TAIL]
            # Head and tail are not read in one moment, and belong to guests: more than the ring holds is no count.
            total += min(max(waiting, 0), segment.layout.ring_slots)
    return total


def shared_links(testbed: Testbed) -> list[str]:
    """Links with shared memory."""
    return [link.name for link in testbed.spec.links if link.kind is LinkKind.IVSHMEM_DOORBELL]
