"""Machine code for Python: what CPython has no words for, such as a fence, or two accesses right after each other.

The code is put into a memfd and mapped from there, read-only and executable: the kernel then makes instruction and data
cache agree, which the architectures with separate ones would otherwise demand from us.
"""

import ctypes
import mmap
import os
from collections.abc import Mapping
from typing import TypeVar

from guest.errors import GuestFailure, UnsupportedISA

FULL_FENCE = {
    "x86_64": bytes.fromhex("0f ae f0"),  # mfence
    "aarch64": bytes.fromhex("bf 3f 03 d5"),  # dmb sy
    "riscv64": bytes.fromhex("0f 00 30 03"),  # fence rw,rw
}
"""All loads and stores before it happen before all loads and stores after it, as every other CPU sees them."""

_MAP_FAILED = ctypes.c_void_p(-1).value
_Code = TypeVar("_Code")


def for_this_isa(codes: Mapping[str, _Code], what: str, place: str) -> _Code:
    """The one of `codes` for this machine. Raises UnsupportedISA, which says that `what` belongs into `place`."""
    isa = os.uname().machine
    if isa not in codes:
        raise UnsupportedISA(
            f"no {what} is known for {isa}; known: {', '.join(sorted(codes))}", f"add its instructions to {place}"
        )
    return codes[isa]


def map_code(code: bytes, name: str) -> int:
    """The address of `code` in executable memory of its own, mapped for as long as the process lives."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(descriptor, code)
        size_bytes = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(descriptor, size_bytes)
        address = libc.mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, descriptor, 0)
    finally:
        os.close(descriptor)
    if address is None or address == _MAP_FAILED:
        raise GuestFailure(
            f"executable memory for the {name} was refused: {os.strerror(ctypes.get_errno())}",
            "a security policy (SELinux execmem, memfd noexec) forbids code made at run time",
        )
    return int(address)
