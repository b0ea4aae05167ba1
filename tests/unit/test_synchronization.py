"""What one thread alone can see of mutexes, semaphores, conditions, barriers, events and counters."""

import pickle
from collections.abc import Callable, Iterator

import pytest

from guest.errors import GuestFailure
from guest.synchronization import Barrier, Condition, Counter, Event, Mutex, Semaphore, empty_handed, surround


class Alone:
    """A thread that nobody else is with: it may never have to sleep."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.woken: list[tuple[int, int]] = []

    def load(self, address: int) -> int:
        return self.words.get(address, 0)

    def fetch_add(self, address: int, number: int) -> int:
        found = self.load(address)
        self.words[address] = found + number
        return found

    def compare_exchange(self, address: int, expected: int, new: int) -> bool:
        if self.load(address) != expected:
            return False
        self.words[address] = new
        return True

    def queue(self, address: int, value: int) -> None:
        raise AssertionError(f"it waits for {value} in {address:#x}")

    cancel = await_wake = None

    def wake(self, address: int, value: int) -> None:
        self.woken.append((address, value))


@pytest.fixture
def alone() -> Iterator[Alone]:
    surroundings = Alone()
    surround(surroundings)  # type: ignore[arg-type]
    yield surroundings
    surround(None)


def test_a_free_mutex_costs_no_call(alone: Alone) -> None:
    mutex = Mutex(64)
    assert not mutex.locked()
    with mutex:
        assert mutex.held
        assert mutex.locked()
    assert not mutex.locked()
    assert alone.woken == []


def test_a_mutex_says_what_it_is_misused_for(alone: Alone) -> None:
    mutex = Mutex(64)
    with pytest.raises(RuntimeError, match="does not hold it"):
        mutex.release()
    mutex.acquire()
    with pytest.raises(RuntimeError, match="wait for itself"):
        mutex.acquire()
    with pytest.raises(RuntimeError, match="<Condition at 0x80> without holding <Mutex at 0x60>"):
        Condition(128, Mutex(96)).wait()
    with pytest.raises(ValueError, match="0x41, expected a multiple of 8"):
        Mutex(65)
    with pytest.raises(ValueError, match="-1 permits"):
        Semaphore(64, -1)
    with pytest.raises(ValueError, match="0 parties"):
        Barrier(64, 0)
    assert alone.load(64) == 1


def test_who_tries_takes_no_place_in_the_queue(alone: Alone) -> None:
    first, second = Mutex(64), Mutex(64)
    assert first.acquire(blocking=False)
    assert not second.acquire(blocking=False)
    assert not second.held
    first.release()
    assert alone.woken == []
    assert second.acquire(blocking=False)


def test_a_place_in_the_queue_and_a_held_mutex_travel(alone: Alone) -> None:
    holder, waiter = Mutex(64), Mutex(64)
    holder.acquire()
    waiter.enqueue()
    waiter = pickle.loads(pickle.dumps(waiter))
    assert not waiter.acquire(blocking=False)
    pickle.loads(pickle.dumps(holder)).release()
    assert alone.woken == [(72, 1)]
    waiter.acquire()
    assert pickle.loads(pickle.dumps(waiter)).held


def test_a_condition_travels_with_its_mutex(alone: Alone) -> None:
    condition = Condition(80, Mutex(64))
    condition.mutex.acquire()
    moved = pickle.loads(pickle.dumps(condition))
    moved.notify_all()
    assert alone.woken == []
    with pytest.raises(AssertionError, match="waits for 1 in 0x58"):
        moved.wait()
    assert not moved.mutex.locked()


def test_a_semaphore_has_its_permits_in_zeroed_memory(alone: Alone) -> None:
    semaphore = Semaphore(64, 2)
    assert [semaphore.acquire(blocking=False) for _ in range(3)] == [True, True, False]
    semaphore.release()
    with semaphore:
        pass
    assert alone.woken == []
    with pytest.raises(AssertionError, match="waits for 1 in 0x88"):
        Semaphore(128, 0).acquire()
    Semaphore(128, 0).release()
    assert alone.woken == [(136, 1)]


def test_the_last_one_at_a_barrier_wakes_the_others(alone: Alone) -> None:
    assert Barrier(64, 1).wait() == 0
    alone.words[128] = 5
    assert Barrier(128, 3).wait() == 2
    assert alone.woken == [(64, 1), (128, 6)]


def test_who_is_broken_off_at_a_barrier_has_come_once_and_waits_at_the_same_meeting(alone: Alone) -> None:
    barrier = Barrier(128, 3)
    for _ in range(3):
        with pytest.raises(AssertionError, match="waits for 3 in 0x80"):
            barrier.wait()
    moved = pickle.loads(pickle.dumps(barrier))
    assert alone.words[128] == 1
    alone.words[128] = 3
    assert moved.wait() == 0
    with pytest.raises(AssertionError, match="waits for 6 in 0x80"):
        moved.wait()
    assert alone.words[128] == 4
    with empty_handed():
        other = pickle.loads(pickle.dumps(moved))
    with pytest.raises(AssertionError, match="waits for 6 in 0x80"):
        other.wait()
    assert alone.words[128] == 5


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Barrier(64, 1.5), "'float' object cannot be interpreted as an integer"),  # type: ignore[arg-type]
        (lambda: Semaphore(64, "x"), "'str' object cannot be interpreted as an integer"),  # type: ignore[arg-type]
        (lambda: Counter(64).add(1.5), "'float' object cannot be interpreted as an integer"),  # type: ignore[arg-type]
        (lambda: Condition(64, None), "a condition of a NoneType, expected a Mutex"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_of_threads_or_no_mutex_is_refused_at_once(
    alone: Alone, make: Callable[[], object], why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        make()
    assert not any(alone.words.values())


def test_fewer_than_none_cannot_be_notified(alone: Alone) -> None:
    condition = Condition(80, Mutex(64))
    with condition.mutex, pytest.raises(ValueError, match="-3 threads to notify, expected at least 0"):
        condition.notify(-3)


def test_an_event_happens_once(alone: Alone) -> None:
    event = Event(64)
    assert not event.is_set()
    event.set()
    event.set()
    event.wait()
    assert event.is_set()
    assert alone.woken == [(64, 1)]


def test_a_counter_says_what_it_was(alone: Alone) -> None:
    counter = Counter(64)
    assert (counter.add(), counter.add(5), counter.value) == (0, 1, 6)
    assert alone.words == {64: 6}


def test_outside_of_the_coherent_memory_there_is_nobody() -> None:
    with pytest.raises(GuestFailure, match="no part in the coherent memory"):
        Mutex(64).acquire()
