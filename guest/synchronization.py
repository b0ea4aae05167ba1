"""What threads of one process wait for each other with, wherever they run: it reads like Python's `threading`.

Each object is a few 64-bit words of the coherent memory, aligned, and zero at first: zeroed memory is a free mutex, a
semaphore with all its permits, a barrier where nobody is. So nobody has to make them: every thread that knows the
address has the object, and a pickled one is its address.

The words only ever grow. `Semaphore` and all that is made of it are fair: who comes draws a ticket by an atomic
addition, and tickets are served in their order. Who need not wait does so by loads and additions alone, without any
call; who must wait sleeps, and is woken (`guest.protocol.futex`). Neither who holds something nor who waits for it is
known by its kernel, so that threads may move meanwhile, and take the object along.

As soon as a kernel has died, whoever would have to wait gets `WaitBroken`: a thread of that kernel may have held what
is waited for. There are no time-outs: a ticket that was drawn is served.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import index
from types import TracebackType
from typing import Any, Protocol, Self

from guest.errors import GuestFailure

WORD_BYTES = 8


class WaitBroken(GuestFailure):
    """A kernel has died, and a thread would have to wait."""

    kind = "peer"


class Surroundings(Protocol):
    """What a thread has where it runs. Words are known by their addresses."""

    def load(self, address: int) -> int:
        """The word, ordered before all that follows."""

    def fetch_add(self, address: int, number: int) -> int:
        """Add to the word, and return what it was; all before comes before, all after comes after."""

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        """Store `new` if the word is `expected`, and say whether it was; ordered as `fetch_add`."""

    def queue(self, address: int, value: int) -> None:
        """Ask to be woken when the word has reached `value`; returns when that is certain. Raises WaitBroken."""

    def cancel(self) -> None:
        """The thread need not be woken any more."""

    def await_wake(self) -> None:
        """Until it is woken, after `queue`. Raises WaitBroken."""

    def wake(self, address: int, value: int) -> None:
        """The word has reached `value`: wake whoever waits for that, or for less."""


_here: list[Surroundings] = []


def surround(surroundings: Surroundings | None) -> None:
    """From now on, threads of this process synchronise by means of these."""
    _here[:] = [] if surroundings is None else [surroundings]


def here() -> Surroundings:
    """The surroundings of this process. Raises GuestFailure where there are none."""
    if not _here:
        raise GuestFailure(
            "this process has no part in the coherent memory, so it has nobody to synchronise with",
            "threads of the workload `script` have; `testbed.h` is for C",
        )
    return _here[0]


def wait_until(address: int, value: int) -> None:
    """Return when the word has reached `value`; sleep meanwhile. Raises WaitBroken.

    Once it is queued the thread looks at the word again: before that it might have grown, with nobody there to wake.
    """
    surroundings = here()
    while surroundings.load(address) < value:
        surroundings.queue(address, value)
        if surroundings.load(address) >= value:
            surroundings.cancel()
            return
        surroundings.await_wake()


class _Shared:
    """Something at an address."""

    words = 1
    """How many words it takes."""

    def __init__(self, address: int) -> None:
        if address % WORD_BYTES:
            raise ValueError(f"a {type(self).__name__} at {address:#x}, expected a multiple of {WORD_BYTES} bytes")
        self.address = address

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.address:#x}>"


class Counter(_Shared):
    """A number that all threads add to."""

    def add(self, number: int = 1) -> int:
        """Add to it, at once for everybody, and return what it was before."""
        return here().fetch_add(self.address, index(number))

    @property
    def value(self) -> int:
        """The number now, from 0 to 2**64 - 1."""
        return here().load(self.address)


class Event(_Shared):
    """Something that happens once."""

    def is_set(self) -> bool:
        """Whether it has happened."""
        return here().load(self.address) > 0

    def set(self) -> None:
        """It happens: all who wait go on. It never becomes unset."""
        if here().compare_exchange(self.address, 0, 1):
            here().wake(self.address, 1)

    def wait(self) -> None:
        """Return when it has happened. Raises WaitBroken."""
        wait_until(self.address, 1)


_empty_handed: list[bool] = []


@contextmanager
def empty_handed() -> Iterator[None]:
    """What is pickled meanwhile is for a new thread: it holds no mutex, and has no place in a queue."""
    _empty_handed.append(True)
    try:
        yield
    finally:
        _empty_handed.pop()


class Semaphore(_Shared):
    """At most `permits` threads have acquired it and not released it yet; a permit may be released by any thread.

    Two words: tickets drawn, and permits released. Ticket t is served when t < permits + released.
    """

    words = 2

    def __init__(self, address: int, permits: int = 1) -> None:
        super().__init__(address)
        if index(permits) < 0:
            raise ValueError(f"a semaphore with {permits} permits, expected at least 0")
        self.permits = index(permits)
        self.ticket: int | None = None
        """The place in the queue that this thread has, if it has one."""

    def __getstate__(self) -> dict[str, Any]:
        """All of it goes along with a thread that moves; a new thread has to come by what it holds itself."""
        return {**vars(self), "ticket": None} if _empty_handed else vars(self)

    def enqueue(self) -> None:
        """Take the next place in the queue without waiting; `acquire` waits then. The place moves with the thread."""
        if self.ticket is None:
            self.ticket = here().fetch_add(self.address, 1)

    def acquire(self, blocking: bool = True) -> bool:
        """Get a permit: wait for it, or say whether there was one. Raises WaitBroken."""
        if not blocking and self.ticket is None:
            return self._acquire_free()
        self.enqueue()
        assert self.ticket is not None
        turn = self.ticket + 1 - self.permits
        if not blocking and here().load(self._released) < turn:
            return False
        wait_until(self._released, turn)
        self.ticket = None
        return True

    def release(self) -> None:
        """Give a permit back."""
        released = here().fetch_add(self._released, 1) + 1
        if here().load(self.address) >= self.permits + released:
            here().wake(self._released, released)

    @property
    def _released(self) -> int:
        return self.address + WORD_BYTES

    def _acquire_free(self) -> bool:
        """Draw a ticket only if it is served at once."""
        surroundings = here()
        drawn = surroundings.load(self.address)
        free = drawn < self.permits + surroundings.load(self._released)
        return free and surroundings.compare_exchange(self.address, drawn, drawn + 1)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()


class Mutex(Semaphore):
    """At most one thread holds it: a semaphore with one permit, which only its holder releases."""

    def __init__(self, address: int) -> None:
        super().__init__(address, 1)
        self.held = False
        """Whether this thread holds it."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "held": False} if _empty_handed else vars(self)

    def acquire(self, blocking: bool = True) -> bool:
        """Hold it: wait for it, or say whether it was free. Raises RuntimeError if this thread holds it already, and
        WaitBroken."""
        if self.held:
            raise RuntimeError(f"{self!r} is held by this very thread: it would wait for itself")
        self.held = super().acquire(blocking)
        return self.held

    def release(self) -> None:
        """Let the next one have it. Raises RuntimeError if this thread does not hold it."""
        if not self.held:
            raise RuntimeError(f"{self!r} is released, but this thread does not hold it")
        self.held = False
        super().release()

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.held or error is None:  # it is let go of while a condition is waited for, and that may be broken off
            self.release()

    def locked(self) -> bool:
        """Whether any thread holds it."""
        surroundings = here()
        released = surroundings.load(self._released)
        return surroundings.load(self.address) > released


