"""What an engine asks its surroundings to do.

An engine turns an event into a list of effects, to be carried out in order, completely, before the next event is given
to it. The daemon carries them out with userfaultfd and rings, the simulator and the model checker on plain data.

What an engine tells others about a page comes behind what it takes from its own threads: a Protect or Discard of a page
never follows a Send about it. Others act upon a message at once, while whatever follows it may be late.
"""

from typing import NamedTuple

from guest.protocol.address_space import Access, Refusal
from guest.protocol.messages import Message


class Send(NamedTuple):
    """Send `message` to kernel `to`. A PAGE_DATA takes the page's bytes as they are at this moment."""

    to: int
    message: Message
    discard: bool = False
    """Drop the page before anybody can see the message: its receiver may write at once, and a thread here that could
    still read would read a stale value."""


class Install(NamedTuple):
    """Make the page present with the payload of the message being handled (or of the kept one, if `kept`)."""

    page: int
    writable: bool
    wake: bool
    """Wake the threads that wait for the page; false when a grant for a waiting writer is still to come."""
    kept: bool


class Keep(NamedTuple):
    """Copy the payload of the message being handled aside: its slot goes back, and other answers are awaited."""

    page: int


class Forget(NamedTuple):
    """Drop the kept payload of the page, if there is one."""

    page: int


class Zero(NamedTuple):
    """Make the page present and zero, and wake its waiters."""

    page: int
    writable: bool


class Grant(NamedTuple):
    """Let the present page be written, and wake its waiters."""

    page: int


class Protect(NamedTuple):
    """Write-protect the present page."""

    page: int


class Discard(NamedTuple):
    """Drop the page: not present until installed again."""

    page: int


class Wake(NamedTuple):
    """Wake the threads that wait for the page; they try their access again."""

    page: int


class Poison(NamedTuple):
    """The page's only valid copy died with its kernel: whoever touches it gets SIGBUS."""

    page: int


class Allow(NamedTuple):
    """What threads may do with these pages from now on; with `Access.NONE` what they hold is gone too."""

    first: int
    length: int
    access: Access


class Relocate(NamedTuple):
    """These pages, with all that they hold and allow, have other numbers now, the first one `to`."""

    first: int
    length: int
    to: int


class Freeze(NamedTuple):
    """No thread stores to these pages from now on, until a Duplicate of them: who does waits."""

    first: int
    length: int


class Duplicate(NamedTuple):
    """Make a copy of these pages, with all that they hold and allow, the first one numbered `to`, where there is
    nothing; then let threads store to them again."""

    first: int
    length: int
    to: int
    asker: int
    """The kernel that has asked for it."""
    epoch: int
    """Of this copy, and of no other."""


class SpaceDone(NamedTuple):
    """The operation on the address space that was asked for under this number is done on every kernel, or refused."""

    request: int
    refusal: Refusal
    epoch: int = 0
    """Every kernel has reached it."""
    to: int = 0
    """Number of the first page of a copy."""


class Joined(NamedTuple):
    """This kernel is in the kernel set now, and its threads may begin; or it is not, and why."""

    refusal: Refusal


class Queued(NamedTuple):
    """The wait that was asked for under this number is queued: its thread looks at the word once more, now."""

    request: int


class Woken(NamedTuple):
    """The wait of this number is over: the word has reached the value, and its thread can see it."""

    request: int


class WaitLost(NamedTuple):
    """The wait of this number is over, as `kernel` died: what is waited for may never come."""

    request: int
    kernel: int


PageEffect = Send | Install | Keep | Forget | Zero | Grant | Protect | Discard | Wake | Poison
SpaceEffect = Allow | Relocate | Freeze | Duplicate | SpaceDone | Joined
FutexEffect = Send | Queued | Woken | WaitLost
Effect = PageEffect | SpaceEffect
