"""userfaultfd by ctypes: page faults of a process, delivered to another one, and answered from there.

See userfaultfd(2), ioctl_userfaultfd(2) and linux/userfaultfd.h, where all numbers come from. An application registers
a range of its memory for *missing* and *write-protect* faults and hands the descriptor to the daemon. The daemon must
be another process: a fault taken while the interpreter lock is held could never be served from within.

Every operation is one system call whose arguments lie ready in an array at a fixed address; numbers are converted once,
when the object is made. ctypes is called without giving up the interpreter lock: none of these calls waits.
"""

import ctypes
import os
from array import array
from errno import EAGAIN, EEXIST, EINVAL, ENOENT, EPERM, ESRCH
from typing import NoReturn

from guest.errors import UnsupportedISA, UserfaultfdError

PAGE_BYTES = 4096

_SYSCALL = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
_USER_MODE_ONLY = 1
_API_VERSION = 0xAA

FEATURES_NEEDED = {
    "PAGEFAULT_FLAG_WP": 1 << 0,
    "MISSING_SHMEM": 1 << 5,
    "WP_HUGETLBFS_SHMEM": 1 << 12,
}
"""UFFD_FEATURE_*, without which a shared region cannot be kept coherent. On arm64 the last came with Linux 6.10."""
FEATURE_POISON = 1 << 14
"""UFFDIO_POISON, since Linux 6.6: used where it is."""

_REGISTER_MISSING = 1
_REGISTER_WP = 2
_REGISTER_NEEDED = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6  # wake, copy, zeropage, writeprotect

# _IOWR and _IOR of linux/ioctl.h, with the size of each argument structure.
_API = ctypes.c_ulong(0xC018AA3F)
_REGISTER = ctypes.c_ulong(0xC020AA00)
_WAKE = ctypes.c_ulong(0x8010AA02)
_COPY = ctypes.c_ulong(0xC028AA03)
_ZEROPAGE = ctypes.c_ulong(0xC020AA04)
_WRITE_PROTECT = ctypes.c_ulong(0xC018AA06)
_POISON = ctypes.c_ulong(0xC020AA08)

_COPY_DONTWAKE = 1
_COPY_WP = 2
_WRITE_PROTECT_ON = 1
_WRITE_PROTECT_DONTWAKE = 2

_EVENT_PAGEFAULT = 0x12
FAULT_WRITE = 1
FAULT_WRITE_PROTECT = 2
_MESSAGE_BYTES = 32
_MESSAGE_WORDS = 4
_MESSAGES_AT_ONCE = 32

_libc = ctypes.PyDLL(None, use_errno=True)
_ioctl = _libc.ioctl


class ProcessGone(UserfaultfdError):
    """The process whose memory this is has ended or unmapped it. Nothing is wrong: it needs no service any more."""


class _Arguments:
    """A structure of 64-bit words at a fixed address."""

    __slots__ = ("pointer", "words")

    def __init__(self, *words: int) -> None:
        self.words = array("Q", words)
        self.pointer = ctypes.c_void_p(self.words.buffer_info()[0])


