"""Failures inside a guest: what was seen, where, what was expected, and a hint what to do.

They mirror the host's `Failure` without importing it: the guest side stands on the standard library alone. The agent
reports them by `kind`, so that the host can tell a broken guest from a broken protocol.
"""


class GuestFailure(Exception):
    """An end that the user is told about."""

    kind = "guest"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class UnsupportedISA(GuestFailure):
    """The machine's instruction set has no entry in a table of this package."""

    kind = "isa"


class SegmentError(GuestFailure):
    """The shared segment is not what this side expects: magic, layout version, sizes, a kernel id."""

    kind = "segment"


class RingError(GuestFailure):
    """A ring holds what no sender of this version writes: the segment was overwritten or formatted under a daemon."""

    kind = "ring"


class LinkError(GuestFailure):
    """The device or descriptors that join the kernels cannot be used."""

    kind = "link"


class UserfaultfdError(GuestFailure):
    """The kernel refuses a userfaultfd operation, or lacks a feature that is needed."""

    kind = "userfaultfd"


class RegionError(GuestFailure):
    """The shared region of the applications cannot be kept coherent: a page out of range, memory that is gone."""

    kind = "region"


class ThreadError(GuestFailure):
    """A thread of a process over several kernels did what threads cannot do."""

    kind = "thread"
