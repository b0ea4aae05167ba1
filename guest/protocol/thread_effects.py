"""What the engine of threads asks its surroundings to do, beside sending messages.

A thread is named by its number. Its *process* on a kernel is whatever can run it there; between two steps of the thread
its *state* can be taken out of one process and put into another.
"""

from enum import IntEnum
from typing import NamedTuple

from guest.protocol.effects import Send


class Placement(IntEnum):
    """Where a thread that arrived found a process to run it."""

    REFUSED = 0
    """Nowhere: it stays where it was."""
    BACK = 1
    """In its own placeholder: it has been here before."""
    CLONED = 2
    """In the pool of processes that wait here for threads."""
    CREATED = 3
    """In the pool too, once the process had joined: this is its first thread here."""


class Why(IntEnum):
    """Why a thread that was to migrate stays."""

    HERE = 1
    """It is there already."""
    REFUSED = 2
    """The destination has no process for it."""
    DIED = 3
    """The destination is dead, or no kernel that this process may use."""


class Life(IntEnum):
    """What is known of a thread that somebody asked after."""

    ALIVE = 1
    """It has not ended; of the kernel that says so: there will be another word when it is no more."""
    GONE = 2
    """It has ended, or died with its kernel."""
    UNKNOWN = 3
    """Nothing, and nobody will know: the kernel where it began has died."""


class Run(NamedTuple):
    """The thread may run here from now on, in the process that began it or that was made ready for it.

    The PLACED before it, of one that arrived, must be where its receiver can read it, whatever happens here.
    """

    thread: int


class Stay(NamedTuple):
    """The thread that was to migrate goes on here, in the process that it never left."""

    thread: int
    why: Why


class TakeState(NamedTuple):
    """Lay the thread's state aside: it came with the message being handled, whose slot goes back."""

    thread: int


class DropState(NamedTuple):
    """Forget the state that was laid aside, and nothing else."""

    thread: int


class Create(NamedTuple):
    """Join the distributed process: get its address space, and a pool of processes that wait for threads.

    Answered by `created`, or by `refused` of every thread that is to be placed. A Dissolve that comes before the
    answer takes it back: no answer is expected any more.
    """


class Place(NamedTuple):
    """Get a process ready that can run the thread, with the state laid aside: for BACK its placeholder. Answered by
    `placed` or `refused`, at once or later, unless a Drop of the thread comes first."""

    thread: int
    placement: Placement


class Drop(NamedTuple):
    """The thread that arrived does not run here: forget its state; a process made ready for it is again what it was."""

    thread: int


class Park(NamedTuple):
    """The thread has gone: its process here becomes its placeholder. What it held in memory of the state is void."""

    thread: int
    to: int
    placement: Placement
    """How the destination has placed it."""


class EndThread(NamedTuple):
    """End the thread, which is here: the group ends."""

    thread: int


class EndPlaceholder(NamedTuple):
    """End the thread's placeholder: the thread will not come back."""

    thread: int


class Lost(NamedTuple):
    """A kernel died, and with it this thread, which had been here (or had been about to arrive).

    One that had ended there counts as lost too, if the word of that died with it.
    """

    thread: int


class Fate(NamedTuple):
    """What has become of a thread, for all on this kernel who asked."""

    thread: int
    life: Life


class Dissolve(NamedTuple):
    """The process is over here: end its pool, unmap its memory. No thread and no placeholder of it is left."""


class GroupEnded(NamedTuple):
    """At home: the process is over on every living kernel."""


ThreadEffect = (
    Send
    | Run
    | Stay
    | TakeState
    | Create
    | Place
    | Drop
    | DropState
    | Park
    | EndThread
    | EndPlaceholder
    | Lost
    | Fate
    | Dissolve
    | GroupEnded
)
"""To be carried out in order, completely, before the next event. A Send of THREAD_MIGRATE takes the thread's state as
it is at this moment: its process does not run."""
