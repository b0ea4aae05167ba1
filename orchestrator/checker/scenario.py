"""What the checker searches: how many kernels do how much, from where, over which links."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from guest.protocol.address_space import AddressSpace, Operation
from guest.protocol.engine import Engine
from guest.protocol.space import SpaceEngine
from guest.protocol.voting import VotingEngine


class Links(Enum):
    """What may happen to the order of messages."""

    IN_ORDER = "in-order"
    """First in, first out between every ordered pair of kernels, any order otherwise: what rings do."""
    REORDERED = "reordered"
    """Any message may overtake any other."""


class Start(Enum):
    """Where the search begins."""

    UNMAPPED = "unmapped"
    """No kernel ever touched a page."""
    PARTLY_SHARED = "partly shared"
    """Every kernel but kernel 0 holds a valid copy of every page. (Its timestamps are the oldest of equal counters.)"""
    SHARED = "shared"
    """Every kernel holds a valid copy of every page."""
    MODIFIED = "modified"
    """Kernel 0 has written every page, the others hold stale copies."""


@dataclass(frozen=True)
class Scenario:
    """A bounded system. Which operations are reads, and which writes, is left open: all choices are searched."""

    operations: tuple[int, ...]
    """How many operations each kernel's thread may start; the length is the number of kernels."""
    links: Links = Links.IN_ORDER
    start: Start = Start.UNMAPPED
    pages: int = 1
    threads: int = 1
    """Threads of every kernel, each with that many operations."""
    give_ups: int = 0
    """How many times a process may die while its fault is in flight."""
    deaths: int = 0
    """How many kernels may die."""
    returns: int = 0
    """How many times a dead kernel may come back, with nothing mapped, and its threads with their operations anew."""
    leaves: int = 0
    """How many kernels may leave: their threads do nothing more, and another kernel reads every page that they have."""
    space: tuple[Operation, ...] = ()
    """Operations on the address space that any thread may ask for, in the place of a read or write."""
    mapped: int | None = None
    """With `space`: so many pages are mapped at the start, the first ones; all of them, if not said."""
    members: int | None = None
    """Kernels that are in the kernel set at the start, the first ones; the others ask to be let in before they do
    anything. All of them, if not said."""
    engine: Callable[..., Engine] = VotingEngine

    @property
    def kernels(self) -> int:
        """How many kernels there are."""
        return len(self.operations)

    @property
    def mapped_pages(self) -> int:
        """How many pages are mapped at the start."""
        return self.pages if self.mapped is None else self.mapped

    def engine_of(self, kernel: int) -> Engine:
        """A new engine for this kernel."""
        kernels = range(self.kernels if self.members is None else self.members)
        engine = self.engine(kernel, kernels if kernel in kernels else [0], self.pages)
        if not self.space and self.members is None:
            return engine
        space = AddressSpace.first(self.mapped_pages, self.pages)
        return SpaceEngine(engine, kernel, kernels, space)

    def __str__(self) -> str:
        extras = "".join(
            f", {count} {word}"
            for count, word in (
                (self.give_ups, "give-ups"),
                (self.deaths, "deaths"),
                (self.returns, "returns"),
                (self.leaves, "leaves"),
            )
            if count
        )
        threads = f" on {self.threads} threads each" if self.threads > 1 else ""
        return (
            f"{self.kernels} kernels, {'+'.join(map(str, self.operations))} operations{threads}, {self.pages} page(s), "
            f"{self.links.value} links, from {self.start.value}{extras}"
        )
