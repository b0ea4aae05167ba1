"""A full memory fence for Python.

The segment is read and written by CPUs of different models, and CPython has no fence of its own. A store-release and a
later load-acquire may pass each other (multi-threaded emulation of an ARM guest on an x86 host does let them), so
nothing weaker than a full fence is used: a few bytes of machine code.

The code is put into a memfd and mapped from there, read-only and executable: the kernel then makes instruction and data
cache agree, which the architectures with separate ones would otherwise demand from us.

It is called about ten times in every remote page fault, so the call must cost little. Where None is immortal (CPython
3.12 and newer, hence in the guests), the code is a built-in function that returns None, without counting a reference:
in an emulated guest 0.3 µs a call. Elsewhere ctypes calls it, which takes five times as long.
"""

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from guest.errors import GuestFailure, UnsupportedISA


class _Code(NamedTuple):
    """Machine code. `load` puts a 64-bit constant, which stands right behind it or behind `ret`, where results go."""

    fence: bytes
    load: bytes
    ret: bytes
    constant_last: bool

    def plain(self) -> bytes:
        """A C function without a result."""
        return self.fence + self.ret

    def returning(self, value: int) -> bytes:
        """A C function with `value` as its result."""
        constant = struct.pack("<Q", value)
        if self.constant_last:
            return self.fence + self.load + self.ret + constant
        return self.fence + self.load + constant + self.ret


_CODE = {
    # mfence · movabs rax, CONSTANT · ret
    "x86_64": _Code(bytes.fromhex("0f ae f0"), bytes.fromhex("48 b8"), bytes.fromhex("c3"), False),
    # dmb sy · ldr x0, .+8 · ret · CONSTANT
    "aarch64": _Code(bytes.fromhex("bf 3f 03 d5"), bytes.fromhex("40 00 00 58"), bytes.fromhex("c0 03 5f d6"), True),
    # fence rw,rw · auipc a0, 0 · ld a0, 12(a0) · ret · CONSTANT
    "riscv64": _Code(
        bytes.fromhex("0f 00 30 03"),
        bytes.fromhex("17 05 00 00 03 35 c5 00"),
        bytes.fromhex("67 80 00 00"),
        True,
    ),
}
_MAP_FAILED = ctypes.c_void_p(-1).value
_METH_NOARGS = 4


class _MethodDef(ctypes.Structure):
    """PyMethodDef of CPython's C API."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_builtins: list[_MethodDef] = []
"""A built-in function points to its definition for as long as it lives."""


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


def _none_is_immortal() -> bool:
    return sys.implementation.name == "cpython" and sys.version_info >= (3, 12)


def _code() -> _Code:
    isa = os.uname().machine
    if isa not in _CODE:
        raise UnsupportedISA(
            f"no memory fence is known for {isa}; known: {', '.join(sorted(_CODE))}",
            "add its full fence and return instruction to guest/fence.py",
        )
    return _CODE[isa]


def _builtin_fence() -> Callable[[], None]:
    """The fence as a built-in function: PyObject *fence(PyObject *module, PyObject *no_arguments)."""
    address = _map_code(_code().returning(id(None)))
    definition = _MethodDef(b"full_fence", address, _METH_NOARGS, b"Full memory fence.")
    _builtins.append(definition)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    function: Callable[[], None] = new(ctypes.addressof(definition), None, None)
    return function


def _ctypes_fence() -> Callable[[], None]:
    """The fence as a C function without a result, called with the interpreter lock held."""
    return ctypes.PYFUNCTYPE(None)(_map_code(_code().plain()))


full_fence: Callable[[], None] = _builtin_fence() if _none_is_immortal() else _ctypes_fence()
"""All loads and stores before it happen before all loads and stores after it, as every other CPU sees them."""
