"""The shared region on one kernel: the pages this kernel has, and what its processes may do with them.

The pages live in a memfd that every application process maps, shared, at the same address (`BASE`), and registers with
a userfaultfd of its own. What the protocol calls a page's state becomes, in terms of memory:

| state | in the memfd | in every process |
|---|---|---|
| U, I | absent | a fault, of either kind |
| S | present | readable; a write faults |
| N, M | present | readable and writable |

**One page, many processes.** A page that is present in the memfd appears in every process that maps it without any
event: a process that has no mapping of the page yet takes no userfault, only an ordinary fault that the kernel serves.
So a change goes to every registered process, and in the order in which no process can slip through: protection is
put into the others *before* a page for reading appears, and taken from them *after* a page for writing has. The
protection of a page outlives its absence (the kernel keeps it as a mark in the page table, even over a discard).

**What is allowed** at all is beside the states: the address space (`Region.allow`) is enforced by the protection of the
mapping, so that a thread that may not load or store gets SIGSEGV and no fault comes here.

**Several address spaces.** A region can be that of several processes, one behind the other (`span` pages each). What
maps one of them has it at the same address as any other, `BASE`; page numbers go through all of them.

**One page, one moment.** Install is a single UFFDIO_COPY: the page is there complete or not at all. For the same reason
a zero page for reading is copied, not zeroed: UFFDIO_ZEROPAGE cannot protect.
"""

import ctypes
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, NoReturn

from guest.errors import RegionError
from guest.link.segment import address_of
from guest.memory.protection import Protector
from guest.memory.userfaultfd import FAULT_WRITE, FAULT_WRITE_PROTECT, PAGE_BYTES, ProcessGone, Userfaultfd
from guest.protocol.address_space import Access

BASE = 0x100000000000
"""Where every process of every kernel maps the region: free on all ISAs in question, far from libraries and stacks."""

_ABSENT, _PROTECTED, _WRITABLE, _POISONED = range(4)
PRESENCES = (_PROTECTED, _WRITABLE)
"""How a page can be present: for reading, and for writing too."""
_NOT_POISONED = re.compile(b"[^\\x%02x]+" % _POISONED)
_RUNS_OF = {value: re.compile(b"\\x%02x+" % value) for value in {*PRESENCES, _POISONED, *Access}}
_COMPARED = 256
"""Pages whose states are compared at once."""
_WRITE = FAULT_WRITE | FAULT_WRITE_PROTECT

_MAP_FIXED_NOREPLACE = 0x100000
_MAP_FAILED = ctypes.c_void_p(-1).value
_PUNCH_HOLE_KEEP_SIZE = ctypes.c_int(3)  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PAGE = ctypes.c_long(PAGE_BYTES)

_libc = ctypes.PyDLL(None, use_errno=True)
_fallocate = _libc.fallocate


class _Suspended(NamedTuple):
    """A process that touches no memory for a while, and what held in it when that began."""

    protector: Protector | None
    state: bytes
    changes: int
    """How often what is allowed, or lost, had changed by then."""


