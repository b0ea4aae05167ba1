"""What a distributed process gives to its threads, as far as one of them alone can see it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guest.link.segment import PAGE_BYTES
from guest.memory.region import BASE
from guest.memory.reserved import RESERVED_PAGES
from guest.process import Process, Thread, ThreadError, frozen, thawed
from guest.protocol.address_space import Operation, Refusal
from guest.synchronization import Condition, Mutex, surround
from tests.unit.test_synchronization import Alone

PAGES = 4


class Nobody:
    """A daemon that is asked for nothing."""

    def __init__(self) -> None:
        self.figure = self.operate = None


class Holder(Thread):
    """A thread with something in its hands."""

    def __init__(self, mutex: Mutex, more: Any = None) -> None:
        self.mutex, self.more = mutex, more


@pytest.fixture
def process() -> Iterator[Process]:
    surround(Alone())  # type: ignore[arg-type]
    told = {"seed": 0, "iterations": 1, "pages": PAGES + RESERVED_PAGES}
    memory = memoryview(bytearray((PAGES + RESERVED_PAGES) * PAGE_BYTES))
    yield Process(memory, 0, 1, told, Nobody())  # type: ignore[arg-type]
    surround(None)


def test_a_new_thread_holds_nothing_of_what_its_starter_holds(process: Process) -> None:
    mutex, waiting = process.mutex(), process.mutex()
    mutex.acquire()
    waiting.acquire()
    waiting.ticket = 7
    thread = Holder(mutex, Condition(process.allocate(8), waiting))
    new, moved = (thawed(frozen(thread, new=new)) for new in (True, False))
    assert isinstance(new, Holder)
    assert isinstance(moved, Holder)
    assert (new.mutex.held, new.more.mutex.held, new.more.mutex.ticket) == (False, False, None)
    assert (moved.mutex.held, moved.more.mutex.held, moved.more.mutex.ticket) == (True, True, 7)
    assert mutex.held
    assert new.mutex.locked()
    started: list[bytes] = []
    process._daemon.start = lambda number, state, to: started.append(state)  # type: ignore[method-assign]
    process.start(thread)
    assert started == [frozen(thread, new=True)]


def test_the_pages_that_the_process_needs_itself_stay_as_they_are(process: Process) -> None:
    done: list[Operation] = []

    def operate(operation: Operation) -> Refusal:
        done.append(operation)
        return Refusal.NONE

    process._operate = operate
    size = process.size
    refused: list[Callable[[], None]] = [
        lambda: process.unmap(size, PAGE_BYTES),
        lambda: process.unmap(0, size + PAGE_BYTES),
        lambda: process.protect(size + (RESERVED_PAGES - 1) * PAGE_BYTES, 2 * PAGE_BYTES, writable=False),
        lambda: process.map(size - PAGE_BYTES, 2 * PAGE_BYTES),
        lambda: process.move(0, PAGE_BYTES, size),
        lambda: process.move(size, PAGE_BYTES, size + RESERVED_PAGES * PAGE_BYTES),
    ]
    for change in refused:
        with pytest.raises(
            ValueError, match=f"{RESERVED_PAGES * PAGE_BYTES} bytes from {size} on are the process's own"
        ):
            change()
    assert not done
    process.unmap(0, size)
    process.map(size + RESERVED_PAGES * PAGE_BYTES, PAGE_BYTES)
    process.move(size - PAGE_BYTES, PAGE_BYTES, size + RESERVED_PAGES * PAGE_BYTES)
    assert len(done) == 3


def test_memory_that_is_refused_leaves_what_there_is_to_others(process: Process) -> None:
    with pytest.raises(MemoryError, match=r"20480 bytes behind 0, the process has 16384"):
        process.allocate(PAGES * PAGE_BYTES + 1)
    with pytest.raises(ValueError, match="memory of -80 bytes, expected at least 0"):
        process.array("q", -10)
    assert [process.allocate(1), process.array("d", 513).address] == [BASE, BASE + PAGE_BYTES]
    with pytest.raises(MemoryError):
        process.allocate(2 * PAGE_BYTES)
    assert process.event().address == BASE + 3 * PAGE_BYTES


@pytest.mark.parametrize("typecode", ["z", "", "qq", "<q"])
def test_a_type_that_there_is_not_is_named(process: Process, typecode: str) -> None:
    with pytest.raises(ValueError, match=f"numbers of type '{typecode}', expected a letter of `struct`"):
        process.array(typecode, 1)


def test_a_state_that_cannot_travel_says_whose_it_is(process: Process) -> None:
    with pytest.raises(
        ThreadError, match=r"the state of a Holder \(its attribute .*\) cannot be pickled: .*lambda"
    ) as caught:
        frozen(Holder(process.mutex(), lambda: None))
    assert "functions within others" in caught.value.hint
    with pytest.raises(ThreadError, match=r"the state of a Holder is \d+ bytes, 4088 are the most"):
        frozen(Holder(process.mutex(), bytes(5000)))