class Condition(_Shared):
    """Threads that hold a mutex wait here until another one that holds it says that something has changed.

    Two words: tickets drawn by those who wait, and how many of them were notified, in their order.
    """

    words = 2

    def __init__(self, address: int, mutex: Mutex) -> None:
        super().__init__(address)
        if not isinstance(mutex, Mutex):
            raise TypeError(f"a condition of a {type(mutex).__name__}, expected a Mutex")
        self.mutex = mutex

    def wait(self) -> None:
        """Let go of the mutex until this thread is notified; it holds it again then. Raises RuntimeError if it does not
        hold it now, and WaitBroken, without the mutex."""
        self._demand_mutex("waits")
        ticket = here().fetch_add(self.address, 1)
        self.mutex.release()
        wait_until(self._notified, ticket + 1)
        self.mutex.acquire()

    def wait_for(self, predicate: Callable[[], Any]) -> Any:
        """Wait as often as it takes until `predicate()` is true, and return what it says."""
        while not (found := predicate()):
            self.wait()
        return found

    def notify(self, count: int = 1) -> None:
        """The `count` threads that have waited longest go on, or as many as there are. Raises RuntimeError if this
        thread does not hold the mutex, ValueError if they are fewer than none."""
        self._demand_mutex("notifies")
        if index(count) < 0:
            raise ValueError(f"{count} threads to notify, expected at least 0")
        surroundings = here()
        notified = surroundings.load(self._notified)
        count = min(count, surroundings.load(self.address) - notified)
        if count > 0:
            surroundings.fetch_add(self._notified, count)
            surroundings.wake(self._notified, notified + count)

    def notify_all(self) -> None:
        """All threads that wait go on."""
        self.notify(1 << 32)

    @property
    def _notified(self) -> int:
        return self.address + WORD_BYTES

    def _demand_mutex(self, does: str) -> None:
        if not self.mutex.held:
            raise RuntimeError(f"a thread {does} at {self!r} without holding {self.mutex!r}")

    def __enter__(self) -> Self:
        self.mutex.acquire()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if (
            self.mutex.held or error is None
        ):  # it is let go of while a condition is waited for, and that may be broken off
            self.mutex.release()


class Barrier(_Shared):
    """Where `parties` threads meet, again and again. One word: how often a thread has come."""

    def __init__(self, address: int, parties: int) -> None:
        super().__init__(address)
        if index(parties) < 1:
            raise ValueError(f"a barrier of {parties} parties, expected at least 1")
        self.parties = index(parties)
        self.come: int | None = None
        """How often threads had come before this one did, if it waits or its wait was broken off."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "come": None} if _empty_handed else vars(self)

    def wait(self) -> int:
        """Return when all have come; the first one gets 0, the last one `parties` - 1. Raises WaitBroken: then this
        thread has come all the same, and waits at the same meeting if it tries again."""
        if self.come is None:
            self.come = here().fetch_add(self.address, 1)
        meeting, place = divmod(self.come, self.parties)
        complete = (meeting + 1) * self.parties
        if place == self.parties - 1:
            here().wake(self.address, complete)
        else:
            wait_until(self.address, complete)
        self.come = None
        return place
