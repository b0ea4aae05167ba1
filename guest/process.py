"""A process over several kernels, as a program sees it: threads that move, and memory that is the same everywhere.

    from guest.process import Thread

    class Summer(Thread):
        def __init__(self, numbers, first, end):
            self.numbers, self.next, self.end, self.sum = numbers, first, end, 0

        def step(self):                                   # again and again, until it says `exit`
            self.sum += self.numbers[self.next]
            self.next += 1
            if self.next == self.end:
                self.exit(self.sum)
            elif self.next % 100 == 0:
                self.migrate(self.next // 100 % self.process.kernels)

    def main(process):                                    # the first thread, on the home kernel
        numbers = process.array("q", 1000)
        numbers[:] = range(1000)
        halves = [process.start(Summer(numbers, half * 500, half * 500 + 500), on=half) for half in (0, 1)]
        assert sum(half.join() for half in halves) == 499500

A thread is an object with a method `step`. Between two steps its state can travel to another kernel, whatever the
instruction set: it is pickled, and may be `STATE_BYTES` then. All that is larger belongs in the memory that the threads
share: arrays of the process, which are pickled as their address. Threads share nothing else, also on the same
kernel: each runs in a process of the operating system by itself, so none holds another one's interpreter lock. Such a
process serves one thread after the other, so a variable of the program's module has what some thread left there.

`main`, a function, is run by the first thread, which stays on the home kernel. The process ends when its last thread
has, or when a thread says so.
"""

import pickle
from operator import index
from typing import Any, NoReturn, Protocol, SupportsIndex

from guest.entry import Entry
from guest.errors import ThreadError
from guest.link.segment import PAGE_BYTES
from guest.memory.mapping import Mapping
from guest.memory.region import BASE
from guest.memory.reserved import ENTRY_BYTES, RESERVED_PAGES, THREADS_MAX
from guest.protocol.address_space import Operation, Refusal
from guest.protocol.thread_effects import Life
from guest.state import arrays_are, from_bytes, packed, to_bytes
from guest.synchronization import (
    WORD_BYTES,
    Barrier,
    Condition,
    Counter,
    Event,
    Mutex,
    Semaphore,
    WaitBroken,
    empty_handed,
    here,
)

STATE_BYTES = PAGE_BYTES - 8
"""What the pickled state of a thread may be, in bytes: it travels in one page slot, with its length."""

Number = int | float


class ForkFailed(ThreadError):
    """No process could be begun with a copy of the memory."""


class Daemon(Protocol):
    """What a thread asks its daemon for."""

    def start(self, number: int, state: bytes, to: int | None) -> None:
        """A new thread of this number begins at kernel `to`; where placement wants it to, if that is None. When this
        returns, this kernel can say what has become of it."""

    def watch(self, thread: int, began: int, *, until_gone: bool) -> tuple[Life, str, bytes]:
        """What has become of a thread that began on that kernel, in words which kernels have died, and its result, if
        it has ended and that is known. Returns at once, or when the thread is no more, or nobody can know."""

    def operate(self, operation: Operation) -> Refusal:
        """Change the address space."""

    def fork(self, state: bytes, to: int) -> int:
        """Begin a process with a copy of the memory at kernel `to`, with a thread; its number. Raises ForkFailed."""

    def goes_on(self, process: int, *, until_ended: bool) -> bool:
        """Whether the process of that number does. Returns at once, or when it has ended. Raises WaitBroken when its
        home has died, as nobody can say any more whether it has."""

    def figure(self, name: str, value: Number) -> None:
        """Report a number."""

    def exit_group(self) -> None:
        """The whole process ends. May not return."""


def _kernel(number: SupportsIndex, kernels: int) -> int:
    """The number of a kernel, if it is one of so many; else raises ValueError."""
    try:
        kernel = index(number)
    except TypeError:
        kernel = -1
    if not 0 <= kernel < kernels:
        raise ValueError(f"kernel {number!r}, expected 0 to {kernels - 1}")
    return kernel


