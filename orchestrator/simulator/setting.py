"""What is simulated: kernels, their threads' steps, and the protocol between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from guest.protocol.engine import Engine
from guest.protocol.registry import PROTOCOLS
from guest.workloads.shared_array import Extent, SharedArray, value_base
from orchestrator.experiments.experiment import Experiment
from orchestrator.experiments.workloads import SharedArray as SharedArrayWorkload
from orchestrator.run import kernels_of

Content = tuple[int, ...]
"""What a page holds: for every writer, the number of the iteration (from 1) it stored last; 0 before that. Writers
never store to each other's elements, so this says what each element is."""


class Access(NamedTuple):
    """A thread loads from, or stores to, its part of one page."""

    page: int
    write: bool
    iteration: int


@dataclass(frozen=True)
class Setting:
    """Kernels by their number, and what their threads do."""

    names: tuple[str, ...]
    roles: tuple[tuple[str, ...], ...]
    """`roles[kernel][thread]`."""
    array: SharedArray
    engine: type[Engine]
    in_turn: bool = False
    """Writers store one after the other, each in a turn of its own, and not all at once."""
    failure_deadline_s: float = 3.0
    """From a kernel's death until others hear of it."""

    @classmethod
    def of(cls, experiment: Experiment, kernels: int | None = None) -> "Setting":
        """What the file describes; with `kernels`, so many of them, with the roles of the file's nodes in turn."""
        assert experiment.coherency is not None
        workload = experiment.workload
        assert isinstance(workload, SharedArrayWorkload)  # `check_simulatable` has seen to it
        nodes = kernels_of(experiment)
        names = tuple(nodes) if kernels is None else tuple(f"k{number}" for number in range(kernels))
        roles = [workload.roles(node) for node in nodes]
        return cls(
            names=names,
            roles=tuple(roles[number % len(nodes)] for number in range(len(names))),
            array=SharedArray(workload.array, workload.stride, workload.iterations),
            engine=PROTOCOLS[experiment.coherency.protocol],
            failure_deadline_s=experiment.coherency.failure_deadline_s,
        )

    def writers(self) -> list[tuple[int, int]]:
        """(kernel, thread) of all writers, in the order in which they share the elements."""
        return [(k, t) for k, own in enumerate(self.roles) for t, role in enumerate(own) if role == "writer"]

    def steps(self, role: str, writer: int, writers: int) -> Iterator[Access | None]:
        """One thread's part, as in `SharedArray.run`: its accesses, and None where all threads meet."""
        extents = self.array.extents()
        stored = [extent.page for extent in extents if first_of(extent, writer, writers) < extent.end]
        for iteration in range(self.array.iterations):
            for turn in range(writers if self.in_turn else 1):
                if role == "writer" and (turn == writer or not self.in_turn):
                    for page in stored:
                        yield Access(page, True, iteration)
                yield None
            if role != "idle":
                for extent in extents:
                    yield Access(extent.page, False, iteration)
            yield None


def first_of(extent: Extent, writer: int, writers: int) -> int:
    """The writer's first element in the page; `extent.end` or more if none of the page's elements is its own."""
    return extent.first + (writer - extent.first) % max(1, writers)


def value_of(stored: int, writer: int, element: int) -> int:
    """The element's value once its writer has stored iteration number `stored` (0: none)."""
    return value_base(stored - 1, writer) + element if stored else 0
