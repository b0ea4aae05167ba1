"""Programs that synchronise, for the checker: each thing of `guest.synchronization`, used as it is meant to be."""

from guest.synchronization import Barrier, Condition, Counter, Event, Mutex, Semaphore
from orchestrator.checker.program_search import Programs
from orchestrator.checker.programs import Program, Thread
from orchestrator.checker.scenario import Links

DATA = 48
"""A word that only who is inside touches."""
_SECOND = 16


def locks(times: int = 1, page: int = 0) -> Program:
    """Adds to a word without an atomic instruction, under a mutex.

    None overtakes: the word counts the tickets served.
    """

    def program(thread: Thread) -> None:
        mutex = Mutex(page)
        for _ in range(times):
            mutex.enqueue()
            ticket = mutex.ticket
            mutex.acquire()
            thread.enter()
            number = thread.load(DATA)
            assert number == ticket, f"the holder of ticket {ticket} is served as number {number}"
            thread.store(DATA, number + 1)
            thread.leave()
            mutex.release()

    return program


def tries(thread: Thread) -> None:
    """Adds under a mutex if that is free."""
    mutex = Mutex(0)
    if mutex.acquire(blocking=False):
        thread.enter()
        thread.store(DATA, thread.load(DATA) + 1)
        thread.leave()
        mutex.release()


def takes(permits: int) -> Program:
    """Is inside with a permit."""

    def program(thread: Thread) -> None:
        with Semaphore(0, permits):
            thread.enter()
            Counter(DATA).add()
            thread.leave()

    return program


def meets(times: int, parties: int) -> Program:
    """At each meeting, all have counted up as often as there were meetings."""

    def program(thread: Thread) -> None:
        barrier = Barrier(0, parties)
        for turn in range(1, times + 1):
            Counter(DATA).add()
            barrier.wait()
            counted = thread.load(DATA)
            assert counted >= turn * parties, f"behind meeting {turn} only {counted} have come"

    return program


def consumes(thread: Thread) -> None:
    """Takes what is produced."""
    condition = Condition(_SECOND, Mutex(0))
    with condition:
        condition.wait_for(lambda: thread.load(DATA) > 0)
        thread.store(DATA, thread.load(DATA) - 1)


def produces(count: int) -> Program:
    """Puts `count` things there, and says so."""

    def program(thread: Thread) -> None:
        condition = Condition(_SECOND, Mutex(0))
        with condition:
            thread.store(DATA, thread.load(DATA) + count)
            condition.notify(count)

    return program


def happens(thread: Thread) -> None:
    """Stores, and lets it be known."""
    thread.store(DATA, 7)
    Event(0).set()


def awaits(thread: Thread) -> None:
    """Loads what was stored before it happened."""
    Event(0).wait()
    assert thread.load(DATA) == 7, "it has happened, but what came before cannot be seen"


_REORDERED = Links.REORDERED

QUICK_PROGRAMS = (
    Programs("a mutex", ((locks(),), (locks(),)), finally_={DATA: 2}),
    Programs("a mutex", ((locks(), locks()), ()), finally_={DATA: 2}),
    Programs("a mutex", ((), (locks(),), (locks(),)), finally_={DATA: 2}),
    Programs("a mutex", ((locks(),), (locks(),)), deaths=1, finally_={DATA: 2}),
    Programs("a mutex that is tried", ((tries,), (locks(),))),
    Programs("a semaphore", ((takes(1),), (takes(1),)), finally_={DATA: 2}),
    Programs("an event", ((awaits,), (happens,)), _REORDERED),
    Programs("an event", ((happens,), (awaits,)), _REORDERED),
    Programs("an event", ((), (awaits,), (happens,))),
    Programs("a barrier", ((meets(1, 2),), (meets(1, 2),)), _REORDERED, finally_={DATA: 2}),
)
"""Some seconds."""

PROGRAMS = (
    *QUICK_PROGRAMS,
    Programs("a mutex", ((locks(),), (locks(),)), _REORDERED, finally_={DATA: 2}),
    Programs("a mutex", ((locks(),), (locks(2),)), finally_={DATA: 3}),
    Programs("a condition", ((produces(1),), (consumes,)), finally_={DATA: 0}),
    Programs("a condition", ((consumes,), (produces(1),)), finally_={DATA: 0}),
    Programs("a condition", ((produces(1),), (consumes,)), deaths=1, finally_={DATA: 0}),
)
"""Less than a minute."""

LARGE_PROGRAMS = (
    Programs("a mutex", ((locks(4), locks(4)), (locks(4),), (locks(4),)), finally_={DATA: 16}),
    Programs("a mutex", ((locks(3), locks(3)), (locks(3), locks(3))), _REORDERED, deaths=1),
    Programs("a semaphore", ((takes(2), takes(2)), (takes(2), takes(2)), (takes(2),)), limit=2, finally_={DATA: 5}),
    Programs("a barrier", ((meets(3, 4), meets(3, 4)), (meets(3, 4),), (meets(3, 4),)), finally_={DATA: 12}),
    Programs("a barrier", ((meets(3, 3),), (meets(3, 3),), (meets(3, 3),)), _REORDERED, deaths=2),
    Programs("a condition", ((consumes, consumes), (produces(1), consumes), (produces(2),)), finally_={DATA: 0}),
)
"""Too many states: to be walked through at random."""