class Thread:
    """A thread of the process; derive from it. Its attributes are its state."""

    _exited = False
    _result: Any = None
    _destination: int | None = None

    def step(self) -> None:
        """What is done between two migration points; called until `exit` was."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def exit(self, result: Any = None) -> None:
        """This step is the last one; `result` is what `Handle.join` gives."""
        self._exited, self._result = True, result

    def migrate(self, kernel: int) -> None:
        """After this step, go on at that kernel. Raises ValueError if there is none of that number."""
        self._destination = _kernel(kernel, self.process.kernels)

    def stayed(self, why: str) -> None:
        """Called in place of a migration that did not take place, as the destination died or had no process to give:
        the thread goes on where it was. Does nothing unless it is overridden."""

    @property
    def process(self) -> "Process":
        """The process, wherever the thread is."""
        return current()

    @property
    def kernel(self) -> int:
        """Where it is now."""
        return self.process.kernel


@arrays_are
class Array:
    """Numbers in the memory of the process, of a type of `struct` ("q" is 64 bits, "d" a double), zeros at first.

    Slices and `len` are those of a memoryview, which `view` is; NumPy takes it as it is.
    """

    def __init__(self, address: int, typecode: str, length: int) -> None:
        self.address, self.typecode, self.length = address, typecode, length
        self._view: memoryview | None = None

    @property
    def view(self) -> memoryview:
        """The numbers, in place."""
        if self._view is None:
            process = current()
            start = self.address - BASE
            size = self.length * _item_bytes(self.typecode)
            self._view = process.memory[start : start + size].cast(self.typecode)  # type: ignore[call-overload]
        return self._view

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Any) -> Any:
        return self.view[key]

    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        if isinstance(key, slice) and not isinstance(value, memoryview | bytes | bytearray):
            places, numbers = range(*key.indices(self.length)), list(value)
            if len(places) != len(numbers):
                raise ValueError(f"{len(numbers)} numbers for a slice of {len(places)}")
            for place, number in zip(places, numbers, strict=True):
                self.view[place] = number
        else:
            self.view[key] = value

    def __buffer__(self, _flags: int) -> memoryview:
        return self.view

    def __getstate__(self) -> tuple[int, str, int]:
        return self.address, self.typecode, self.length

    def __setstate__(self, state: tuple[int, str, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]


class Handle:
    """A thread that was started: to wait for."""

    def __init__(self, number: int, process: int = 0, began: int = 0) -> None:
        self.number = number
        """Its number in the process; the first thread's is 0."""
        self.process = process
        """The number of its process."""
        self.began = began
        """The kernel where it was started, which knows what has become of it."""

    def join(self) -> Any:
        """Wait until it has ended, wherever it is, and return its result. Raises WaitBroken when it was lost with a
        kernel that died, or its result was, or nobody can know; and ThreadError in a forked process, where threads of
        the one it is a copy of are not, unless it had ended then."""
        process = current()
        entry = _entry(process, self.number)
        if self.process != process.number and not entry.ended():
            raise ThreadError(
                f"thread {self.number} is one of process {self.process}, this is process {process.number}, a copy "
                "that was made while it ran",
                "a fork takes no other threads along: join it before, or in the process that it belongs to",
            )
        try:
            Event(entry.address).wait()
        except WaitBroken:  # a kernel died, but perhaps neither the thread nor its result
            life, dead, result = process._daemon.watch(self.number, self.began, until_gone=True)
            if result:
                return pickle.loads(result)
            if not entry.ended():
                raise self._broken(life, dead) from None
        return entry.result()

    def is_alive(self) -> bool:
        """Whether it is in this process, and has neither ended nor died with its kernel. Raises WaitBroken when the
        kernel has died where it was started, as nobody can know then, unless it has ended."""
        process = current()
        entry = _entry(process, self.number)
        if self.process != process.number or entry.ended():
            return False
        life, dead, _ = process._daemon.watch(self.number, self.began, until_gone=False)
        if life is Life.UNKNOWN and not entry.ended():
            raise self._broken(life, dead)
        return life is Life.ALIVE

    def _broken(self, life: Life, dead: str) -> WaitBroken:
        if life is Life.UNKNOWN:
            return WaitBroken(
                f"{dead} died; thread {self.number} was started on kernel {self.began}, and nobody else can say what "
                "has become of it"
            )
        return WaitBroken(f"{dead} died, and thread {self.number} or its result was lost with that")


