"""The shared segment: what lies where in the memory that all kernels and the host map.

    header          one page: magic, layout version, sizes
    node table      one page per kernel: who it is, heartbeat, waiting word, suspects, counters
    pair (0→1)      control page · ring of 64-byte message slots · page slots
    pair (0→2)      …                                          every ordered pair of kernels

A pair is written by one kernel and read by one other, so no word of the segment has two writers and no atomic operation
is needed, which CPUs of different instruction sets could not be trusted to share anyway. There is no broadcast ring: a
second path between two kernels would let one class of messages overtake another.

Who writes what:

- the host writes everything once, before any kernel opens the segment (`format_segment`), the magic last;
- kernel i writes its own page of the node table, and in the pair (i→j) the ring, its head, and the page slots;
- kernel j writes in the pair (i→j) the tail and the count of page slots it has released, which share a cache line.

All words are unsigned, 64 bits, little-endian and aligned, so that each is read and written in one piece. Heads, tails
and page counts only grow; their remainder is the index. Cache lines are taken as 128 bytes, the largest of the CPUs
that matter, so that no line is written by both sides.
"""

import ctypes
from enum import IntEnum
from typing import NamedTuple

from guest.errors import SegmentError
from guest.link.fence import full_fence
from guest.protocol.messages import STAMP, WIRE_VERSION

MAGIC = int.from_bytes(b"mk-segmt", "little")
LAYOUT_VERSION = 3
PAGE_BYTES = 4096
SLOT_BYTES = 64
KERNELS_MAX = 64
"""Copysets travel as one 64-bit mask."""

_WORD = 8
_LINE_WORDS = 128 // _WORD

# Header, in words.
_H_MAGIC, _H_VERSION, _H_KERNELS, _H_RING_SLOTS, _H_PAGE_SLOTS, _H_PAGE_BYTES, _H_SIZE, _H_GENERATION = range(8)

# A kernel's page of the node table, in words from its start.
_N_KERNEL, _N_ISA, _N_PEER, _N_STATE = range(4)
_N_HEARTBEAT = _LINE_WORDS
_N_WAITING = 2 * _LINE_WORDS
_N_SUSPECTS = 3 * _LINE_WORDS
_N_MESSAGES = 4 * _LINE_WORDS
MESSAGE_COUNTERS = 32
_N_FAULTS = _N_MESSAGES + MESSAGE_COUNTERS
FAULT_COUNTERS = 16
_N_DOORBELLS = _N_FAULTS + FAULT_COUNTERS
_N_SLEEPS = _N_DOORBELLS + 1
_N_LOAD = _N_SLEEPS + 1

# A pair's control page, in words from its start.
PAIR_HEAD = 0
PAIR_TAIL = 2 * _LINE_WORDS
PAIR_RELEASED = PAIR_TAIL + 1

WORD_MASK = 2**64 - 1
NO_PEER = WORD_MASK
"""In the node table: the kernel has not said yet under which id its doorbell is rung."""

_SIZES = ((256, 32), (256, 16), (256, 8), (128, 8), (64, 4))
"""(message slots, page slots) of a pair, most wanted first; the first that fits the segment is taken."""


class ISA(IntEnum):
    """Instruction sets, as numbers for the node table; the names in lower case are the kernel's (`uname -m`)."""

    UNKNOWN = 0
    X86_64 = 1
    AARCH64 = 2
    RISCV64 = 3

    @classmethod
    def of(cls, machine: str) -> "ISA":
        """The number of `machine`, as `os.uname().machine` says it."""
        return cls.__members__.get(machine.upper(), cls.UNKNOWN)


class NodeState(IntEnum):
    """How far a kernel's daemon is."""

    ABSENT = 0
    OPEN = 1
    RUNNING = 2
    CLOSED = 3
    LEFT = 4
    """Closed, and another kernel has all that it had."""


