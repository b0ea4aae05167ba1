"""A full memory fence for Python.

The segment is read and written by CPUs of different models, and CPython has no fence of its own. A store-release and a
later load-acquire may pass each other (multi-threaded emulation of an ARM guest on an x86 host does let them), so
nothing weaker than a full fence is used: a few bytes of machine code.

It is called about ten times in every remote page fault, so the call must cost little. Where None is immortal (CPython
3.12 and newer, hence in the guests), the code is a built-in function that returns None, without counting a reference:
in an emulated guest 0.3 µs a call. Elsewhere ctypes calls it, which takes five times as long.
"""

import ctypes
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from guest.link.machine_code import FULL_FENCE, for_this_isa, map_code


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
    # movabs rax, CONSTANT · ret
    "x86_64": _Code(FULL_FENCE["x86_64"], bytes.fromhex("48 b8"), bytes.fromhex("c3"), False),
    # ldr x0, .+8 · ret · CONSTANT
    "aarch64": _Code(FULL_FENCE["aarch64"], bytes.fromhex("40 00 00 58"), bytes.fromhex("c0 03 5f d6"), True),
    # auipc a0, 0 · ld a0, 12(a0) · ret · CONSTANT
    "riscv64": _Code(
        FULL_FENCE["riscv64"],
        bytes.fromhex("17 05 00 00 03 35 c5 00"),
        bytes.fromhex("67 80 00 00"),
        True,
    ),
}
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


def _none_is_immortal() -> bool:
    return sys.implementation.name == "cpython" and sys.version_info >= (3, 12)


def _code() -> _Code:
    return for_this_isa(_CODE, "memory fence", "guest/link/fence.py")


def _builtin_fence() -> Callable[[], None]:
    """The fence as a built-in function: PyObject *fence(PyObject *module, PyObject *no_arguments)."""
    address = map_code(_code().returning(id(None)), "fence")
    definition = _MethodDef(b"full_fence", address, _METH_NOARGS, b"Full memory fence.")
    _builtins.append(definition)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    function: Callable[[], None] = new(ctypes.addressof(definition), None, None)
    return function


def _ctypes_fence() -> Callable[[], None]:
    """The fence as a C function without a result, called with the interpreter lock held."""
    return ctypes.PYFUNCTYPE(None)(map_code(_code().plain(), "fence"))


full_fence: Callable[[], None] = _builtin_fence() if _none_is_immortal() else _ctypes_fence()
"""All loads and stores before it happen before all loads and stores after it, as every other CPU sees them."""
