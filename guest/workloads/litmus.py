"""Litmus tests: very short programs, one a thread, whose outcomes tell one memory consistency model from another.

A program is a list of loads and stores of variables. An *instance* is one run of all programs on variables of its own;
a round holds `slots` instances, each on its own pages. Values name their round, so nothing has to be reset between
rounds: what is left of the round before is the initial value. After the programs of a round, behind a barrier, every
thread loads every variable once more: its final value.

Programs only show anything when they run at the same time. A barrier of the harness is too coarse for that, so before
each instance the threads meet in the memory itself: each stores how far it is in a page of its own, and looks at the
others'. After that each waits for a random part of what such a step took, so that the programs meet in ever new ways,
on machines of any speed.

Nothing is judged here: what was loaded and stored, and when, is kept for the host, in the layout that `run` describes.
"""

from array import array
from collections.abc import Sequence
from os import sched_yield
from time import perf_counter_ns, sleep
from typing import NamedTuple

from guest.fence import full_fence
from guest.workloads.workload import PAGE_BYTES, AccessRecorder, Barrier, Mismatch, Place, WorkloadError

WORDS_PER_PAGE = PAGE_BYTES // 8
CODES = 8
"""A store's code, 1 to 7, is the low part of the value it stores; the high part is its round, counted from 1."""
_VARIABLES_MAX = 8
_SLEEP_NS = 100_000
"""Waits shorter than this are spun: going to sleep takes about as long."""
_LOOKS = 64
"""How often a thread looks at the others' progress before it yields the processor."""
_YIELDS = 16
"""How often it yields before it sleeps: whoever is late may need this processor, to serve a page fault for example."""
_NAP_S = 50e-6


class Step(NamedTuple):
    """One step of a program."""

    kind: str
    """`load`, `store`, or `fence`: a full one, which a program on coherent memory does not need."""
    variable: int
    code: int


class Litmus(NamedTuple):
    """The workload `litmus`. A thread's role is `p` and the number of its program, or `idle`."""

    programs: tuple[tuple[Step, ...], ...]
    variables: int
    rounds: int
    slots: int
    same_page: bool
    """Whether the variables of an instance lie in one page, side by side, or in one each."""
    seed: int

    @classmethod
    def parse(cls, fields: dict[str, object]) -> "Litmus":
        """From the fields of a run command. Raises WorkloadError."""
        variables = _whole(fields, "variables", 1, _VARIABLES_MAX)
        programs = fields.get("programs")
        if not isinstance(programs, list) or not programs or not all(isinstance(each, list) for each in programs):
            raise WorkloadError(f"litmus: programs {programs!r}, expected a list of lists of steps")
        return cls(
            tuple(tuple(_step(step, variables) for step in program) for program in programs),
            variables,
            _whole(fields, "rounds", 1, 1 << 32),
            _whole(fields, "slots", 1, WORDS_PER_PAGE),
            bool(fields.get("same_page", False)),
            _whole(fields, "seed", 0, (1 << 32) - 1),
        )

    @property
    def iterations(self) -> int:
        """Rounds, each with two barriers."""
        return self.rounds

    @property
    def pages(self) -> int:
        """The variables' pages, and one for each program's progress."""
        return self.slots * (1 if self.same_page else self.variables) + len(self.programs)

    @property
    def spares_threads(self) -> bool:
        """No: an instance without one of its programs shows nothing."""
        return False

    def check_roles(self, roles: Sequence[Sequence[str]]) -> None:
        """Raise WorkloadError unless every program has exactly one thread."""
        given = sorted(name for kernel in roles for name in kernel if name != "idle")
        wanted = sorted(f"p{number}" for number in range(len(self.programs)))
        if given != wanted:
            raise WorkloadError(f"litmus: roles {given!r}, expected one thread for each of {wanted!r}, others idle")

    def word(self, slot: int, variable: int) -> int:
        """Index of a variable in the shared memory as 64-bit words."""
        if self.same_page:
            return slot * WORDS_PER_PAGE + variable
        return (slot * self.variables + variable) * WORDS_PER_PAGE

    def run(
        self, memory: memoryview, place: Place, barrier: Barrier, accesses: AccessRecorder
    ) -> tuple[int, list[Mismatch]]:
        """One thread's part; it keeps a history of 64-bit words, nothing if the thread is idle.

        For each round: for each slot, for each load and store: the value, and CLOCK_MONOTONIC before and after, in ns;
        then for each slot, for each variable: its final value.
        """
        words = memory.cast("Q")
        history = array("q")
        own = None if place.role == "idle" else int(place.role[1:])
        pace = None if own is None else _Pace(self, words, own)
        for number in range(self.rounds):
            barrier()
            if own is not None and pace is not None:
                for slot in range(self.slots):
                    pace.meet()
                    self._instance(words, slot, own, (number + 1) * CODES, pace, history)
            barrier()
            if own is not None:
                everything = ((slot, variable) for slot in range(self.slots) for variable in range(self.variables))
                history.extend(words[self.word(slot, variable)] for slot, variable in everything)
        accesses.keep(history.tobytes())
        return 0, []

    def _instance(
        self, words: memoryview, slot: int, own: int, base: int, pace: "_Pace", history: "array[int]"
    ) -> None:
        """One program once: step by step, with pauses and each with its own times, or as close as Python gets."""
        steps = [(kind, self.word(slot, variable), base + code) for kind, variable, code in self.programs[own]]
        pace.pause()
        if pace.drawn() & 1:
            self._at_once(words, steps, history)
            return
        for kind, word, value in steps:
            if kind == "fence":
                full_fence()
                continue
            pace.pause()
            begin_ns = perf_counter_ns()
            if kind == "store":
                words[word] = seen = value
            else:
                seen = words[word]
            history.extend((seen, begin_ns, perf_counter_ns()))

    def _at_once(self, words: memoryview, steps: list[tuple[str, int, int]], history: "array[int]") -> None:
        """A store is on its way for some ten ns: what can overtake it must follow at once, so nothing is timed here but
        the whole program. Intervals that are too long are still true."""
        found = []
        begin_ns = perf_counter_ns()
        for kind, word, value in steps:
            if kind == "store":
                words[word] = value
                found.append(value)
            elif kind == "load":
                found.append(words[word])
            else:
                full_fence()
        end_ns = perf_counter_ns()
        for value in found:
            history.extend((value, begin_ns, end_ns))


