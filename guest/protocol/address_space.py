"""Which pages an address space has and what threads may do with them: a value, the same on every kernel of an epoch."""

from enum import IntEnum
from itertools import groupby
from typing import NamedTuple


class Access(IntEnum):
    """What threads may do with a page."""

    NONE = 0
    """It is not mapped."""
    READ = 1
    WRITE = 2
    """And read."""


class Kind(IntEnum):
    """What an operation does with its range."""

    MAP = 0
    UNMAP = 1
    PROTECT = 2
    MOVE = 3
    COPY = 4
    """Into the first free place for it, which the home kernel finds: see `AddressSpace.placed`."""


class Refusal(IntEnum):
    """Why an operation was not carried out."""

    NONE = 0
    NOT_IN_REGION = 1
    MAPPED_ALREADY = 2
    NOT_MAPPED = 3
    HOME_DIED = 4
    """Nobody is left to order the operations."""
    NO_ROOM = 5
    """There is no place for a copy."""
    DIED = 6
    """The kernel that was to do it has died."""


class Operation(NamedTuple):
    """One operation on a range of pages."""

    kind: Kind
    first: int
    length: int
    access: Access = Access.WRITE
    """MAP, PROTECT: what may be done with them from now on. One that is to be mapped allows reading at least."""
    to: int = 0
    """MOVE, COPY: the new number of the first page, or that of its copy."""
    asker: int = 0
    """COPY: the kernel that has asked for it."""

    @classmethod
    def of(cls, kind: int, first: int, length: int, access: int, to: int, asker: int = 0) -> "Operation":
        """From plain numbers. Raises ValueError on a kind or an access that there is not."""
        return cls(Kind(kind), first, length, Access(access), to, asker)

    def __str__(self) -> str:
        pages = f"page {self.first}" if self.length == 1 else f"pages {self.first} to {self.first + self.length - 1}"
        what = f"{self.kind.name.lower()} {pages}"
        if self.kind in _TWO_PLACES:
            return f"{what} to {self.to}"
        return f"{what} to {self.access.name.lower()}" if self.kind in (Kind.MAP, Kind.PROTECT) else what

    def pages(self) -> list[range]:
        """The ranges of pages it is about."""
        found = [range(self.first, self.first + self.length)]
        if self.kind in _TWO_PLACES:
            found.append(range(self.to, self.to + self.length))
        return found

    def touches(self, page: int) -> bool:
        """Whether it is about this page."""
        return any(page in pages for pages in self.pages())


_TWO_PLACES = (Kind.MOVE, Kind.COPY)


class AddressSpace(NamedTuple):
    """What may be done with each page of the region."""

    pages: tuple[Access, ...]

    @classmethod
    def empty(cls, pages: int) -> "AddressSpace":
        """Nothing is mapped."""
        return cls((Access.NONE,) * pages)

    @classmethod
    def full(cls, pages: int) -> "AddressSpace":
        """All is mapped and may be written."""
        return cls((Access.WRITE,) * pages)

    @classmethod
    def first(cls, mapped: int, pages: int) -> "AddressSpace":
        """Of `pages` pages the first `mapped` ones are mapped and may be written."""
        return cls((Access.WRITE,) * mapped + (Access.NONE,) * (pages - mapped))

    def runs(self) -> list[tuple[int, int, Access]]:
        """What is mapped, as runs of pages of the same access: (first, length, access)."""
        found: list[tuple[int, int, Access]] = []
        first = 0
        for access, pages in groupby(self.pages):
            length = sum(1 for _ in pages)
            if access is not Access.NONE:
                found.append((first, length, access))
            first += length
        return found

    def refusal(self, operation: Operation) -> Refusal:
        """Why the operation cannot be carried out; `Refusal.NONE` if it can."""
        source = operation.pages()[0]
        for pages in operation.pages():
            if not 0 <= pages.start < pages.stop <= len(self.pages):
                return Refusal.NOT_IN_REGION
        accesses = self.pages[source.start : source.stop]
        match operation.kind:
            case Kind.MAP:
                wrong = Refusal.MAPPED_ALREADY if any(accesses) else Refusal.NONE
            case Kind.UNMAP:
                wrong = Refusal.NONE  # what is not there is gone already, as with munmap(2)
            case Kind.PROTECT:
                wrong = Refusal.NONE if all(accesses) else Refusal.NOT_MAPPED
            case Kind.MOVE:
                taken = any(self.pages[page] for page in operation.pages()[1])
                wrong = Refusal.MAPPED_ALREADY if taken else Refusal.NONE if all(accesses) else Refusal.NOT_MAPPED
            case Kind.COPY:
                wrong = Refusal.NO_ROOM if any(self.pages[page] for page in operation.pages()[1]) else Refusal.NONE
        return wrong

    def placed(self, operation: Operation) -> Operation:
        """A COPY with its place: the first multiple of its length where nothing is mapped. Without room, its own."""
        length = operation.length
        for start in range(0, len(self.pages) - length + 1, length) if length > 0 else ():
            if not any(self.pages[start : start + length]):
                return operation._replace(to=start)
        return operation._replace(to=operation.first)

    def after(self, operation: Operation) -> "AddressSpace":
        """The space once the operation, which is not refused, has been carried out."""
        pages = list(self.pages)
        source = slice(operation.first, operation.first + operation.length)
        if operation.kind is Kind.MOVE:
            pages[operation.to : operation.to + operation.length] = pages[source]
            pages[source] = [Access.NONE] * operation.length
        elif operation.kind is Kind.COPY:
            pages[operation.to : operation.to + operation.length] = pages[source]
        else:
            access = Access.NONE if operation.kind is Kind.UNMAP else operation.access
            pages[source] = [access] * operation.length
        return AddressSpace(tuple(pages))
