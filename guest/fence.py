"""A full memory fence for Python.

The segment is read and written by CPUs of different models, and CPython has no fence of its own. A store-release and a
later load-acquire may pass each other (multi-threaded emulation of an ARM guest on an x86 host does let them), so
nothing weaker than a full fence is used. It is a few bytes of machine code, called through ctypes without giving up the
interpreter lock: about 0.1 µs on a host.

The code is put into a memfd and mapped from there, read-only and executable: the kernel then makes instruction and data
cache agree, which the architectures with separate ones would otherwise demand from us.
"""

import ctypes
import mmap
import os
from collections.abc import Callable

from guest.errors import GuestFailure, UnsupportedISA

_CODE = {
    "x86_64": bytes.fromhex("0f ae f0  c3"),  # mfence; ret
    "aarch64": bytes.fromhex("bf 3f 03 d5  c0 03 5f d6"),  # dmb sy; ret
    "riscv64": bytes.fromhex("0f 00 30 03  67 80 00 00"),  # fence rw,rw; ret
}
_MAP_FAILED = ctypes.c_void_p(-1).value


def _map_code(code: bytes) -> int:
    """The address of `code` in executable memory of its own, mapped for as long as the process lives."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    descriptor = os.memfd_create("fence", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, code)
        size_bytes = mmap.PAGESIZE
        os.ftruncate(descriptor, size_bytes)
        address = libc.mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, descriptor, 0)
    finally:
        os.close(descriptor)
    if address is None or address == _MAP_FAILED:
        raise GuestFailure(
            f"executable memory for the fence was refused: {os.strerror(ctypes.get_errno())}",
            "a security policy (SELinux execmem, memfd noexec) forbids code made at run time",
        )
    return int(address)


def _make_fence() -> Callable[[], None]:
    isa = os.uname().machine
    if isa not in _CODE:
        raise UnsupportedISA(
            f"no memory fence is known for {isa}; known: {', '.join(sorted(_CODE))}",
            "add its full fence and return instruction to guest/fence.py",
        )
    return ctypes.PYFUNCTYPE(None)(_map_code(_CODE[isa]))


full_fence: Callable[[], None] = _make_fence()
"""All loads and stores before it happen before all loads and stores after it, as every other CPU sees them."""
