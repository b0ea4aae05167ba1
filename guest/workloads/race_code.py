"""The machine code of a race: threads meet, and each makes its accesses right after the meeting, on and on.

The code works through a table of *entries*, one for each instance, each a row of 64-bit words. It is a C function

    uint64_t race(uint64_t entry, uint64_t end, uint64_t ticket, uint64_t looks, uint64_t meeting)

which, for each entry up to `end`, stores `ticket` in the thread's own word of the meeting, waits until all the others'
words have reached it, does the operations of the program, and goes on to the next entry and the next ticket. It returns
the first entry that it has not done: `end`, or the one where it has looked `looks` times at a word in vain. It can be
called again from there. `meeting` is a table of addresses: of the thread's own word, then of the others'.

Operands of operations are words of the entry, by their offsets in bytes. What is stored is told from everything that
was stored before: ticket × CODES + the entry's code.
"""

from collections.abc import Sequence
from struct import pack
from typing import NamedTuple, Protocol

from guest.link.machine_code import FULL_FENCE

CODES = 8
"""A store's code, 1 to 7, is the low part of the value it stores; the high part is the ticket of its instance."""
_CODE_BITS = 3


class Operation(NamedTuple):
    """One operation of a program in machine code.

    `load` puts what it finds at the address in word `at` into word `value`; `store` stores the code in word `value`
    there. `clock` puts the processor's counter into word `at`, behind everything before it and ahead of everything
    after it. `pause` counts down from word `at`. `fence` is a full one.
    """

    kind: str
    at: int = 0
    value: int = 0


class Assembler(Protocol):
    """Instructions of one ISA."""

    def race(self, others: int, program: Sequence[Operation], entry_bytes: int) -> bytes:
        """The whole function, for a thread that meets `others`."""


class X86:
    """x86_64. rdi entry, rsi end, r9 ticket, rcx looks, r8 meeting; rax, rdx, r10, r11 are free (System V ABI)."""

    def race(self, others: int, program: Sequence[Operation], entry_bytes: int) -> bytes:
        """See Assembler."""
        publish = bytes.fromhex("49 8b 00 4c 89 08")  # mov rax,[r8] · mov [rax],r9
        body = b"".join(self._operation(operation) for operation in program)
        again = bytes.fromhex("48 81 c7") + pack("<i", entry_bytes)  # add rdi,entry_bytes
        again += bytes.fromhex("49 ff c1 48 39 f7 0f 82")  # inc r9 · cmp rdi,rsi · jb publish
        wait_bytes = len(self._wait(0, 0))
        behind = len(body) + len(again) + 4
        waits = b"".join(self._wait(8 * n, (others - n) * wait_bytes + behind) for n in range(1, others + 1))
        loop = publish + waits + body + again
        # mov r9,rdx · … · mov rax,rdi · ret
        return bytes.fromhex("49 89 d1") + loop + pack("<i", -len(loop) - 4) + bytes.fromhex("48 89 f8 c3")

    def _wait(self, word: int, distance: int) -> bytes:
        """Until another's word has reached the ticket; `distance` from the end of this to the end of the loop."""
        code = bytes.fromhex("49 89 cb 49 8b 80") + pack("<i", word)  # mov r11,rcx · mov rax,[r8+word]
        code += bytes.fromhex("4c 39 08 73 0a")  # look: cmp [rax],r9 · jae done
        code += bytes.fromhex("49 ff cb 75 f6")  # dec r11 · jnz look
        return code + b"\xe9" + pack("<i", distance)  # jmp out · done:

    def _operation(self, operation: Operation) -> bytes:
        at, value = pack("<i", operation.at), pack("<i", operation.value)
        match operation.kind:
            case "load":  # mov rax,[rdi+at] · mov rax,[rax] · mov [rdi+value],rax
                return bytes.fromhex("48 8b 87") + at + bytes.fromhex("48 8b 00 48 89 87") + value
            case "store":  # mov rax,[rdi+at] · mov r10,[rdi+value] · lea r10,[r10+8*r9] · mov [rax],r10
                return (
                    bytes.fromhex("48 8b 87")
                    + at
                    + bytes.fromhex("4c 8b 97")
                    + value
                    + bytes.fromhex("4f 8d 14 ca 4c 89 10")
                )
            case "clock":  # mfence · lfence · rdtsc · lfence · shl rdx,32 · or rax,rdx · mov [rdi+at],rax
                return bytes.fromhex("0f ae f0 0f ae e8 0f 31 0f ae e8 48 c1 e2 20 48 09 d0 48 89 87") + at
            case "pause":  # mov r11,[rdi+at] · dec r11 · jns .-3
                return bytes.fromhex("4c 8b 9f") + at + bytes.fromhex("49 ff cb 79 fb")
        return FULL_FENCE["x86_64"]


