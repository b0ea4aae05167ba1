"""Mapping memory, as a program does it: for all kernels at once."""

from collections.abc import Callable

from guest.link.segment import PAGE_BYTES
from guest.protocol.address_space import Access, Kind, Operation, Refusal

REFUSED = {
    Refusal.NOT_IN_REGION: "it reaches beyond the region",
    Refusal.MAPPED_ALREADY: "something is mapped there already",
    Refusal.NOT_MAPPED: "something of it is not mapped",
    Refusal.HOME_DIED: "the home kernel, which orders such operations, has died",
    Refusal.NO_ROOM: "there is no room for a copy",
    Refusal.DIED: "the kernel has died",
}


class MappingRefused(OSError):
    """An operation on the address space was not carried out, on any kernel."""

    def __init__(self, operation: Operation, refusal: Refusal) -> None:
        super().__init__(f"{operation}: refused: {REFUSED[refusal]}")
        self.operation, self.refusal = operation, refusal


class Mapping:
    """What may be done to the address space; for classes that have memory."""

    _operate: Callable[[Operation], Refusal] | None
    _own = range(0)
    """Bytes of the memory to which nothing of that may be done."""

    def map(self, offset: int, size: int, *, writable: bool = True) -> None:
        """Map memory on all kernels: zeros, where nothing is mapped. All offsets and sizes are whole pages, in bytes.

        This and the next three return when it is done everywhere. They raise MappingRefused, and nothing has changed.
        """
        self._change(Kind.MAP, offset, size, Access.WRITE if writable else Access.READ)

    def unmap(self, offset: int, size: int) -> None:
        """Unmap memory on all kernels: whoever touches it is ended by SIGSEGV."""
        self._change(Kind.UNMAP, offset, size)

    def protect(self, offset: int, size: int, *, writable: bool) -> None:
        """Let mapped memory only be loaded from, or stored to again, on all kernels: SIGSEGV ends who still stores."""
        self._change(Kind.PROTECT, offset, size, Access.WRITE if writable else Access.READ)

    def move(self, offset: int, size: int, to: int) -> None:
        """Move mapped memory, with what it holds, to another offset where nothing is mapped, on all kernels."""
        self._change(Kind.MOVE, offset, size, to=to)

    def _change(self, kind: Kind, offset: int, size: int, access: Access = Access.WRITE, to: int = 0) -> None:
        if not all(isinstance(number, int) for number in (offset, size, to)):
            raise ValueError(f"{kind.name.lower()} {size!r} at {offset!r}: expected numbers of bytes")
        if offset % PAGE_BYTES or size % PAGE_BYTES or to % PAGE_BYTES or min(offset, size - 1, to) < 0:
            found = f"{kind.name.lower()} {size} bytes at {offset}" + (f" to {to}" if kind is Kind.MOVE else "")
            raise ValueError(f"{found}: expected whole pages of {PAGE_BYTES} bytes")
        starts = (offset, to) if kind is Kind.MOVE else (offset,)
        if any(start < self._own.stop and start + size > self._own.start for start in starts):
            own = f"{len(self._own)} bytes from {self._own.start} on are the process's own"
            raise ValueError(f"{kind.name.lower()} {size} bytes at {' to '.join(map(str, starts))}: {own}")
        assert self._operate is not None, "scripts run on memory that can be mapped"
        operation = Operation(kind, offset // PAGE_BYTES, size // PAGE_BYTES, access, to // PAGE_BYTES)
        refusal = self._operate(operation)
        if refusal is not Refusal.NONE:
            raise MappingRefused(operation, refusal)