class Layout(NamedTuple):
    """Sizes of a segment, and with them every offset in bytes. `ring_slots` and `page_slots` are powers of two."""

    kernels: int
    ring_slots: int
    page_slots: int

    @classmethod
    def fit(cls, size_bytes: int, kernels: int) -> "Layout":
        """The roomiest layout for `kernels` in `size_bytes`. Raises SegmentError if not even the smallest fits."""
        if not 2 <= kernels <= KERNELS_MAX:
            raise SegmentError(
                f"a segment for {kernels} kernels was asked for, expected 2 to {KERNELS_MAX}",
                "change the nodes of the link",
            )
        for ring_slots, page_slots in _SIZES:
            layout = cls(kernels, ring_slots, page_slots)
            if layout.size_bytes <= size_bytes:
                return layout
        raise SegmentError(
            f"a segment of {size_bytes} bytes is too small for {kernels} kernels, "
            f"which need at least {layout.size_bytes}",
            "give the link a larger size; QEMU wants a power of two",
        )

    @classmethod
    def least_bytes(cls, kernels: int) -> int:
        """Size of the smallest segment for so many kernels."""
        return min(cls(kernels, *slots).size_bytes for slots in _SIZES)

    @property
    def pair_bytes(self) -> int:
        """Bytes of one ordered pair."""
        return PAGE_BYTES + self.ring_slots * SLOT_BYTES + self.page_slots * PAGE_BYTES

    @property
    def pairs_offset(self) -> int:
        """Where the pairs begin."""
        return PAGE_BYTES * (1 + self.kernels)

    @property
    def size_bytes(self) -> int:
        """Bytes used of the segment."""
        return self.pairs_offset + self.kernels * (self.kernels - 1) * self.pair_bytes

    def node_offset(self, kernel: int) -> int:
        """Where the page of `kernel` in the node table begins."""
        self._check(kernel)
        return PAGE_BYTES * (1 + kernel)

    def pair_offset(self, sender: int, receiver: int) -> int:
        """Where the pair (sender→receiver) begins: its control page."""
        self._check(sender)
        self._check(receiver)
        if sender == receiver:
            raise SegmentError(f"kernel {sender} has no ring to itself", "name two different kernels")
        column = receiver if receiver < sender else receiver - 1
        return self.pairs_offset + (sender * (self.kernels - 1) + column) * self.pair_bytes

    def ring_offset(self, sender: int, receiver: int) -> int:
        """Where the message slots of the pair begin."""
        return self.pair_offset(sender, receiver) + PAGE_BYTES

    def pages_offset(self, sender: int, receiver: int) -> int:
        """Where the page slots of the pair begin, a multiple of the page size."""
        return self.ring_offset(sender, receiver) + self.ring_slots * SLOT_BYTES

    def _check(self, kernel: int) -> None:
        if not 0 <= kernel < self.kernels:
            raise SegmentError(
                f"kernel {kernel} is not in this segment, which is formatted for kernels 0 to {self.kernels - 1}",
                "the kernel id is the place of the node in the experiment's file",
            )


