"""A process and a thread that come to this kernel, as the engine of threads (`guest.protocol.threads`) knows them."""

from enum import IntEnum
from typing import NamedTuple

from guest.protocol.thread_effects import Placement


class Part(IntEnum):
    """What this kernel has of the process."""

    NONE = 0
    """Nothing, not yet or not any more."""
    CREATING = 1
    """It is joining."""
    THERE = 2


class Stage(IntEnum):
    """How far a thread that arrives has come."""

    JOINING = 0
    """It waits until the process is created here."""
    PLACING = 1
    """It waits for a process."""
    PLACED = 2
    """It has one, but its source has still to call the roll."""


class Arrival(NamedTuple):
    """A thread on its way here: it is still the source's."""

    source: int
    copyset: int
    """Mask of the kernels that have a placeholder of it, once it is here."""
    placement: Placement
    stage: Stage
