"""Threads that run real code in the model: the very functions of `guest.synchronization`, one operation at a time.

A thread is its program and what its operations have returned so far. Its next operation is found by running the program
again from its beginning, with those results, up to the first operation that has none yet. So nothing of the code that
is checked is written down a second time, and a thread's state is a value.
"""

from collections.abc import Callable
from typing import NamedTuple

from guest import synchronization
from guest.synchronization import WaitBroken
from orchestrator.checker.step import Violation

LOAD, STORE, ADD, EXCHANGE = "load", "store", "add", "exchange"
QUEUE, CANCEL, SLEEP, WAKE = "queue", "cancel", "sleep", "wake"
ACCESSES = (LOAD, STORE, ADD, EXCHANGE)
BROKEN = "broken"
"""What `queue` and `await_wake` return to a thread that gets WaitBroken."""

Result = int | str | None


class Operation(NamedTuple):
    """What a thread is about to do."""

    kind: str
    address: int = 0
    value: int = 0
    new: int = 0

    def __str__(self) -> str:
        words = {
            LOAD: "loads",
            STORE: f"stores {self.value} in",
            ADD: f"adds {self.value} to",
            EXCHANGE: f"exchanges {self.value} for {self.new} in",
            QUEUE: f"asks to wait for {self.value} in",
            WAKE: f"wakes who waits for {self.value} in",
        }
        return f"{words[self.kind]} word {self.address:#x}" if self.kind in words else f"{self.kind}s"


class Next(NamedTuple):
    """Where a thread is."""

    operation: Operation | None
    """None at its end."""
    inside: bool = False
    """Whether it is between `enter` and `leave`."""
    broken: bool = False
    """Whether it ended with WaitBroken."""


class _Pending(BaseException):
    """Ends a run at the first operation without a result."""


class Thread:
    """What a program is given, and its surroundings."""

    def __init__(self, history: tuple[Result, ...]) -> None:
        self._history = history
        self._done = 0
        self.pending: Operation | None = None
        self.inside = False

    def enter(self) -> None:
        """From here on it is where only so many threads may be."""
        self.inside = True

    def leave(self) -> None:
        """It is there no more."""
        self.inside = False

    def load(self, address: int) -> int:
        """See `Surroundings`, as for the others."""
        return int(self._result(Operation(LOAD, address)) or 0)

    def store(self, address: int, value: int) -> None:
        """A plain store."""
        self._result(Operation(STORE, address, value))

    def fetch_add(self, address: int, number: int) -> int:
        """See `Surroundings`."""
        return int(self._result(Operation(ADD, address, number)) or 0)

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """See `Surroundings`."""
        return bool(self._result(Operation(EXCHANGE, address, expected, new)))

    def queue(self, address: int, value: int) -> None:
        """See `Surroundings`."""
        self._wait(Operation(QUEUE, address, value))

    def cancel(self) -> None:
        """See `Surroundings`."""
        self._result(Operation(CANCEL, -1))

    def await_wake(self) -> None:
        """See `Surroundings`."""
        self._wait(Operation(SLEEP, -1))

    def wake(self, address: int, value: int) -> None:
        """See `Surroundings`."""
        self._result(Operation(WAKE, address, value))

    def _wait(self, operation: Operation) -> None:
        if self._result(operation) == BROKEN:
            raise WaitBroken("a kernel died")

    def _result(self, operation: Operation) -> Result:
        if self.pending is None and self._done < len(self._history):
            self._done += 1
            return self._history[self._done - 1]
        self.pending = self.pending or operation
        raise _Pending


Program = Callable[[Thread], None]
_known: dict[tuple[Program, tuple[Result, ...]], Next] = {}


def follow(program: Program, history: tuple[Result, ...]) -> Next:
    """Where a thread of this program is after these results. Raises Violation if the program finds something wrong."""
    thread = Thread(history)
    synchronization.surround(thread)
    broken = False
    try:
        program(thread)
    except _Pending:
        pass
    except WaitBroken:
        broken = True
    except Exception as error:
        raise Violation(f"a thread finds something wrong: {type(error).__name__}: {error}") from error
    finally:
        synchronization.surround(None)
    return Next(thread.pending, thread.inside, broken)