class Userfaultfd:
    """One userfaultfd: made anew for this process, or one that another process has handed over (`fd`).

    Addresses and sizes are in bytes and multiples of the page size. Every operation raises ProcessGone when the process
    has ended, and UserfaultfdError for whatever else the kernel says.
    """

    __slots__ = ("_fd", "_page", "_page_copy", "_page_poison", "_page_protect", "_page_zero", "_read", "_words", "fd")

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _open() if fd is None else fd
        self._fd = ctypes.c_int(self.fd)
        self._page_copy = _Arguments(0, 0, PAGE_BYTES, 0, 0)
        self._page_zero = _Arguments(0, PAGE_BYTES, 0, 0)
        self._page_protect = _Arguments(0, PAGE_BYTES, 0)
        self._page_poison = _Arguments(0, PAGE_BYTES, 0, 0)
        self._page = _Arguments(0, PAGE_BYTES)
        buffer = bytearray(_MESSAGE_BYTES * _MESSAGES_AT_ONCE)
        self._read = [buffer]
        self._words = memoryview(buffer).cast("Q")

    def fileno(self) -> int:
        """The descriptor, for select and friends."""
        return self.fd

    def register(self, start: int, size_bytes: int) -> None:
        """Take the faults of a range of this process's own memory, missing pages and write protection both."""
        arguments = _Arguments(start, size_bytes, _REGISTER_MISSING | _REGISTER_WP, 0)
        if _ioctl(self._fd, _REGISTER, arguments.pointer):
            self._fail("UFFDIO_REGISTER", start)
        offered = arguments.words[3]
        if offered & _REGISTER_NEEDED != _REGISTER_NEEDED:
            raise UserfaultfdError(
                f"the range at {start:#x} allows operations {offered:#x}, at least {_REGISTER_NEEDED:#x} are needed",
                "map a memfd there, shared; and use Linux 6.10 or newer on arm64",
            )

    def read(self) -> list[tuple[int, int]]:
        """The faults that wait: address (as far as the kernel tells it, the page's at least) and flags FAULT_*.

        Up to 32 at once, empty when there are none. A fault says that a thread waits, not that its page is absent
        still: several threads may have faulted on one page, and each of them is reported.
        """
        try:
            count = os.readv(self.fd, self._read) // _MESSAGE_BYTES
        except BlockingIOError:
            return []
        words = self._words
        if count == 1:  # nearly always
            return [(words[2], words[1])] if words[0] & 0xFF == _EVENT_PAGEFAULT else []
        return [
            (words[first + 2], words[first + 1])
            for first in range(0, count * _MESSAGE_WORDS, _MESSAGE_WORDS)
            if words[first] & 0xFF == _EVENT_PAGEFAULT
        ]

    def copy(self, address: int, source: int, protect: bool, wake: bool) -> bool:
        """Make the page at `address` present with the 4096 bytes at `source` of this process, in one piece.

        `protect`: present, but a write faults. False, and nothing happened, when there is a page already.
        """
        arguments = self._page_copy
        words = arguments.words
        words[0] = address
        words[1] = source
        words[3] = (_COPY_WP if protect else 0) if wake else (_COPY_WP | _COPY_DONTWAKE if protect else _COPY_DONTWAKE)
        while _ioctl(self._fd, _COPY, arguments.pointer):
            error = ctypes.get_errno()
            if error == EEXIST:
                return False
            if error != EAGAIN:  # EAGAIN: the address space is changing at this moment
                self._fail("UFFDIO_COPY", address)
        return True

    def zero(self, address: int) -> bool:
        """Make the page at `address` present, zero and writable, and wake. False when there is a page already."""
        arguments = self._page_zero
        arguments.words[0] = address
        while _ioctl(self._fd, _ZEROPAGE, arguments.pointer):
            error = ctypes.get_errno()
            if error == EEXIST:
                return False
            if error != EAGAIN:
                self._fail("UFFDIO_ZEROPAGE", address)
        return True

    def write_protect(self, address: int) -> None:
        """Let writes to the page at `address` fault from now on, also when it is not present yet."""
        self._change_protection(address, _WRITE_PROTECT_ON)

    def write_unprotect(self, address: int, wake: bool) -> None:
        """Let the page at `address` be written."""
        self._change_protection(address, 0 if wake else _WRITE_PROTECT_DONTWAKE)

    def write_protect_range(self, start: int, size_bytes: int) -> None:
        """`write_protect` for many pages in a row."""
        arguments = _Arguments(start, size_bytes, _WRITE_PROTECT_ON)
        while _ioctl(self._fd, _WRITE_PROTECT, arguments.pointer):
            if ctypes.get_errno() != EAGAIN:
                self._fail("UFFDIO_WRITEPROTECT", start)

    def write_unprotect_range(self, start: int, size_bytes: int) -> None:
        """`write_unprotect` for many pages in a row; nobody waits for them."""
        arguments = _Arguments(start, size_bytes, _WRITE_PROTECT_DONTWAKE)
        while _ioctl(self._fd, _WRITE_PROTECT, arguments.pointer):
            if ctypes.get_errno() != EAGAIN:
                self._fail("UFFDIO_WRITEPROTECT", start)

    def wake(self, address: int) -> None:
        """Let the threads that wait for the page at `address` try again."""
        arguments = self._page
        arguments.words[0] = address
        if _ioctl(self._fd, _WAKE, arguments.pointer):
            self._fail("UFFDIO_WAKE", address)

    def poison(self, address: int) -> None:
        """Give SIGBUS to whoever touches the page at `address`, which must not be present, and wake. Linux 6.6."""
        self.write_unprotect(address, wake=False)  # a protection that waits for a page counts as present here
        arguments = self._page_poison
        arguments.words[0] = address
        while _ioctl(self._fd, _POISON, arguments.pointer):
            error = ctypes.get_errno()
            if error == EEXIST:
                return  # poisoned before, or present, which the caller rules out
            if error == EINVAL:
                raise UserfaultfdError(
                    f"the page at {address:#x} is lost: its only valid copy died with its kernel, and Linux "
                    f"{os.uname().release} cannot tell those who touch it",
                    "UFFDIO_POISON came with Linux 6.6; without it, a kernel that needs a lost page must stop",
                )
            if error != EAGAIN:
                self._fail("UFFDIO_POISON", address)

    def close(self) -> None:
        """Close the descriptor; when it was the last, the range becomes ordinary memory and all waiters go on."""
        os.close(self.fd)

    def _change_protection(self, address: int, mode: int) -> None:
        arguments = self._page_protect
        words = arguments.words
        words[0] = address
        words[2] = mode
        while _ioctl(self._fd, _WRITE_PROTECT, arguments.pointer):
            if ctypes.get_errno() != EAGAIN:
                self._fail("UFFDIO_WRITEPROTECT", address)

    def _fail(self, operation: str, address: int) -> NoReturn:
        error = ctypes.get_errno()
        text = f"{operation} at {address:#x}: {os.strerror(error)}"
        if error in (ESRCH, ENOENT):
            raise ProcessGone(text, "the process has ended or unmapped its memory")
        raise UserfaultfdError(text, "see ioctl_userfaultfd(2) for the meaning of this error with this operation")


