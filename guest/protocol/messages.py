"""What kernels say to each other: the names of the messages, their fields, and their form in a ring slot.

Every message has the same fixed layout of 56 bytes, little-endian, version byte first, so that it fits a 64-byte ring
slot whatever it says. A message that carries a page names a *page slot* (see `guest.link.segment`); the page itself is
never cut into pieces.

The engine, the simulator and the model checker handle `Message` tuples only; `pack` and `unpack` are for the rings.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

WIRE_VERSION = 2
"""First byte of every slot; a receiver refuses any other."""


class MessageName(IntEnum):
    """Explained in docs/protocol.md; the numbers are wire format and index the counters of the shared segment."""

    PAGE_REQUEST = 1
    PAGE_DATA = 2
    PAGE_ABSENT = 3
    INVALIDATE = 4
    VOTE = 5
    ABANDON = 6
    """A writer that lost a vote gives up: the winner must no longer wait for it (our addition)."""
    GRANT = 7
    """Write the copy that you have: the origin protocol's answer without a page."""
    JOIN = 8
    """An outsider to home: let me in; home to the others: it is in (`page` is its id). See `guest.protocol.space`."""
    JOINED = 9
    """To home: I know that it is in; home to the newcomer: you are in, and this is what is mapped."""
    THREAD_ROLL = 10
    """A kernel died, and this thread is here: see `guest.protocol.threads`."""
    SPACE_LOCK = 11
    """Of the address space: `guest.protocol.space` says what these four are for."""
    SPACE_LOCKED = 12
    SPACE_OP = 13
    SPACE_DONE = 14
    THREAD_MIGRATE = 15
    """Of the threads of a process, as are those down to GROUP_EXIT: see `guest.protocol.threads`. This one carries the
    thread's state in a page slot, as PAGE_DATA carries a page."""
    THREAD_PLACED = 16
    THREAD_EXIT = 17
    THREAD_COUNT = 18
    GROUP_EXIT = 19
    FUTEX_WAIT = 20
    """Of threads that wait for each other: `guest.protocol.futex` says what these three are for."""
    FUTEX_WAKE = 21
    FUTEX_ANSWER = 22
    BARRIER = 23
    """The test harness's, not the protocol's; counted apart."""
    CONTROL = 24
    LEAVE = 25
    """Take this page over from me, for I leave; with GRANT: I have. Between daemons, see `guest.daemon.leaving`."""
    EVICT = 26
    """Take this page, for I have too many; with NO_ROOM: so have I. Between daemons, see `guest.daemon.eviction`."""
    PROCESS_FORK = 27
    """Of processes that begin as copies: see `guest.protocol.forks`. This one carries a state, as a migration does."""
    PROCESS_FORKED = 28
    THREAD_WATCH = 29
    """What has become of this thread: see `guest.protocol.watch`."""


class Flag(IntFlag):
    """What a message says beside its fields."""

    NONE = 0
    FETCH = 1
    """PAGE_REQUEST: first touch, every other kernel of the set is asked."""
    FOR_WRITE = 2
    """PAGE_REQUEST: the asker lost a vote and is one of the losers the winner serves. In the origin protocol: the
    asker is going to write; PAGE_DATA: this is the only copy, its receiver may write."""
    GRANT = 4
    """VOTE: the invalidation is granted."""
    ALSO_WRITING = 8
    """VOTE: the voter has a write of its own in flight (its timestamp is in `stamp`) or holds the page M."""
    FETCHING = 16
    """PAGE_ABSENT: no page here yet, but this kernel is fetching it too."""
    LOST = 32
    """PAGE_ABSENT: the only valid copy died with its kernel."""
    NO_ROOM = 64
    """EVICT: the page cannot be taken here."""
    ASSURED = 128
    """PAGE_ABSENT: the page never was here, and the sender was there from the beginning and has heard of all fetches:
    without LOST, nobody who has died had fetched it."""


class Message(NamedTuple):
    """One message, without sender and receiver: those belong to the ring it travels in."""

    name: int
    """A `MessageName`."""
    page: int = 0
    """Page number inside the region, from 0."""
    request: int = 0
    """Id chosen by the asker, repeated by every answer, so that a late answer never meets a newer request."""
    flags: int = 0
    """Bits of `Flag`."""
    version: int = 0
    """How often the page was granted for writing. PAGE_REQUEST: the lowest version that helps; PAGE_ABSENT: of the copy
    that was there once."""
    copyset: int = 0
    """Bit k set: kernel k was given a copy at some time. 64 kernels at most on the wire, any number in memory.

    In a PAGE_REQUEST: the kernels that the asker knows to be dead. Who has not heard of them yet answers later."""
    stamp: int = 0
    """Lamport timestamp, `counter << 16 | kernel`: integers compare as the pairs do. Of the write that the message is
    about (a voter's own write in VOTE); in PAGE_DATA and PAGE_ABSENT, the answering kernel's clock."""
    epoch: int = 0
    """Number of address-space operations the sender had applied."""
    slot: int = 0
    """Sequence number of the page slot that holds the payload. Written by the ring; the engine leaves it 0."""


STAMP = Struct("<BB")
"""The first two bytes of a slot: wire version, sender. They are the same in all slots of a ring, and written once."""
STAMP_BYTES = STAMP.size
FIELDS = Struct("<H4xQIIQQQII")
"""The rest: the fields of `Message` in their own order, so that a slot becomes a message without touching them one by
one. In a slot, every field lies at a multiple of its size, as device memory on arm64 demands."""
WIRE_BYTES = STAMP_BYTES + FIELDS.size

new_tuple = tuple.__new__
"""`new_tuple(Message, fields)` is Message._make(fields) without its check of the length. For this and other tuples on
the way of a fault or a migration: their own constructors are Python."""


def pack_into(buffer: memoryview, offset: int, sender: int, message: Message) -> None:
    """Write `message` into a ring slot at `offset` bytes."""
    STAMP.pack_into(buffer, offset, WIRE_VERSION, sender)
    FIELDS.pack_into(buffer, offset + STAMP_BYTES, *message)


def unpack_from(buffer: memoryview, offset: int) -> tuple[int, Message]:
    """Read the slot at `offset`: the sender it names, and the message. Raises ValueError on another wire version."""
    version, sender = STAMP.unpack_from(buffer, offset)
    if version != WIRE_VERSION:
        raise ValueError(f"message of wire version {version}, this side speaks {WIRE_VERSION}")
    return sender, new_tuple(Message, FIELDS.unpack_from(buffer, offset + STAMP_BYTES))
