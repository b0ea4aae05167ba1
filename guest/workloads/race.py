"""One thread's part in a race: a program, run over and over again on other variables, each time with all the others.

What a program does can only be seen if the programs run at the same moment, and if its accesses follow each other
within some ten nanoseconds: a store is on its way to the other processors for no longer. So programs are machine code,
and so is their meeting, in words of raw shared memory: a meeting in coherent memory would cost page faults.

Nobody may wait in machine code for long, as whoever is late may need this very processor, to serve a page fault for
example. So the code looks a few microseconds long, and leaves it to Python to let others run.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from os import cpu_count, sched_yield
from pathlib import Path
from time import sleep

from guest.link.machine_code import for_this_isa, map_code
from guest.link.segment import address_of
from guest.workloads.race_code import ASSEMBLERS, Operation

ENTRY_WORDS = ADDRESS, VALUE, PAUSE, BEGIN, END = range(5)
"""What the table holds for each access of a program: where; the code to be stored, or what was loaded; how long to wait
before it; and when it was made, by the processor's counter (0 and FOR_EVER where that cannot be trusted)."""
FOR_EVER = (1 << 63) - 1
MEETING_BYTES = 128
"""A cache line for each thread, of the widest CPUs that matter."""

_LOOKS = 4000
"""How often a thread looks at another's word before it lets others run: some ten microseconds."""
_LOOKS_AGAIN = 64
_YIELDS = 16
"""How often it yields before it sleeps. Not for long: on a busy machine, who has used its time waits the longer."""
_NAP_S = 50e-6
_PAUSE_BITS = 16
"""The longest pause is 65,536 turns of an empty loop: 20 µs on a processor, 200 µs on an emulated one. A page fault
takes a few times as long, an access of memory that is there some turns; so pauses are of all magnitudes in between."""
_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_COUNTERS = ("tsc", "kvm-clock", "arch_sys_counter")
"""Clock sources of Linux that are the processor's counter: what it has found to be the same on all processors."""
_Function = Callable[[int, int, int, int, int], int]


class Race:
    """The part of one thread."""

    def __init__(
        self,
        program: Sequence[tuple[str, int, int]],
        places: Sequence[Sequence[int]],
        meeting: Sequence[int],
        seed: int,
    ) -> None:
        """`program`: kind (`load`, `store`, `fence`), variable, code. `places`: for each slot the addresses of its
        variables. `meeting`: addresses of words that were 0 when nobody raced yet, this thread's own first. The memory
        behind all these addresses must stay mapped."""
        accesses = [step for step in program if step[0] != "fence"]
        rows = [
            word for slot in places for _, variable, code in accesses for word in (slot[variable], code, 0, 0, FOR_EVER)
        ]
        entry_bytes = 8 * len(ENTRY_WORDS) * len(accesses)
        self._table = array("Q", rows)
        self._slots = len(places)
        self._entry_bytes = entry_bytes
        self._begin = address_of(memoryview(self._table))
        self._meeting = array("Q", meeting)
        clock = counter_is_common()
        assembler = for_this_isa(ASSEMBLERS, "race", "guest/workloads/race_code.py")
        self._functions = [
            _function(assembler.race(len(meeting) - 1, operations, entry_bytes))
            for operations in (at_once(program, clock=clock), one_by_one(program, clock=clock))
        ]
        self._tickets = 0
        self._random = seed

    def run(self, *, slowly: bool) -> bytes:
        """All slots once, and the table as it is then. `slowly`: with pauses between the accesses, and times of each;
        otherwise with the begin of the first and the end of the last one.
        """
        table = self._table
        table[PAUSE :: len(ENTRY_WORDS)] = array("Q", [self._pause() for _ in range(len(table) // len(ENTRY_WORDS))])
        self._race(self._functions[slowly])
        return table.tobytes()

    def _race(self, function: _Function) -> None:
        entry, end = self._begin, self._begin + self._slots * self._entry_bytes
        meeting = address_of(memoryview(self._meeting))
        waits = 0
        while True:
            ticket = self._tickets + 1 + (entry - self._begin) // self._entry_bytes
            stopped = function(entry, end, ticket, _LOOKS_AGAIN if waits else _LOOKS, meeting)
            if stopped == end:
                self._tickets += self._slots
                return
            waits = waits + 1 if stopped == entry else 1
            entry = stopped
            if waits > _YIELDS:
                sleep(_NAP_S)
            else:
                sched_yield()

    def _pause(self) -> int:
        """Every other time nothing; else a random number of turns, of a random magnitude."""
        # The upper bits of a linear congruential generator (Knuth's MMIX).
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & ((1 << 64) - 1)
        drawn = self._random >> 28
        return 0 if drawn & 1 else (drawn >> 5) & (1 << (drawn >> 1) % (_PAUSE_BITS + 1)) - 1


def at_once(program: Sequence[tuple[str, int, int]], *, clock: bool) -> list[Operation]:
    """The program with nothing between its steps, and times around it."""
    steps = _steps(program)
    last = sum(step.kind != "fence" for step in steps) - 1
    begun, ended = [Operation("clock", _word(0, BEGIN))] * clock, [Operation("clock", _word(last, END))] * clock
    return [Operation("pause", _word(0, PAUSE)), *begun, *steps, *ended]


def one_by_one(program: Sequence[tuple[str, int, int]], *, clock: bool) -> list[Operation]:
    """The program with a pause before each access, and times around it."""
    operations: list[Operation] = []
    access = 0
    for step in _steps(program):
        if step.kind == "fence":
            operations.append(step)
            continue
        operations.append(Operation("pause", _word(access, PAUSE)))
        operations += [Operation("clock", _word(access, BEGIN))] * clock
        operations.append(step)
        operations += [Operation("clock", _word(access, END))] * clock
        access += 1
    return operations


def counter_is_common() -> bool:
    """Whether all processors of this machine count alike, so that their counters can be compared."""
    if cpu_count() == 1:
        return True
    try:
        return _CLOCK_SOURCE.read_text().strip() in _COUNTERS
    except OSError:
        return False


def _steps(program: Sequence[tuple[str, int, int]]) -> list[Operation]:
    steps: list[Operation] = []
    access = 0
    for kind, _, _ in program:
        if kind == "fence":
            steps.append(Operation(kind))
        else:
            steps.append(Operation(kind, _word(access, ADDRESS), _word(access, VALUE)))
            access += 1
    return steps


def _word(access: int, word: int) -> int:
    """Its offset in an entry, in bytes."""
    return 8 * (access * len(ENTRY_WORDS) + word)


def _function(code: bytes) -> _Function:
    prototype = ctypes.PYFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5)
    return prototype(map_code(code, "race"))