class Node:
    """A kernel's page of the node table. Written by that kernel, read by all, the host included."""

    __slots__ = ("_first", "_words", "waiting_word")

    def __init__(self, words: memoryview, offset: int) -> None:
        self._words = words
        self._first = offset // _WORD
        self.waiting_word = self._first + _N_WAITING
        """Index of the waiting word in `Segment.words`, for `guest.link.notify`."""

    @property
    def kernel(self) -> int:
        """Its id."""
        return self._get(_N_KERNEL)

    @property
    def isa(self) -> ISA:
        """Its instruction set, UNKNOWN until its daemon has opened the segment."""
        return ISA(self._get(_N_ISA))

    @property
    def peer(self) -> int | None:
        """The id under which its doorbell is rung (its ivshmem peer id); None until it is published."""
        peer = self._get(_N_PEER)
        return None if peer == NO_PEER else peer

    @property
    def state(self) -> NodeState:
        """How far its daemon is."""
        return NodeState(self._get(_N_STATE))

    @state.setter
    def state(self, state: NodeState) -> None:
        self._set(_N_STATE, state)

    @property
    def heartbeat(self) -> int:
        """Grows while the daemon lives. Compare it with what it was, not with a clock: every guest has its own."""
        return self._get(_N_HEARTBEAT)

    def beat(self) -> None:
        """Say that this kernel's daemon lives."""
        self._add(_N_HEARTBEAT)

    @property
    def suspects(self) -> int:
        """Mask of the kernels that it has given up; see `guest.link.membership`."""
        return self._get(_N_SUSPECTS)

    @suspects.setter
    def suspects(self, mask: int) -> None:
        self._set(_N_SUSPECTS, mask)

    @property
    def waiting(self) -> bool:
        """Whether it sleeps, or is about to, and must be woken by its doorbell."""
        return self._get(_N_WAITING) != 0

    @property
    def messages(self) -> list[int]:
        """Messages sent, indexed by MessageName."""
        first = self._first + _N_MESSAGES
        return self._words[first : first + MESSAGE_COUNTERS].tolist()

    @property
    def faults(self) -> list[int]:
        """Faults served, indexed by a number that the daemon gives to each kind."""
        first = self._first + _N_FAULTS
        return self._words[first : first + FAULT_COUNTERS].tolist()

    def count_fault(self, kind: int) -> None:
        """Count one fault of `kind`, 0 to 15."""
        self._add(_N_FAULTS + kind)

    @property
    def doorbells(self) -> int:
        """How often this kernel rang another's doorbell."""
        return self._get(_N_DOORBELLS)

    def count_doorbell(self) -> None:
        """Count one ring of another kernel's doorbell."""
        self._add(_N_DOORBELLS)

    @property
    def sleeps(self) -> int:
        """How often this kernel's daemon went to sleep on its doorbell."""
        return self._get(_N_SLEEPS)

    def count_sleep(self) -> None:
        """Count one sleep on the doorbell."""
        self._add(_N_SLEEPS)

    @property
    def load(self) -> int:
        """Threads of a process that run here, without those that sleep until they are woken."""
        return self._get(_N_LOAD)

    @load.setter
    def load(self, threads: int) -> None:
        self._set(_N_LOAD, threads)

    def publish(self, isa: ISA, peer: int) -> None:
        """Say who this kernel is and how to ring it; the state becomes OPEN after that."""
        self._set(_N_ISA, isa)
        self._set(_N_PEER, peer)
        self._set(_N_WAITING, 0)
        full_fence()
        self._set(_N_STATE, NodeState.OPEN)

    @property
    def message_words(self) -> int:
        """Index of the first counter of `messages` in `Segment.words`."""
        return self._first + _N_MESSAGES

    def _add(self, word: int) -> None:
        """One more; whatever somebody has written there, it stays a word."""
        words, index = self._words, self._first + word
        words[index] = words[index] + 1 & WORD_MASK

    def _get(self, word: int) -> int:
        value: int = self._words[self._first + word]
        return value

    def _set(self, word: int, value: int) -> None:
        self._words[self._first + word] = value


