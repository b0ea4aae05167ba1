"""What every workload is: roles, a part for each thread, and records of the values that were wrong."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from guest.errors import GuestFailure
from guest.protocol.address_space import Operation, Refusal

PAGE_BYTES = 4096


class WorkloadError(GuestFailure):
    """The workload's description makes no sense; the message says which field, what was seen, what was expected."""

    kind = "workload"


class Mismatch(NamedTuple):
    """One wrong value."""

    kernel: int
    thread: int
    """Position among the threads of its kernel."""
    iteration: int
    """From 0."""
    page: int
    offset: int
    """Bytes from the start of the page."""
    expected: int
    found: int


class Place(NamedTuple):
    """Where a thread stands among all threads of the workload."""

    kernel: int
    thread: int
    """Position in `roles[kernel]`."""
    roles: tuple[tuple[str, ...], ...]
    """The roles of all threads: `roles[kernel][thread]`."""
    meeting: memoryview = memoryview(b"")
    """Raw memory of the segment that all threads map, zeros at first, nobody's page: `Workload.meeting_bytes` of it."""

    operate: Callable[[Operation], Refusal] | None = None
    """Does something to the address space of all threads, where they may change it."""

    @property
    def role(self) -> str:
        """What this thread does."""
        return self.roles[self.kernel][self.thread]

    @property
    def rank(self) -> int:
        """Position among all threads of all kernels, kernel by kernel."""
        return sum(len(names) for names in self.roles[: self.kernel]) + self.thread

    @property
    def ranks(self) -> int:
        """All threads of all kernels."""
        return sum(len(names) for names in self.roles)

    def members(self, role: str) -> list[tuple[int, int]]:
        """All (kernel, thread) with this role, in the order in which they share the work."""
        return [(k, t) for k, names in enumerate(self.roles) for t, name in enumerate(names) if name == role]


Gone = frozenset[tuple[int, int]]
"""Threads that have died, as (kernel, thread); all of a kernel if it has died."""

Barrier = Callable[[], Gone]
"""Returns when every living thread has called it, and says who has died so far."""


class AccessRecorder(Protocol):
    """Takes down when each access to a page was made and how long it took, or all that a thread saw."""

    def record(self, start_ns: int, end_ns: int, page: int, store: bool) -> None:
        """One access in bulk of one page, from `start_ns` to `end_ns` of CLOCK_MONOTONIC."""

    def figure(self, name: str, value: int | float) -> None:
        """A number that the workload reports, by name."""

    def lost(self, page: int) -> bool:
        """Whether an access of this thread has found the page lost: what it loaded there is worth nothing."""

    def keep(self, history: bytes) -> None:
        """What this thread loaded and stored, for the host to judge; at most once, at the end."""


class Workload(Protocol):
    """A workload as the application process runs it and as the daemon checks it."""

    @property
    def iterations(self) -> int:
        """Iterations, each with two barriers."""

    @property
    def pages(self) -> int:
        """Pages that the workload touches, from page 0 of the shared memory."""

    @property
    def spares_threads(self) -> bool:
        """Whether the work goes on when a thread or a kernel dies, and the others' values can still be checked."""

    @property
    def meeting_bytes(self) -> int:
        """Raw memory of the segment that its threads want to meet in, if any."""

    def check_roles(self, roles: Sequence[Sequence[str]]) -> None:
        """Raise WorkloadError when these roles cannot run this workload."""

    def run(
        self, memory: memoryview, place: Place, barrier: Barrier, accesses: AccessRecorder
    ) -> tuple[int, list[Mismatch]]:
        """One thread's part. Returns how many values were wrong, and the first of them."""
