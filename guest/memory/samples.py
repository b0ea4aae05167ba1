"""How long accesses took: the application's own times, the daemon's page faults, and the two joined.

An application notes each access in bulk of a page: when it began, how long it took. The daemon notes each page fault:
when it was read from userfaultfd, when its thread was woken, and of which kind it was. Both read CLOCK_MONOTONIC of one
kernel, so a fault belongs to the access during which it began. An access with exactly one fault is a sample of that
fault's kind, as the program itself saw it; with none it is a hit; with several it is of no kind, and counted apart.
"""

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import isfinite
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap
from operator import index
from os import MFD_CLOEXEC, fstat, ftruncate, memfd_create, pread
from struct import Struct
from typing import NamedTuple, SupportsFloat

LOCAL_FAULT = 0
REMOTE_READ = 1
REMOTE_WRITE = 2
KINDS = ("local_fault", "remote_read", "remote_write")
"""Names of the fault kinds: `local_fault` was served without any message, the others needed at least one."""

ACCESSES_KEPT = 16384
"""Accesses a thread keeps; older ones make room, and are counted."""
FAULTS_KEPT = 16384
"""Fault records a daemon keeps for each thread; older ones make room, and stay in the aggregates."""

_COUNT = Struct("<Q")
_ACCESS = Struct("<QQQ")  # begin, duration, page << 1 | store
_HEADER_BYTES = 64


class Access(NamedTuple):
    """One access in bulk of one page."""

    begin_ns: int
    duration_ns: int
    page: int
    store: bool


FaultRecord = tuple[int, int, int, int]
"""One page fault: when the daemon read it (ns), page, kind, how long until its thread was woken (ns). A bare tuple: it
is made on the fault path of a machine on which naming its fields would cost microseconds."""


class FaultLog:
    """The faults of one thread: aggregates of all, records of the last ones."""

    def __init__(self) -> None:
        self.recent: deque[FaultRecord] = deque(maxlen=FAULTS_KEPT)
        self.counts = [0] * len(KINDS)
        self.total_ns = [0] * len(KINDS)
        self.pages_from: dict[int, int] = {}
        """By kernel, how many pages it has sent for these faults."""

    def add(self, record: FaultRecord) -> None:
        """A fault that has been served."""
        kind = record[2]
        self.recent.append(record)
        self.counts[kind] += 1
        self.total_ns[kind] += record[3]


FIGURE_NAME_MAX = 256


def reported(name: str, value: SupportsFloat) -> int | float:
    """The number of a figure; it may be one of NumPy's. Raises TypeError or ValueError for what is no finite number."""
    if type(name) is not str or not name:
        raise TypeError(f"a figure's name is {name!r}, expected a word")
    if len(name) > FIGURE_NAME_MAX:
        raise ValueError(f"a figure's name has {len(name)} letters, expected at most {FIGURE_NAME_MAX}")
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        if not hasattr(type(value), "__float__"):
            raise TypeError(f"figure {name!r} is {value!r}, expected a number") from None
        return _finite(name, float(value))
    _finite(name, number)
    return number


def _finite(name: str, number: int | float) -> float:
    with suppress(OverflowError):  # so large is a float's infinity
        if isfinite(as_float := float(number)):
            return as_float
    raise ValueError(f"figure {name!r} is {str(number)[:20]}, expected a finite number")


class AccessLog:
    """A thread's accesses in a memfd that the daemon reads when the thread is done, or has died."""

    def __init__(self) -> None:
        self.fd = memfd_create("accesses", MFD_CLOEXEC)
        size_bytes = _HEADER_BYTES + ACCESSES_KEPT * _ACCESS.size
        ftruncate(self.fd, size_bytes)
        self._buffer = mmap(self.fd, size_bytes, MAP_SHARED, PROT_READ | PROT_WRITE)
        self._count = 0
        self.figures: dict[str, int | float] = {}
        """Numbers that the workload reported."""
        self.lost_pages: set[int] = set()
        """See `guest.programs.lost_pages`."""

    def lost(self, page: int) -> bool:
        """Whether an access of this thread has found the page lost: what it loaded there is worth nothing."""
        return page in self.lost_pages

    def record(self, start_ns: int, end_ns: int, page: int, store: bool) -> None:
        """One access in bulk of one page, from `start_ns` to `end_ns` of CLOCK_MONOTONIC."""
        offset = _HEADER_BYTES + self._count % ACCESSES_KEPT * _ACCESS.size
        _ACCESS.pack_into(self._buffer, offset, start_ns, end_ns - start_ns, page << 1 | store)
        self._count += 1
        _COUNT.pack_into(self._buffer, 0, self._count)

    def figure(self, name: str, value: SupportsFloat) -> None:
        """A number that the workload reports, by name; a later one takes the place of an earlier one."""
        self.figures[name] = reported(name, value)

    def keep(self, history: bytes) -> None:
        """All that the thread loaded and stored, behind the accesses."""
        with open(self.fd, "ab", closefd=False) as end:
            end.write(history)


def read_accesses(fd: int) -> tuple[int, list[Access]]:
    """How many accesses were logged in `fd`, and those still kept, oldest first."""
    (count,) = _COUNT.unpack(pread(fd, _COUNT.size, 0))
    kept = min(count, ACCESSES_KEPT)
    data = pread(fd, kept * _ACCESS.size, _HEADER_BYTES)
    records = [
        Access(begin, duration, page >> 1, bool(page & 1)) for begin, duration, page in _ACCESS.iter_unpack(data)
    ]
    oldest = count % ACCESSES_KEPT if count > kept else 0
    return count, records[oldest:] + records[:oldest]


def read_history(fd: int) -> bytes:
    """The history that was kept in the log `fd`, or nothing."""
    start = _HEADER_BYTES + ACCESSES_KEPT * _ACCESS.size
    size_bytes = fstat(fd).st_size
    data = b""
    while len(data) < size_bytes - start:  # one call reads 2 GiB at most, and fewer when a signal arrives
        data += pread(fd, size_bytes - start - len(data), start + len(data))
    return data


class Samples:
    """Accesses of any number of threads, sorted by what happened during them. Times in ns."""

    def __init__(self) -> None:
        self.by_kind: tuple[list[int], ...] = tuple([] for _ in KINDS)
        self.hits = 0
        self.several = 0
        """Accesses with more than one fault: the page was taken away again before the access was complete."""
        self.dropped = 0
        """Accesses no longer kept."""
        self.stray_faults = 0
        """Faults outside any access kept: older than the oldest one, or not of the workload's own accesses."""

    def join(self, count: int, accesses: list[Access], faults: Iterable[FaultRecord]) -> None:
        """Add the accesses of one thread (`count` in all), given the faults of that thread, both oldest first."""
        self.dropped += count - len(accesses)
        remaining = iter(faults)
        fault = next(remaining, None)
        for begin_ns, duration_ns, _, _ in accesses:
            while fault is not None and fault[0] < begin_ns:
                self.stray_faults += 1
                fault = next(remaining, None)
            end_ns = begin_ns + duration_ns
            within = 0
            while fault is not None and fault[0] <= end_ns:
                within += 1
                kind = fault[2]
                fault = next(remaining, None)
            if within == 0:
                self.hits += 1
            elif within == 1:
                self.by_kind[kind].append(duration_ns)
            else:
                self.several += 1
        self.stray_faults += (fault is not None) + sum(1 for _ in remaining)