def _open() -> int:
    """A new userfaultfd with the features needed, for this process."""
    isa = os.uname().machine
    if isa not in _SYSCALL:
        raise UnsupportedISA(f"the number of the userfaultfd system call is not known for {isa}", "add it")
    needed = 0
    for bit in FEATURES_NEEDED.values():
        needed |= bit
    fd, offered = _handshake(_SYSCALL[isa], 0)
    os.close(fd)
    missing = [name for name, bit in FEATURES_NEEDED.items() if not offered & bit]
    if missing:
        raise UserfaultfdError(
            f"userfaultfd of Linux {os.uname().release} on {isa} lacks {', '.join(missing)} (features {offered:#x})",
            "Linux 5.19 is needed on x86_64, 6.10 on aarch64",
        )
    fd, _ = _handshake(_SYSCALL[isa], needed | offered & FEATURE_POISON)
    return fd


def _handshake(number: int, features: int) -> tuple[int, int]:
    """A userfaultfd with `features` switched on, and all features that this kernel offers."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    fd = _libc.syscall(number, flags)
    if fd < 0 and ctypes.get_errno() == EPERM:
        # An ordinary user may still have one for faults of user mode, and programs that load and store take no others.
        fd = _libc.syscall(number, flags | _USER_MODE_ONLY)
    if fd < 0:
        raise UserfaultfdError(
            f"no userfaultfd on Linux {os.uname().release}: {os.strerror(ctypes.get_errno())}",
            "the kernel must be built with CONFIG_USERFAULTFD, and no sandbox (seccomp) may forbid it",
        )
    arguments = _Arguments(_API_VERSION, features, 0)
    if _ioctl(ctypes.c_int(fd), _API, arguments.pointer):
        error = os.strerror(ctypes.get_errno())
        os.close(fd)
        raise UserfaultfdError(f"UFFDIO_API with features {features:#x}: {error}", "Linux 5.19 or newer is needed")
    return fd, arguments.words[1]
