"""Workloads that are programs of the user's: functions of a Python file, or an executable. They come by descriptor.

The harness gives them the coherent memory, their place among all threads, and the barrier. What they show is theirs to
check: a failed check ends the run, and is not the same as a program that breaks.
"""

import os
import sys
from collections.abc import Callable, Sequence
from socket import socket
from types import CodeType
from typing import Any, NamedTuple

from guest.memory.atomic import word_at
from guest.memory.mapping import Mapping
from guest.memory.region import BASE
from guest.synchronization import WORD_BYTES, Barrier, Condition, Counter, Event, Mutex, Semaphore
from guest.workloads.workload import PAGE_BYTES, AccessRecorder, Gone, Mismatch, Place, WorkloadError

MISMATCHES_KEPT = 16
Number = int | float


class Part(Mapping):
    """What a function of a script is given: its part of the experiment."""

    def __init__(
        self,
        memory: memoryview,
        place: Place,
        barrier: Callable[[], Gone],
        accesses: AccessRecorder,
        script: "Script",
    ) -> None:
        self.memory = memory
        """The coherent memory as bytes, the same on every kernel."""
        self.address = BASE
        """Where it lies, on every kernel."""
        self.kernel = place.kernel
        self.kernels = len(place.roles)
        self.thread = place.thread
        """Among those of this kernel, from 0."""
        self.role = place.role
        self.rank, self.ranks = place.rank, place.ranks
        """Among all threads, and their number."""
        self.seed = script.seed
        self.iterations = script.iterations
        self.parameters = dict(script.parameters)
        self.barrier = barrier
        """Returns when every thread has called it."""
        self.figure = accesses.figure
        """`figure(name, number)` reports a number, for results and expectations."""
        self.wrong = 0
        self.mismatches: list[Mismatch] = []
        self._operate = place.operate

    def counter(self, offset: int) -> Counter:
        """A number that all threads add to, in the word at `offset` bytes of the memory.

        This and what follows are objects of `guest.synchronization`, each in zeroed words of its own, aligned.
        """
        return Counter(self._words_at(offset, Counter.words))

    def event(self, offset: int) -> Event:
        """Something that happens once, in one word."""
        return Event(self._words_at(offset, Event.words))

    def mutex(self, offset: int) -> Mutex:
        """A fair mutex, in two words."""
        return Mutex(self._words_at(offset, Mutex.words))

    def semaphore(self, offset: int, permits: int) -> Semaphore:
        """A fair semaphore, in two words. All threads say the same number of permits."""
        return Semaphore(self._words_at(offset, Semaphore.words), permits)

    def condition(self, offset: int, mutex: Mutex) -> Condition:
        """A condition, in two words beside those of its mutex."""
        return Condition(self._words_at(offset, Condition.words), mutex)

    def meeting(self, offset: int, parties: int) -> Barrier:
        """A barrier for as many threads as one likes, in one word; `barrier` is for all of them."""
        return Barrier(self._words_at(offset, Barrier.words), parties)

    def _words_at(self, offset: int, words: int) -> int:
        word_at(self.memory, offset + (words - 1) * WORD_BYTES)
        return word_at(self.memory, offset)

    def members(self, role: str) -> list[int]:
        """Ranks of all threads with this role."""
        return [rank for rank, name in enumerate(self._everyone) if name == role]

    def check(self, offset: int, expected: int, found: int, iteration: int = 0) -> None:
        """Compare a value that was loaded from `offset` of the memory with what it must be; a wrong one is recorded."""
        if expected == found:
            return
        self.wrong += 1
        if len(self.mismatches) < MISMATCHES_KEPT:
            page, within = divmod(offset, PAGE_BYTES)
            self.mismatches.append(Mismatch(self.kernel, self.thread, iteration, page, within, expected, found))

    _everyone: tuple[str, ...] = ()


class Program(NamedTuple):
    """What every program is told."""

    iterations: int
    pages: int
    seed: int

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Program":
        return cls(*(_whole(fields, name, least) for name, least in (("iterations", 1), ("pages", 1), ("seed", 0))))


