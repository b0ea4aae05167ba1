"""Atomic accesses to 64-bit words of memory, for Python: machine code, as CPython has none.

A page of the coherent memory that can be written is writable on one kernel alone, so an atomic instruction of that
kernel's CPU is atomic for all kernels, whatever their instruction sets. An instruction that meets a page which is not
there, or is write-protected, has done nothing yet: it faults, and is done as a whole once the page is there. A pair of
load-exclusive and store-exclusive may fault in either, and starts over until no fault comes between them.

All of them are full fences, too: what a thread did before comes before, for every other CPU, and what it does later
comes after.
"""

import ctypes
import os
from typing import NamedTuple

from guest.link.machine_code import for_this_isa, map_code
from guest.link.segment import address_of

WORD_BYTES = 8
_MASK = (1 << 64) - 1
_AT_HWCAP = 16
_HWCAP_ATOMICS = 1 << 8
"""arm64: the CPU has the atomic instructions of ARMv8.1 (Linux, Documentation/arch/arm64/elf_hwcaps.rst)."""


class Codes(NamedTuple):
    """C functions: load(address), fetch_add(address, number), compare_exchange(address, expected, new); the last one
    returns what it found."""

    load: bytes
    fetch_add: bytes
    compare_exchange: bytes


AARCH64_EXCLUSIVE = Codes(
    # ldar x0,[x0] · dmb ish · ret
    bytes.fromhex("00fcdfc8 bf3b03d5 c0035fd6"),
    # mov x3,x0 · dmb ish · 1: ldxr x0,[x3] · add x2,x0,x1 · stxr w4,x2,[x3] · cbnz w4,1b · dmb ish · ret
    bytes.fromhex("e30300aa bf3b03d5 607c5fc8 0200018b 627c04c8 a4ffff35 bf3b03d5 c0035fd6"),
    # mov x3,x0 · dmb ish · 1: ldxr x0,[x3] · cmp x0,x1 · b.ne 2f · stxr w4,x2,[x3] · cbnz w4,1b · 2: dmb ish · ret
    bytes.fromhex("e30300aa bf3b03d5 607c5fc8 1f0001eb 61000054 627c04c8 84ffff35 bf3b03d5 c0035fd6"),
)
"""For any ARMv8."""
AARCH64_SINGLE = Codes(
    AARCH64_EXCLUSIVE.load,
    # ldaddal x1,x2,[x0] · dmb ish · mov x0,x2 · ret
    bytes.fromhex("0200e1f8 bf3b03d5 e00302aa c0035fd6"),
    # mov x3,x1 · casal x3,x2,[x0] · dmb ish · mov x0,x3 · ret
    bytes.fromhex("e30301aa 02fce3c8 bf3b03d5 e00303aa c0035fd6"),
)
"""From ARMv8.1 on. In an emulated guest they fault once, for writing, where the others fault for reading first."""

CODES = {
    "x86_64": Codes(
        # mov rax,[rdi] · mfence · ret
        bytes.fromhex("488b07 0faef0 c3"),
        # mov rax,rsi · lock xadd [rdi],rax · ret
        bytes.fromhex("4889f0 f0480fc107 c3"),
        # mov rax,rsi · lock cmpxchg [rdi],rdx · ret
        bytes.fromhex("4889f0 f0480fb117 c3"),
    ),
    "aarch64": AARCH64_EXCLUSIVE,
}


class Atomics:
    """The functions of one set of codes. Words are known by their addresses, which must be multiples of 8."""

    def __init__(self, codes: Codes) -> None:
        word = ctypes.c_uint64
        # With the interpreter lock held: a fault is served by another process, and every thread has its own.
        self._load = ctypes.PYFUNCTYPE(word, word)(map_code(codes.load, "load"))
        self._add = ctypes.PYFUNCTYPE(word, word, word)(map_code(codes.fetch_add, "fetch_add"))
        self._exchange = ctypes.PYFUNCTYPE(word, word, word, word)(map_code(codes.compare_exchange, "compare_exchange"))

    def load(self, address: int) -> int:
        """The word at the address."""
        return int(self._load(address))

    def fetch_add(self, address: int, number: int) -> int:
        """Add to the word, modulo 2**64, and return what it was."""
        return int(self._add(address, number & _MASK))

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """Store `new` if the word is `expected`; say whether it was."""
        return bool(self._exchange(address, expected & _MASK, new & _MASK) == expected & _MASK)


def atomics() -> Atomics:
    """Those of this machine, made anew. Raises UnsupportedISA."""
    codes = for_this_isa(CODES, "atomic addition", "guest/memory/atomic.py")
    if os.uname().machine == "aarch64" and _has_single_instructions():
        codes = AARCH64_SINGLE
    return Atomics(codes)


def word_at(memory: memoryview, offset: int) -> int:
    """The address of the word at `offset` bytes of the memory. Raises ValueError if there is no such word."""
    if offset % WORD_BYTES or not 0 <= offset <= memory.nbytes - WORD_BYTES:
        raise ValueError(f"offset {offset}, expected a multiple of {WORD_BYTES} below {memory.nbytes}")
    return address_of(memory) + offset


def _has_single_instructions() -> bool:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    return bool(getauxval(_AT_HWCAP) & _HWCAP_ATOMICS)