class Segment:
    """A formatted segment, mapped here: its bytes (`memory`), the same as 64-bit words (`words`), where it is."""

    __slots__ = ("address", "generation", "layout", "memory", "nodes", "words")

    def __init__(self, memory: memoryview, layout: Layout) -> None:
        self.memory = memory
        self.layout = layout
        self.words = word_view(memory)
        self.address = 0 if memory.readonly else address_of(memory)
        """Where it is mapped; 0 for an onlooker's read-only mapping."""
        self.generation: int = self.words[_H_GENERATION]
        """How often this memory was formatted; another number later means it was formatted under us."""
        self.nodes = [Node(self.words, layout.node_offset(kernel)) for kernel in range(layout.kernels)]

    @classmethod
    def open(cls, buffer: memoryview) -> "Segment":
        """The segment in `buffer`, which may be read-only for an onlooker.

        Raises SegmentError unless it is formatted as expected.
        """
        if buffer.nbytes < PAGE_BYTES:
            raise SegmentError(
                f"a segment of {buffer.nbytes} bytes cannot hold even its header of {PAGE_BYTES}",
                "is this the memory of the link?",
            )
        words = word_view(buffer)
        magic, version, kernels, ring_slots, page_slots, page_bytes, size_bytes, _ = words[:8].tolist()
        if magic != MAGIC:
            raise SegmentError(
                f"magic {magic:#018x} at the start of the segment, expected {MAGIC:#018x}",
                "the host formats the segment before it asks a daemon to open it"
                if magic == 0
                else "another's memory?",
            )
        if version != LAYOUT_VERSION:
            raise SegmentError(
                f"segment of layout version {version}, this side knows {LAYOUT_VERSION}",
                "host and guest run different versions of this project: deploy again",
            )
        layout = Layout(kernels, ring_slots, page_slots)
        powers = all(count > 0 and count & (count - 1) == 0 for count in (ring_slots, page_slots))
        if not 2 <= kernels <= KERNELS_MAX or not powers or page_bytes != PAGE_BYTES or size_bytes != layout.size_bytes:
            raise SegmentError(
                f"header says {kernels} kernels, {ring_slots} message slots, {page_slots} page slots of {page_bytes} "
                f"bytes, {size_bytes} bytes in all: these do not belong together",
                "the header was overwritten: format the segment again",
            )
        if size_bytes > buffer.nbytes:
            raise SegmentError(
                f"segment formatted for {size_bytes} bytes, only {buffer.nbytes} are mapped here",
                "host and guest must map the whole link",
            )
        return cls(buffer, layout)


def format_segment(buffer: memoryview, kernels: int) -> Segment:
    """Make `buffer` an empty segment for `kernels` kernels: the host's first act, while no daemon has it open.

    Raises SegmentError when it is too small or the number of kernels is out of range.
    """
    layout = Layout.fit(buffer.nbytes, kernels)
    words = word_view(buffer)
    # Whatever the memory held, and wherever an earlier formatting was cut off: a daemon that has it open sees a change.
    generation = (words[_H_GENERATION] + 1) & WORD_MASK
    words[_H_MAGIC] = 0
    full_fence()
    words[_H_GENERATION] = generation
    _clear(buffer, _WORD, _H_GENERATION * _WORD)
    _clear(buffer, (_H_GENERATION + 1) * _WORD, layout.pairs_offset)
    for kernel in range(kernels):
        first = layout.node_offset(kernel) // _WORD
        words[first + _N_KERNEL] = kernel
        words[first + _N_PEER] = NO_PEER
        ring = STAMP.pack(WIRE_VERSION, kernel).ljust(SLOT_BYTES, b"\0") * layout.ring_slots
        for other in range(kernels):
            if other != kernel:
                _clear(buffer, layout.pair_offset(kernel, other), layout.ring_offset(kernel, other))
                buffer[layout.ring_offset(kernel, other) : layout.pages_offset(kernel, other)] = ring
    words[_H_VERSION] = LAYOUT_VERSION
    words[_H_KERNELS] = kernels
    words[_H_RING_SLOTS] = layout.ring_slots
    words[_H_PAGE_SLOTS] = layout.page_slots
    words[_H_PAGE_BYTES] = PAGE_BYTES
    words[_H_SIZE] = layout.size_bytes
    full_fence()
    words[_H_MAGIC] = MAGIC
    return Segment(buffer, layout)


def address_of(buffer: memoryview) -> int:
    """The address of a writable buffer in this process. It stays valid as long as the buffer is mapped."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def word_view(buffer: memoryview) -> memoryview:
    """`buffer` as 64-bit words; bytes at the end that do not fill a word are left out."""
    octets = buffer.cast("B")
    return octets[: len(octets) // _WORD * _WORD].cast("Q")


def _clear(buffer: memoryview, start: int, end: int) -> None:
    buffer[start:end] = bytes(end - start)
