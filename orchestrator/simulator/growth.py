"""What more kernels cost: messages of the shared-array workloads on 2 to 64 kernels, counted and by the formulas.

docs/protocol.md, "What it costs": with K kernels, all of which share the page, a first touch costs 2(K−1) messages, a
read of a stale page 2, a write of a shared page 2(K−1), and a lost vote 2 + 2(K−1) more.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from guest.protocol.engine import Engine
from guest.protocol.registry import PROTOCOLS
from guest.workloads.shared_array import SharedArray
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.memory import Violation
from orchestrator.simulator.setting import Setting
from orchestrator.simulator.world import World

KERNELS_MAX = 64
ITERATIONS = 3
_ARRAY = SharedArray(array_bytes=4096, stride=8, iterations=ITERATIONS)
"""One page: what it costs is counted for each page. Every one of 64 writers has elements in it."""


class Load(StrEnum):
    """The workloads, for K kernels with one thread each."""

    ALL_READ = "all read"
    ONE_WRITES = "one writes, the others read"
    IN_TURN = "all write, in turn"
    AT_ONCE = "all write, at once"


@dataclass(frozen=True)
class Cost:
    """Messages for one page."""

    kernels: int
    load: Load
    first: int
    """In the first iteration, when every kernel touches the page for the first time."""
    first_formula: int
    each: int
    """In the last iteration, which is as every later one."""
    each_formula: int
    lost_votes: tuple[int, int]
    """In these two iterations. The formulas take them as they were counted: they depend on who meets whom."""

    @property
    def agrees(self) -> bool:
        """Whether what was counted is what the formulas say."""
        return (self.first, self.each) == (self.first_formula, self.each_formula)


def steps_of(kernels: range) -> list[int]:
    """Numbers of kernels to try: both ends, and between them powers of two and half-way."""
    between = [number for power in range(1, 7) for number in (1 << power, 3 << (power - 1)) if number in kernels]
    return sorted({kernels[0], kernels[-1], *between})


def growth(numbers: Iterable[int], seed: int) -> Iterator[Cost]:
    """The cost of each workload on each number of kernels. Raises Violation where the protocol breaks."""
    for kernels in numbers:
        for load in Load:
            yield _cost(kernels, load, f"{seed}/{kernels}/{load}", PROTOCOLS["voting"])


def _cost(kernels: int, load: Load, seed: str, engine: type[Engine]) -> Cost:
    writers = {Load.ALL_READ: 0, Load.ONE_WRITES: 1}.get(load, kernels)
    roles = tuple(("writer" if number < writers else "reader",) for number in range(kernels))
    names = tuple(f"k{number}" for number in range(kernels))
    world = World(Setting(names, roles, _ARRAY, engine, in_turn=load is Load.IN_TURN), Conditions(), seed)
    world.run()
    if world.failure:
        raise Violation(world.failure.kind, f"{load}, {kernels} kernels: {world.failure.message}")
    barriers = len(world.counts) // ITERATIONS
    ends = [world.counts[barriers * (iteration + 1) - 1] for iteration in range(ITERATIONS)]
    first, each = ends[0], {name: count - ends[-2].get(name, 0) for name, count in ends[-1].items()}
    others = kernels - 1
    fetches = 2 * kernels * others
    if load is not Load.AT_ONCE:
        votes_lost = 0, 0
        reads = 2 * others
        formulas = {
            Load.ALL_READ: (fetches, 0),
            Load.ONE_WRITES: (fetches, 2 * others + reads),
            # In turn, the copyset of the first votes is whoever was there before.
            Load.IN_TURN: (fetches + kernels * others + reads, 2 * others + others * (2 + 2 * others) + reads),
        }[load]
    else:
        votes_lost = _lost(first, kernels), _lost(each, kernels)
        again, once = (kernels * 2 * others + lost * (2 + 2 * others) + 2 * others for lost in votes_lost)
        formulas = fetches + again, once
    return Cost(kernels, load, sum(first.values()), formulas[0], sum(each.values()), formulas[1], votes_lost)


def _lost(sent: dict[str, int], kernels: int) -> int:
    """Every vote beyond the first of each writer follows a lost one."""
    return sent["INVALIDATE"] // (kernels - 1) - kernels