class Child:
    """A process that was forked: to wait for."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Its number in the run; the first process's is 0."""

    def join(self) -> None:
        """Wait until its last thread has ended, wherever that is. Results are its own: it has figures to report. Raises
        WaitBroken when its home died: it goes on without that, if it can."""
        current()._daemon.goes_on(self.number, until_ended=True)

    def is_alive(self) -> bool:
        """Whether it has not ended. Raises WaitBroken when its home died, as nobody can say then."""
        return current()._daemon.goes_on(self.number, until_ended=False)


class Process(Mapping):
    """The process, as each of its threads has it."""

    def __init__(
        self, memory: memoryview, kernel: int, kernels: int, told: dict[str, Any], daemon: Daemon, number: int = 0
    ) -> None:
        self.number = number
        """0 for the first process, something else for each one that was forked."""
        self.memory = memory
        """The memory as bytes, the same on every kernel, at `address`; from `size` on it is the process's own."""
        self.address = BASE
        self.kernel = kernel
        """Where the thread that asks is now."""
        self.kernels: int = min(kernels, told.get("kernels") or kernels)
        """How many it may use, from 0 on; 0 is the home kernel."""
        self.parameters: dict[str, Any] = dict(told.get("parameters", {}))
        """Of the experiment file."""
        self.seed: int = told["seed"]
        self.iterations: int = told["iterations"]
        self.size: int = (told["pages"] - RESERVED_PAGES) * PAGE_BYTES
        """Bytes that are mapped at first and that threads may use."""
        self.figure = daemon.figure
        """`figure(name, number)` reports a number, for results and expectations."""
        self._daemon = daemon
        self._operate = daemon.operate
        self._own = range(self.size, told["pages"] * PAGE_BYTES)

    def start(self, thread: Thread, on: int | None = None) -> Handle:
        """Start a thread, on that kernel, or where the experiment's `placement` wants it to begin. Raises ValueError if
        there is no such kernel, TypeError if it is no Thread, ThreadError if its state is too large or there were too
        many threads, and WaitBroken if a kernel died with their number."""
        on = None if on is None else _kernel(on, self.kernels)
        try:
            number = Counter(BASE + self.size).add() + 1
        except WaitBroken as lost:
            raise WaitBroken(
                f"no more threads can be started: {lost.message}, and with the number of threads",
                "the last that started one, or asked for memory, ran there",
            ) from None
        if number >= THREADS_MAX:
            raise ThreadError(
                f"thread {number} of a process, which may have {THREADS_MAX} in its life, its first one included",
                "threads that take one piece of work after the other need not be started again",
            )
        self._daemon.start(number, frozen(thread, new=True), on)
        return Handle(number, self.number, self.kernel)

    def fork(self, thread: Thread, on: int | None = None) -> Child:
        """Begin a new process, on that kernel or on this one, with a copy of the memory as it is at this moment, at the
        same addresses, and with `thread` as its only thread. Raises ValueError if there is no such kernel, ForkFailed
        if there is no room for one more process or the kernel has died."""
        on = self.kernel if on is None else _kernel(on, self.kernels)
        return Child(self._daemon.fork(frozen(thread), on))

    def exit(self) -> NoReturn:
        """End the whole process, with all its threads."""
        self._daemon.exit_group()
        raise AssertionError("the process has ended")

    def array(self, typecode: str, length: int) -> Array:
        """Zeros in the memory, from the start of a page on. Raises MemoryError if there is no room."""
        length = index(length)
        return Array(self.allocate(length * _item_bytes(typecode)), typecode, length)

    def allocate(self, size: int) -> int:
        """The address of that many zeroed bytes, in pages of their own. Raises ValueError if they are fewer than none,
        MemoryError if there is no room; then others can still have what there is."""
        if index(size) < 0:
            raise ValueError(f"memory of {size} bytes, expected at least 0")
        size = -(-size // PAGE_BYTES) * PAGE_BYTES
        word = BASE + self.size + WORD_BYTES
        offset = here().load(word)
        while offset + size <= self.size and not here().compare_exchange(word, offset, offset + size):
            offset = here().load(word)
        if offset + size > self.size:
            raise MemoryError(
                f"{size} bytes behind {offset}, the process has {self.size}: make `pages` or `region` larger"
            )
        return BASE + offset

    def mutex(self) -> Mutex:
        """A mutex in a page of its own, as the next five are."""
        return Mutex(self.allocate(WORD_BYTES))

    def semaphore(self, permits: int) -> Semaphore:
        """See `guest.synchronization`."""
        return Semaphore(self.allocate(WORD_BYTES), permits)

    def condition(self, mutex: Mutex) -> Condition:
        """See `guest.synchronization`."""
        return Condition(self.allocate(WORD_BYTES), mutex)

    def barrier(self, parties: int) -> Barrier:
        """See `guest.synchronization`."""
        return Barrier(self.allocate(WORD_BYTES), parties)

    def event(self) -> Event:
        """See `guest.synchronization`."""
        return Event(self.allocate(WORD_BYTES))

    def counter(self) -> Counter:
        """See `guest.synchronization`."""
        return Counter(self.allocate(WORD_BYTES))


class Main(Thread):
    """The first thread: it runs the program's `main`, and stays at home."""

    def step(self) -> None:
        """All of it."""
        import sys

        program = sys.modules[PROGRAM]
        main = getattr(program, "main", None)
        if not callable(main):
            there = ", ".join(name for name, value in vars(program).items() if callable(value) and name[0] != "_")
            raise ThreadError(
                f"{program.__file__} has no function 'main', expected one; there is: {there or 'nothing to call'}",
                "the first thread runs `main(process)` of the program",
            )
        self.exit(main(self.process))


PROGRAM = "program"
"""The name of the program's module, on every kernel: by it pickled threads find their classes."""

_current: list[Process] = []


def current() -> Process:
    """The process that this thread belongs to."""
    if not _current:
        here()  # says what is wrong
    return _current[0]


def enter(process: Process) -> None:
    """This process of the operating system is a part of `process` from now on."""
    _current[:] = [process]


def frozen(thread: Thread, *, new: bool = False) -> bytes:
    """The state of a thread, to travel; a `new` one holds nothing of what the one that starts it holds. Raises
    ThreadError if it cannot be pickled, or is too large."""
    if not isinstance(thread, Thread):
        raise TypeError(f"found {thread!r}, expected a Thread: an object of a class that is derived from it")
    if new:
        with empty_handed():
            return frozen(thread)
    state = packed(to_bytes, thread, "state")
    if len(state) > STATE_BYTES:
        raise ThreadError(
            f"the state of a {type(thread).__name__} is {len(state)} bytes, {STATE_BYTES} are the most",
            "keep what is large in an array of the process: its state is its address",
        )
    return state


def _item_bytes(typecode: str) -> int:
    """Raises ValueError if there is no such type."""
    try:
        return memoryview(bytes(16)).cast(typecode).itemsize  # type: ignore[call-overload,no-any-return]
    except ValueError:
        raise ValueError(f"numbers of type {typecode!r}, expected a letter of `struct`, such as 'q' or 'd'") from None


def thawed(state: bytes | memoryview) -> Thread:
    """A thread from its state, here."""
    thread: Thread = from_bytes(state)
    return thread


def ended(process: Process, number: int, result: Any) -> bytes:
    """The thread has ended: whoever joins it goes on. Returns its result, pickled."""
    return _entry(process, number).end(result)


def _entry(process: Process, number: int) -> Entry:
    return Entry(process.memory, process.size + PAGE_BYTES + number * ENTRY_BYTES)


__all__ = [
    "Array",
    "Barrier",
    "Child",
    "Condition",
    "Counter",
    "Event",
    "Handle",
    "Mutex",
    "Process",
    "Semaphore",
    "Thread",
    "ThreadError",
]