class Aarch64:
    """aarch64. x0 entry, x1 end, x2 ticket, x3 looks, x4 meeting; x9 to x11 are free (AAPCS64)."""

    def race(self, others: int, program: Sequence[Operation], entry_bytes: int) -> bytes:
        """See Assembler."""
        publish = [_ldr(9, 4, 0), _str(2, 9, 0)]
        body = [word for operation in program for word in self._operation(operation)]
        again = [_add(0, 0, entry_bytes), _add(2, 2, 1), _cmp(0, 1)]
        wait_words = len(self._wait(0, 0))
        behind = len(body) + len(again) + 1
        waits = [w for n in range(1, others + 1) for w in self._wait(8 * n, (others - n) * wait_words + behind)]
        loop = publish + waits + body + again
        words = [*loop, _branch_if(_LOWER, -len(loop)), 0xD65F03C0]  # b.lo publish · ret
        return b"".join(pack("<I", word) for word in words)

    def _wait(self, word: int, distance: int) -> list[int]:
        """Until another's word has reached the ticket; `distance` from the end of this to the end of the loop."""
        look = [_ldr(11, 9, 0), _cmp(11, 2), _branch_if(_NOT_LOWER, 4), _subs(10, 10, 1), _branch_if(_NOT_EQUAL, -4)]
        return [0xAA0303EA, _ldr(9, 4, word), *look, 0x14000000 | distance + 1]  # mov x10,x3 · … · b out

    def _operation(self, operation: Operation) -> list[int]:
        _, at, value = operation
        match operation.kind:
            case "load":
                return [_ldr(9, 0, at), _ldr(9, 9, 0), _str(9, 0, value)]
            case "store":  # … · add x10,x10,x2,lsl 3 · …
                return [_ldr(9, 0, at), _ldr(10, 0, value), 0x8B02014A | _CODE_BITS << 10, _str(10, 9, 0)]
            case "clock":  # dsb sy · isb · mrs x9,cntvct_el0 · isb · …
                return [0xD5033F9F, 0xD5033FDF, 0xD53BE049, 0xD5033FDF, _str(9, 0, at)]
            case "pause":
                return [_ldr(10, 0, at), _subs(10, 10, 1), _branch_if(_POSITIVE, -1)]
        return [int.from_bytes(FULL_FENCE["aarch64"], "little")]


_NOT_EQUAL, _NOT_LOWER, _LOWER, _POSITIVE = 1, 2, 3, 5
"""Conditions of branches."""


def _ldr(to: int, base: int, offset: int) -> int:
    return 0xF9400000 | offset // 8 << 10 | base << 5 | to


def _str(what: int, base: int, offset: int) -> int:
    return 0xF9000000 | offset // 8 << 10 | base << 5 | what


def _add(to: int, what: int, number: int) -> int:
    return 0x91000000 | number << 10 | what << 5 | to


def _subs(to: int, what: int, number: int) -> int:
    return 0xF1000000 | number << 10 | what << 5 | to


def _cmp(one: int, two: int) -> int:
    return 0xEB00001F | two << 16 | one << 5


def _branch_if(condition: int, words: int) -> int:
    return 0x54000000 | (words & 0x7FFFF) << 5 | condition


ASSEMBLERS: dict[str, Assembler] = {"x86_64": X86(), "aarch64": Aarch64()}
"""By the kernel's name of the ISA (`uname -m`)."""
