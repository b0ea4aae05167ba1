"""Living on without a page: what a program can do about SIGBUS when the page's only valid copy died with its kernel.

The kernel gives SIGBUS to a thread that touches such a page (`Region.poison`). Unless the program does something, that
is its end. Here it does: the handler puts a private page of zeros in the place of the lost one and notes that it was
lost; the access then goes through, and whoever made it asks whether what he got is worth anything.

A handler in Python would run only after the access, which never ends. So this one is called by the C library, through
ctypes, in the middle of the load or store that failed. That is safe: the signal comes from one access of this thread,
not from anywhere at any time, and the interpreter is at rest while its own C code copies bytes.
"""

import ctypes
import mmap
import signal
from collections.abc import Callable

from guest.errors import RegionError
from guest.memory.userfaultfd import PAGE_BYTES

_SA_SIGINFO, _SA_NODEFER = 0x4, 0x40000000
_ADDRESS_OFFSET = 16  # of si_addr in siginfo_t, on 64-bit machines
_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """struct sigaction of the C library (bits/sigaction.h)."""

    _fields_ = (
        ("handler", _Handler),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_kept: list[object] = []
"""What the C library calls must not be collected."""


def survive_lost_pages(start: int, size_bytes: int, lost: Callable[[int], object]) -> None:
    """From now on, and in the whole process: of a page between `start` and `start + size_bytes` that turns out to be
    lost, tell `lost` its number, counted from `start`, and go on with zeros instead. Other SIGBUSes end the process.

    Raises RegionError where the handler cannot be installed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED

    def handle(_signal: int, information: int, _context: int) -> None:
        address = ctypes.c_uint64.from_address(information + _ADDRESS_OFFSET).value
        page = (address - start) // PAGE_BYTES
        within = start <= address < start + size_bytes
        if within and libc.mmap(start + page * PAGE_BYTES, PAGE_BYTES, protection, flags, -1, 0) != _MAP_FAILED:
            lost(page)
        else:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)  # and the access is made again

    action = _Action(_Handler(handle), flags=_SA_SIGINFO | _SA_NODEFER)
    if libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None):
        raise RegionError(f"no handler for SIGBUS: errno {ctypes.get_errno()}", "see sigaction(2)")
    _kept.append(action)