class _Program:
    """What all programs are to the harness."""

    meeting_bytes = 0
    """Barriers are all they are given."""
    spares_threads = False
    """The others cannot know what one that died was to do."""

    def __init__(self, told: Program) -> None:
        self.iterations, self.pages, self.seed = told

    def check_roles(self, roles: Sequence[Sequence[str]]) -> None:
        """Raise WorkloadError unless every kernel has a thread: all of them meet at barriers."""
        for kernel, names in enumerate(roles):
            if not names or "idle" in names:
                raise WorkloadError(f"kernel {kernel} has no thread", "give every kernel one: all meet at barriers")


class Script(_Program):
    """The workload `script`: a thread's role is the name of its function, which is called with its `Part`."""

    def __init__(self, told: Program, parameters: dict[str, Any]) -> None:
        super().__init__(told)
        self.parameters = parameters
        self._code: CodeType | None = None

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Script":
        """From the fields of a run command. Raises WorkloadError."""
        parameters = fields.get("parameters", {})
        if not isinstance(parameters, dict):
            raise WorkloadError(f"script: parameters {parameters!r}, expected an object")
        return cls(Program.parse(fields), parameters)

    def take(self, program_fd: int, name: str, _daemon: socket, _place: Place) -> None:
        """Compile the script. Raises what Python says of it."""
        # Not from where the file stands: all who were forked with it share that.
        self._code = compile(os.pread(program_fd, os.fstat(program_fd).st_size, 0), name, "exec")
        if sys.flags.no_site:  # the agent starts without, which is quicker
            import site

            site.main()

    def run(
        self, memory: memoryview, place: Place, barrier: Callable[[], Gone], accesses: AccessRecorder
    ) -> tuple[int, list[Mismatch]]:
        """One thread's part: what its function checked."""
        if self._code is None:
            raise WorkloadError("script: there is no file", "put it, and name it in the run command")
        part = Part(memory, place, barrier, accesses, self)
        part._everyone = tuple(name for names in place.roles for name in names)
        functions: dict[str, Any] = {"__name__": "script", "__file__": self._code.co_filename}
        exec(self._code, functions)
        function = functions.get(place.role)
        if not callable(function):
            known = ", ".join(name for name, value in functions.items() if callable(value) and name[0] != "_")
            raise WorkloadError(
                f"script: found no function {place.role!r}, expected one of: {known or 'none is there'}"
            )
        function(part)
        return part.wrong, part.mismatches


class Native(_Program):
    """The workload `native`: the thread becomes the program, which attaches itself with `testbed.h`."""

    def __init__(self, told: Program, arguments: list[str]) -> None:
        super().__init__(told)
        self._arguments = arguments

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Native":
        """From the fields of a run command. Raises WorkloadError."""
        arguments = fields.get("arguments", [])
        if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
            raise WorkloadError(f"native: arguments {arguments!r}, expected a list of strings")
        return cls(Program.parse(fields), arguments)

    def take(self, program_fd: int, name: str, daemon: socket, place: Place) -> None:
        """Become the program. Does not return."""
        socket_fd = os.dup(daemon.fileno())
        os.set_inheritable(socket_fd, True)
        told = {
            "SOCKET": socket_fd,
            "KERNEL": place.kernel,
            "KERNELS": len(place.roles),
            "THREAD": place.thread,
            "RANK": place.rank,
            "RANKS": place.ranks,
            "ROLE": place.role,
            "SEED": self.seed,
            "ITERATIONS": self.iterations,
        }
        environment = {f"TESTBED_{key}": str(value) for key, value in told.items()}
        os.execve(program_fd, [name, *self._arguments], {"PATH": os.defpath, **environment})

    def run(
        self,
        memory: memoryview,  # noqa: ARG002 - the same for all workloads
        place: Place,  # noqa: ARG002
        barrier: Callable[[], Gone],  # noqa: ARG002
        accesses: AccessRecorder,  # noqa: ARG002
    ) -> tuple[int, list[Mismatch]]:
        """Reached only when there is no program to become."""
        raise WorkloadError("native: there is no program", "put it, and name it in the run command")


def _whole(fields: dict[str, Any], name: str, least: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise WorkloadError(f"{fields.get('kind')}: {name} {value!r}, expected a whole number from {least}")
    return value