class Region:
    """The region of `pages` pages on this kernel, all absent at first. Pages are counted from 0.

    `span` pages are one address space, and so are the next ones; all are one if it is left out.

    A process that has ended is noticed by the first operation that meets it and is served no more; the pages stay. The
    caller still calls `unregister`, which closes the descriptor.
    """

    __slots__ = (
        "_allowed",
        "_changes",
        "_frozen",
        "_memory_fd",
        "_offset",
        "_processes",
        "_protectors",
        "_registered",
        "_state",
        "_suspended",
        "_zero",
        "memory_fd",
        "pages",
        "resident",
        "resident_most",
        "size_bytes",
        "span",
    )

    def __init__(self, pages: int, span: int | None = None) -> None:
        if pages < 1:
            raise RegionError(f"a region of {pages} pages was asked for, expected at least 1", "")
        self.pages = pages
        self.span = span or pages
        """Pages of one address space."""
        self.size_bytes = pages * PAGE_BYTES
        self.memory_fd = os.memfd_create("coherent-region", os.MFD_CLOEXEC)
        """To be mapped by the applications, see `map_shared`."""
        os.ftruncate(self.memory_fd, self.size_bytes)
        self._memory_fd = ctypes.c_int(self.memory_fd)
        self._offset = ctypes.c_long(0)
        self._state = bytearray(pages)
        self._allowed = bytearray([Access.WRITE]) * pages
        self.resident = 0
        """Pages that are present."""
        self.resident_most = 0
        """Most pages that ever were."""
        self._changes = 0
        self._frozen = range(0)
        """Pages that may be written, and are protected all the same until a copy of them is made."""
        self._registered: dict[int, tuple[Userfaultfd, int]] = {}  # and the number of its address space
        self._protectors: list[dict[int, Protector]] = [{} for _ in range(0, pages, self.span)]  # by address space
        self._suspended: dict[int, _Suspended] = {}
        self._processes: list[list[Userfaultfd]] = [[] for _ in range(0, pages, self.span)]  # those of them that live
        self._zero = mmap.mmap(-1, PAGE_BYTES)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The userfaultfds of the registered processes, to be watched for faults."""
        return tuple(self._registered)

    def register(self, fd: int, protector: Protector | None = None, space: int = 0) -> None:
        """Serve one more process, which has mapped an address space at BASE and registered it with the userfaultfd
        `fd`: the one of that number, from 0.

        The process must not touch the region before this is done. The descriptor is this object's from now on, and so
        is the `protector`, which `allow` and `relocate` need.
        """
        if protector is not None:
            self._protectors[space][fd] = protector
        process = Userfaultfd(fd)
        self._tell_all(process, space, protector, again=False)
        self._registered[fd] = process, space
        self._processes[space].append(process)

    def suspend(self, fd: int) -> None:
        """Spare the process of `fd` all that changes: it touches no memory until `resume`."""
        process, space = self._registered[fd]
        if process in self._processes[space]:
            self._processes[space].remove(process)
        state = bytes(self._state[self._pages_of(space)])
        self._suspended[fd] = _Suspended(self._protectors[space].pop(fd, None), state, self._changes)

    def resume(self, fd: int) -> None:
        """Serve a suspended process again: what has changed is put into it."""
        process, space = self._registered[fd]
        protector, states, changes = self._suspended.pop(fd)
        if protector is not None:
            self._protectors[space][fd] = protector
        self._processes[space].append(process)
        now = self._state[self._pages_of(space)]
        try:
            if changes != self._changes or _POISONED in states or self._frozen:
                self._tell_all(process, space, protector, again=True)
                return
            for state, start, count in _changed(states, now) if states != now else ():
                change = process.write_protect_range if state == _PROTECTED else process.write_unprotect_range
                change(BASE + start * PAGE_BYTES, count * PAGE_BYTES)
        except ProcessGone:
            pass

    def _pages_of(self, space: int) -> slice:
        return slice(space * self.span, min((space + 1) * self.span, self.pages))

    def _tell_all(self, process: Userfaultfd, space: int, protector: Protector | None, *, again: bool) -> None:
        """Put all that holds into a process; `again` if other things held there before."""
        allowed, states = self._allowed[self._pages_of(space)], self._state[self._pages_of(space)]
        size_bytes = len(states) * PAGE_BYTES
        if protector is not None:
            if again:
                protector.allow(BASE, size_bytes, Access.WRITE)
                protector.forget(BASE, size_bytes)
            for access in (Access.NONE, Access.READ):
                for start, count in _runs(allowed, access):
                    protector.allow(BASE + start * PAGE_BYTES, count * PAGE_BYTES, access)
        if again:
            for run in _NOT_POISONED.finditer(states):
                process.write_unprotect_range(BASE + run.start() * PAGE_BYTES, len(run[0]) * PAGE_BYTES)
        for start, count in _runs(states, _PROTECTED):
            process.write_protect_range(BASE + start * PAGE_BYTES, count * PAGE_BYTES)
        if space == self._frozen.start // self.span:
            for start, count in self._frozen_runs():
                process.write_protect_range(start, count)
        for start, count in _runs(states, _POISONED):
            for page in range(start, start + count):
                with suppress(ProcessGone):  # it may have memory of its own in the page's place: see `poison`
                    process.poison(BASE + page * PAGE_BYTES)

    def unregister(self, fd: int) -> None:
        """Serve the process of `fd` no more, and close the descriptor. Before the process ends, or after."""
        process, space = self._registered.pop(fd)
        if process in self._processes[space]:
            self._processes[space].remove(process)
        process.close()
        suspended = self._suspended.pop(fd, None)
        protector = suspended.protector if suspended is not None else self._protectors[space].pop(fd, None)
        if protector is not None:
            protector.close()

    def faults(self, fd: int) -> list[tuple[int, bool]]:
        """The faults that wait in the process of `fd`: page, and whether it is a write. Never blocks; often empty."""
        process, space = self._registered[fd]
        first = space * self.span
        return [(first + (address - BASE) // PAGE_BYTES, flags & _WRITE != 0) for address, flags in process.read()]

    def install(self, page: int, source: int, writable: bool, wake: bool) -> None:
        """Make the page present with the 4096 bytes at address `source`, instead of what it held, if anything.

        `wake`: let the threads that wait for it try again.
        """
        if self._state[page]:
            self.discard(page)
        space, number = divmod(page, self.span)
        processes = self._processes[space]
        if len(processes) != 1 or page in self._frozen:
            self._install_everywhere(page, source, writable, wake)
            return
        try:
            done = processes[0].copy(BASE + number * PAGE_BYTES, source, not writable, wake)
        except ProcessGone:
            processes.clear()
            self._install_everywhere(page, source, writable, wake)
            return
        self._made_present(page, done, _WRITABLE if writable else _PROTECTED)

    def zero(self, page: int, writable: bool) -> None:
        """Make the page present and zero, instead of what it held, and wake the threads that wait for it."""
        space, number = divmod(page, self.span)
        processes = self._processes[space]
        if writable and len(processes) == 1 and not self._state[page] and page not in self._frozen:
            try:
                self._made_present(page, processes[0].zero(BASE + number * PAGE_BYTES), _WRITABLE)
            except ProcessGone:
                processes.clear()
            else:
                return
        self.install(page, address_of(memoryview(self._zero)), writable, wake=True)

    def grant(self, page: int) -> None:
        """Let the present page be written, and wake the threads that wait to."""
        if self._state[page] not in PRESENCES:
            self._refuse(page, "granted for writing")
        self._state[page] = _WRITABLE
        if page in self._frozen:
            self._apply(Userfaultfd.wake, page)
        else:
            self._apply(Userfaultfd.write_unprotect, page, True)

    def protect(self, page: int) -> None:
        """Write-protect the present page: when this returns, no process writes to it any more."""
        if self._state[page] not in PRESENCES:
            self._refuse(page, "write-protected")
        self._state[page] = _PROTECTED
        self._apply(Userfaultfd.write_protect, page)

    def discard(self, page: int) -> None:
        """Drop the page: absent until it is installed again. Dropping an absent page does nothing."""
        if self._state[page] == _ABSENT:
            return
        self._offset.value = page * PAGE_BYTES
        if _fallocate(self._memory_fd, _PUNCH_HOLE_KEEP_SIZE, self._offset, _PAGE):
            raise RegionError(
                f"page {page} cannot be dropped: {os.strerror(ctypes.get_errno())}",
                "fallocate(2) with FALLOC_FL_PUNCH_HOLE on a memfd needs a kernel with tmpfs",
            )
        if self._state[page] != _POISONED:
            self.resident -= 1
        self._state[page] = _ABSENT

    def wake(self, page: int) -> None:
        """Let the threads that wait for the page try their access again."""
        self._apply(Userfaultfd.wake, page)

    def poison(self, page: int) -> None:
        """Give SIGBUS to every thread that touches the page, those included that wait for it now. Needs Linux 6.6.

        A process that has got it may have put memory of its own in the page's place, so it is not done twice.
        """
        if self._state[page] == _POISONED:
            self.wake(page)
            return
        self.discard(page)
        self._state[page] = _POISONED
        self._changes += 1
        self._apply(Userfaultfd.poison, page)

    def present(self, presence: int, first: int) -> Iterator[int]:
        """The pages that are present in that way (see `PRESENCES`), from `first` to the end, then those before it."""
        for start, stop in ((first, self.pages), (0, first)):
            page = self._state.find(presence, start, stop)
            while page >= 0:
                yield page
                page = self._state.find(presence, page + 1, stop)

    def mapped(self, space: int) -> bool:
        """Whether anything is mapped in the address space of that number."""
        return any(self._allowed[self._pages_of(space)])

    def allow(self, first: int, length: int, access: Access) -> None:
        """From the return of this on, threads do no more with these pages than `access` says, whatever their state is.

        `Access.NONE` drops what they held, poison too: mapped again, they are absent pages.
        """
        self._let(first, length, access)
        if access == Access.NONE:
            for page in range(first, first + length):
                self.discard(page)
            for protector, address, size_bytes in self._protected(first, length):
                protector.forget(address, size_bytes)

    def relocate(self, first: int, length: int, to: int) -> None:
        """Give the pages other numbers, the first one `to`, with what they hold and allow; nothing is mapped there yet.

        No thread sees them at both places, or a part of them.
        """
        allowed = self._allowed[first : first + length]
        self._let(first, length, Access.NONE)
        self._reproduce(first, length, to)
        self.allow(first, length, Access.NONE)
        for number, access in zip(range(to, to + length), allowed, strict=True):
            self._let(number, 1, Access(access))

    def _reproduce(self, first: int, length: int, to: int) -> None:
        held = memoryview(bytearray(PAGE_BYTES))
        for page, number in zip(range(first, first + length), range(to, to + length), strict=True):
            state = self._state[page]
            if state in PRESENCES:
                self.read_out(page, held)
                self.install(number, address_of(held), state == _WRITABLE, wake=False)
            elif state == _POISONED:
                self.poison(number)

    def freeze(self, first: int, length: int) -> None:
        """From the return of this on, no thread stores to these pages, until they are duplicated."""
        self._frozen = range(first, first + length)
        for process in list(self._processes[first // self.span]):
            with suppress(ProcessGone):  # the next change to one of its pages finds that out
                for start, count in self._frozen_runs():
                    process.write_protect_range(start, count)

    def duplicate(self, first: int, length: int, to: int) -> None:
        """Make a copy of the frozen pages, with what they hold and allow, from number `to` on, where nothing is mapped;
        then threads may store to them again."""
        self._reproduce(first, length, to)
        for start, count in _runs(self._allowed[first : first + length], Access.READ):
            self._let(to + start, count, Access.READ)
        for start, count in _runs(self._allowed[first : first + length], Access.WRITE):
            self._let(to + start, count, Access.WRITE)
        self._changes += 1  # suspended processes may have been frozen
        thawed, self._frozen = self._frozen_runs(), range(0)
        for process in list(self._processes[first // self.span]):
            with suppress(ProcessGone):
                for start, count in thawed:
                    process.write_unprotect_range(start, count)

    def _frozen_runs(self) -> list[tuple[int, int]]:
        """Address and size of the parts of the frozen pages that could be written."""
        first = self._frozen.start
        address = BASE + first % self.span * PAGE_BYTES
        states = self._state[first : self._frozen.stop]
        return [(address + start * PAGE_BYTES, count * PAGE_BYTES) for start, count in _runs(states, _WRITABLE)]

    def _let(self, first: int, length: int, access: Access) -> None:
        self._allowed[first : first + length] = bytearray([access]) * length
        self._changes += 1
        for protector, address, size_bytes in self._protected(first, length):
            protector.allow(address, size_bytes, access)

    def _protected(self, first: int, length: int) -> Iterator[tuple[Protector, int, int]]:
        """Who protects the pages in their processes, with address and size there."""
        for space in range(first // self.span, -(-(first + length) // self.span)):
            start, stop = max(first, space * self.span), min(first + length, (space + 1) * self.span)
            address = BASE + start % self.span * PAGE_BYTES
            for protector in self._protectors[space].values():
                yield protector, address, (stop - start) * PAGE_BYTES

    def read_out(self, page: int, into: memoryview) -> None:
        """Copy the present page into the 4096 bytes of `into`. Write-protect it first, or it may change meanwhile.

        Read from the memfd, not through a mapping: that would make holes present.
        """
        if self._state[page] not in PRESENCES:
            self._refuse(page, "read out")
        count = os.preadv(self.memory_fd, [into], page * PAGE_BYTES)
        if count != PAGE_BYTES:
            raise RegionError(
                f"page {page} gave {count} bytes, expected {PAGE_BYTES}",
                f"give a buffer of one page; this one has {into.nbytes} bytes",
            )

    def close(self) -> None:
        """Unregister every process and give the memory back, as far as no process maps it."""
        for fd in self.descriptors:
            self.unregister(fd)
        os.close(self.memory_fd)

    def _install_everywhere(self, page: int, source: int, writable: bool, wake: bool) -> None:
        """Install with any number of processes, in the order that lets none of them write too early."""
        space, number = divmod(page, self.span)
        processes = self._processes[space]
        protected = not writable or page in self._frozen
        if protected:
            self._apply(Userfaultfd.write_protect, page)
        done = None
        while done is None and processes:
            try:
                done = processes[0].copy(BASE + number * PAGE_BYTES, source, protected, wake)
            except ProcessGone:
                del processes[0]
        if done is None:
            # Nobody maps it who could see half a page.
            done = os.pwrite(self.memory_fd, ctypes.string_at(source, PAGE_BYTES), page * PAGE_BYTES) == PAGE_BYTES
        self._made_present(page, done, _WRITABLE if writable else _PROTECTED)
        if not protected:
            self._apply(Userfaultfd.write_unprotect, page, wake)
        elif wake:
            self._apply(Userfaultfd.wake, page)

    def _made_present(self, page: int, done: bool, state: int) -> None:
        if not done:
            raise RegionError(
                f"page {page} is present although it was never installed",
                "something other than this daemon wrote to the region's memfd",
            )
        self._state[page] = state
        self.resident += 1
        if self.resident > self.resident_most:
            self.resident_most = self.resident

    def _refuse(self, page: int, verb: str) -> NoReturn:
        raise RegionError(
            f"page {page} was to be {verb}, but is {'poisoned' if self._state[page] else 'absent'}",
            "the protocol's state of the page and its memory have parted",
        )

    def _apply(self, operation: Callable[..., None], page: int, *arguments: bool) -> None:
        """Do `operation` at the page in every process that lives; those that turn out to be gone are served no more."""
        space, number = divmod(page, self.span)
        address = BASE + number * PAGE_BYTES
        gone = []
        for process in self._processes[space]:
            try:
                operation(process, address, *arguments)
            except ProcessGone:
                gone.append(process)
        if gone:
            self._processes[space] = [process for process in self._processes[space] if process not in gone]


def map_shared(memory_fd: int, size_bytes: int, address: int = BASE, offset: int = 0) -> memoryview:
    """Map a region's memfd into this process, at `address` exactly, and give it as bytes.

    It stays mapped as long as the process lives. Raises RegionError when something else lies there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    got = libc.mmap(
        address,
        size_bytes,
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE,
        memory_fd,
        offset,
    )
    if got != address:
        # A kernel older than 4.17 ignores the flag and maps elsewhere; an error is the address -1.
        reason = os.strerror(ctypes.get_errno()) if got == _MAP_FAILED else f"the kernel chose {got:#x} instead"
        raise RegionError(
            f"the region of {size_bytes} bytes cannot be mapped at {address:#x}: {reason}",
            "EEXIST means that something is mapped there already; /proc/self/maps says what",
        )
    return memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")


def _changed(before: bytes, now: bytearray) -> Iterator[tuple[int, int, int]]:
    """State, first page and length of runs of pages that are present, and were not so before. Marks of pages that are
    absent do not matter: whoever installs them sees to that."""
    for first in range(0, len(now), _COMPARED):
        old, new = before[first : first + _COMPARED], now[first : first + _COMPARED]
        if old != new:
            differing = bytes(_ABSENT if a == b else b for a, b in zip(old, new, strict=True))
            for state in PRESENCES:
                yield from ((state, first + start, count) for start, count in _runs(differing, state))


def _runs(values: bytes | bytearray, wanted: int) -> Iterator[tuple[int, int]]:
    """First page and length of every run of pages that have the value `wanted`."""
    return ((run.start(), run.end() - run.start()) for run in _RUNS_OF[wanted].finditer(values))
