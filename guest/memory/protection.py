"""Memory protection in another process: mprotect(2) and madvise(2) by proxy.

Linux lets no process change what another may do with its memory. So each application has a thread of its own that does
what the daemon tells it over a socket. The thread is a few instructions of machine code: a thread of Python could not
run while another one holds the interpreter's lock in the middle of a page fault, and it is then that it is needed.
"""

import ctypes
import os
import socket
import struct

from guest.errors import GuestFailure
from guest.link.machine_code import for_this_isa, map_code
from guest.protocol.address_space import Access

_PROT = {Access.NONE: 0, Access.READ: 1, Access.WRITE: 3}
"""PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE of mprotect(2)."""
_MADV_DONTNEED = 4
_ORDER = struct.Struct("=QQQQ")
"""Number of the system call, address, length in bytes, third argument."""
_ANSWER = struct.Struct("=q")
"""What the system call returned: 0, or a negative errno."""

_MPROTECT = {"x86_64": 10, "aarch64": 226}
_MADVISE = {"x86_64": 28, "aarch64": 233}
"""Numbers of the system calls, from the kernel's tables (asm/unistd.h)."""

# The thread's function; its argument is the socket. It ends when the socket does.
_CODE = {
    "x86_64": """
        53              push   %rbx
        48 83 ec 20     sub    $32, %rsp
        89 fb           mov    %edi, %ebx
        31 c0           xor    %eax, %eax           # again: read(socket, stack, 32)
        89 df           mov    %ebx, %edi
        48 89 e6        mov    %rsp, %rsi
        ba 20 00 00 00  mov    $32, %edx
        0f 05           syscall
        48 83 f8 20     cmp    $32, %rax
        75 2c           jne    end
        48 8b 04 24     mov    (%rsp), %rax         # what was asked for
        48 8b 7c 24 08  mov    8(%rsp), %rdi
        48 8b 74 24 10  mov    16(%rsp), %rsi
        48 8b 54 24 18  mov    24(%rsp), %rdx
        0f 05           syscall
        48 89 04 24     mov    %rax, (%rsp)
        b8 01 00 00 00  mov    $1, %eax             # write(socket, stack, 8)
        89 df           mov    %ebx, %edi
        48 89 e6        mov    %rsp, %rsi
        ba 08 00 00 00  mov    $8, %edx
        0f 05           syscall
        eb c0           jmp    again
        48 83 c4 20     add    $32, %rsp            # end:
        31 c0           xor    %eax, %eax
        5b              pop    %rbx
        c3              ret
    """,
    "aarch64": """
        ff c3 00 d1     sub    sp, sp, #48
        f3 13 00 f9     str    x19, [sp, #32]
        f3 03 00 2a     mov    w19, w0
        e0 03 13 2a     mov    w0, w19              // again: read(socket, stack, 32)
        e1 03 00 91     mov    x1, sp
        02 04 80 d2     mov    x2, #32
        e8 07 80 d2     mov    x8, #63
        01 00 00 d4     svc    #0
        1f 80 00 f1     cmp    x0, #32
        61 01 00 54     b.ne   end
        e8 03 40 a9     ldp    x8, x0, [sp]         // what was asked for
        e1 0b 41 a9     ldp    x1, x2, [sp, #16]
        01 00 00 d4     svc    #0
        e0 03 00 f9     str    x0, [sp]
        e0 03 13 2a     mov    w0, w19              // write(socket, stack, 8)
        e1 03 00 91     mov    x1, sp
        02 01 80 d2     mov    x2, #8
        08 08 80 d2     mov    x8, #64
        01 00 00 d4     svc    #0
        f0 ff ff 17     b      again
        f3 13 40 f9     ldr    x19, [sp, #32]       // end:
        ff c3 00 91     add    sp, sp, #48
        00 00 80 d2     mov    x0, #0
        c0 03 5f d6     ret
    """,
}


def serve_protection() -> socket.socket:
    """Start the thread, in the application; returns the daemon's end of its socket, for `Protector`.

    Raises UnsupportedISA, or GuestFailure where no thread can be made.
    """
    code = for_this_isa({isa: _assembled(text) for isa, text in _CODE.items()}, "protecting thread", __name__)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = ctypes.c_ulong()
    libc = ctypes.CDLL(None)
    libc.pthread_create.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    error = libc.pthread_create(ctypes.byref(thread), None, map_code(code, "protecting-thread"), theirs.detach())
    if error:
        raise GuestFailure(f"no thread could be made: {os.strerror(error)}", "is there a limit on processes?")
    return ours


class Protector:
    """The daemon's side: decides what the application at the other end of the socket may do with its memory."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def allow(self, address: int, size_bytes: int, access: Access) -> bool:
        """When this returns, the application's accesses are as `access` says; false if the application is gone."""
        return self._order(_MPROTECT, address, size_bytes, _PROT[access])

    def forget(self, address: int, size_bytes: int) -> bool:
        """Take what is mapped there out of the application's page tables, poison too; false if it is gone."""
        return self._order(_MADVISE, address, size_bytes, _MADV_DONTNEED)

    def close(self) -> None:
        """The application keeps what it has."""
        self._connection.close()

    def _order(self, calls: dict[str, int], address: int, size_bytes: int, argument: int) -> bool:
        number = for_this_isa(calls, "number of a system call", __name__)
        try:
            self._connection.send(_ORDER.pack(number, address, size_bytes, argument))
            answer = self._connection.recv(_ANSWER.size)
        except OSError:
            return False
        if not answer:
            return False
        (result,) = _ANSWER.unpack(answer)
        if result:
            what = "mprotect(2)" if calls is _MPROTECT else "madvise(2)"
            raise GuestFailure(f"{what} of {size_bytes} bytes at {address:#x}: {os.strerror(-result)}")
        return True


def _assembled(text: str) -> bytes:
    """The bytes in front of each line's mnemonic."""
    return b"".join(bytes.fromhex(line[:15]) for line in map(str.strip, text.splitlines()) if line)