class _Pace:
    """Brings the threads together before each instance, and a little apart again."""

    def __init__(self, litmus: Litmus, words: memoryview, own: int) -> None:
        first = litmus.pages - len(litmus.programs)
        places = [(first + number) * WORDS_PER_PAGE for number in range(len(litmus.programs))]
        self._words = words
        self._own = places.pop(own)
        self._others = places
        self._met = 0
        self._met_ns = perf_counter_ns()
        self._step_ns = 0
        self._random = litmus.seed * 31 + own + 1

    def meet(self) -> None:
        """Returns when every thread is at the same instance; the last one to come is seen a moment later."""
        self._met += 1
        self._words[self._own] = self._met
        for other in self._others:
            looks = 0
            while self._words[other] < self._met:
                looks += 1
                if looks > _LOOKS * _YIELDS:
                    sleep(_NAP_S)
                elif looks % _LOOKS == 0:
                    sched_yield()
        now_ns = perf_counter_ns()
        self._step_ns, self._met_ns = now_ns - self._met_ns, now_ns

    def drawn(self) -> int:
        """A random number of 31 bits: the upper ones of a linear congruential generator (Knuth's MMIX)."""
        self._random = (self._random * 6364136223846793005 + 1442695040888963407) & ((1 << 64) - 1)
        return self._random >> 33

    def pause(self) -> None:
        """Every other time nothing; else a random time, up to a quarter of what the last instance took in all."""
        drawn = self.drawn()
        if drawn & 1:
            return
        pause_ns = drawn % (self._step_ns // 4 + 1)
        if pause_ns > _SLEEP_NS:
            sleep(pause_ns / 1e9)
            return
        until_ns = perf_counter_ns() + pause_ns
        while perf_counter_ns() < until_ns:
            pass


def _step(step: object, variables: int) -> Step:
    match step:
        case ["fence"]:
            return Step("fence", 0, 0)
        case ["load", int(variable)] if 0 <= variable < variables:
            return Step("load", variable, 0)
        case ["store", int(variable), int(code)] if 0 <= variable < variables and 0 < code < CODES:
            return Step("store", variable, code)
    raise WorkloadError(
        f"litmus: step {step!r}, expected [load, V], [store, V, C] or [fence], with V below {variables} and C from 1 "
        f"to {CODES - 1}"
    )


def _whole(fields: dict[str, object], name: str, least: int, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise WorkloadError(f"litmus: {name} {value!r}, expected a whole number from {least} to {most}")
    return value
