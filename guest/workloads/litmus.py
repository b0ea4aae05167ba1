"""Litmus tests: very short programs, one a thread, whose outcomes tell one memory consistency model from another.

A program is a list of loads and stores of variables. An *instance* is one run of all programs on variables of its own;
a round holds `slots` instances, each on its own pages. Values name their instance, so nothing has to be reset between
rounds: what is left of the round before is the initial value. After the programs of a round, behind a barrier, every
thread loads every variable once more: its final value.

Programs only show anything when they run at the same time: `guest.workloads.race` sees to that. In every other round
they run with nothing between their accesses, in the others access by access, with pauses and times.

What costs page faults on coherent memory is the programs alone: threads meet elsewhere. It also matters which kernels
have the pages when a program begins. All have copies of all pages before a round, from looking at the final values; or,
in most rounds, one thread has stored all of these again, each program's thread in its turn; the others wait for it at
their first meeting.

Nothing is judged here: what was loaded and stored, and when, is kept for the host, in the layout that `run` describes.
"""

import os
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from guest.link.fence import full_fence
from guest.link.segment import address_of
from guest.workloads.race import MEETING_BYTES, Race
from guest.workloads.race_code import CODES
from guest.workloads.workload import PAGE_BYTES, AccessRecorder, Barrier, Mismatch, Place, WorkloadError

WORDS_PER_PAGE = PAGE_BYTES // 8
_VARIABLES_MAX = 8


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
        """The variables' pages."""
        return self.slots * (1 if self.same_page else self.variables)

    @property
    def meeting_bytes(self) -> int:
        """A word for each program, far from the others."""
        return MEETING_BYTES * len(self.programs)

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

        For each round: for each slot, for each load and store: `race.ENTRY_WORDS` as `Race.run` leaves them; then for
        each slot, for each variable: its final value. The ticket of an instance is its number, counted from 1.
        """
        words = memory.cast("Q")
        places = [self.word(slot, variable) for slot in range(self.slots) for variable in range(self.variables)]
        own = None if place.role == "idle" else int(place.role[1:])
        race = None if own is None else self._race(memory, place.meeting, own)
        history = bytearray()
        for number in range(self.rounds):
            barrier()
            if race is not None:
                if number // 2 % (len(self.programs) + 1) == own:
                    for each in places:
                        words[each] = words[each]
                    full_fence()  # before it meets the others, who may store to them
                history += race.run(slowly=number % 2 == 1)
            barrier()
            if race is not None:
                history += array("Q", [words[each] for each in places]).tobytes()
        accesses.keep(bytes(history))
        return 0, []

    def _race(self, memory: memoryview, meeting: memoryview, own: int) -> Race:
        # A processor of its own, as far as there are enough: the scheduler would put threads that wait for each other
        # on one, and there they never meet.
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[own % len(processors)]})
        base, first = address_of(memory), address_of(meeting)
        places = [[base + 8 * self.word(slot, each) for each in range(self.variables)] for slot in range(self.slots)]
        meetings = [first + MEETING_BYTES * number for number in range(len(self.programs))]
        meetings.insert(0, meetings.pop(own))
        return Race(self.programs[own], places, meetings, self.seed * 31 + own + 1)


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
