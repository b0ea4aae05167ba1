"""Programs that synchronise, for the checker: each thing of `guest.synchronization`, used as it is meant to be."""

from functools import partial

from guest.synchronization import Barrier, Condition, Counter, Event, Mutex, Semaphore
from orchestrator.checker.program_system import ProgramScenario
from orchestrator.checker.programs import Program, Thread
from orchestrator.checker.scenario import Links

DATA = 48
"""A word that only who is inside touches."""
_SECOND = 16


def locks(times: int = 1) -> Program:
    """Adds to a word without an atomic instruction, under a mutex.

    None overtakes: the word counts the tickets served.
    """
    return partial(_locks, times)


def _locks(times: int, thread: Thread) -> None:
    mutex = Mutex(0)
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
    return partial(_takes, permits)


def _takes(permits: int, thread: Thread) -> None:
    with Semaphore(0, permits):
        thread.enter()
        Counter(DATA).add()
        thread.leave()


def meets(times: int, parties: int) -> Program:
    """At each meeting, all have counted up as often as there were meetings."""
    return partial(_meets, times, parties)


def _meets(times: int, parties: int, thread: Thread) -> None:
    barrier = Barrier(0, parties)
    for turn in range(1, times + 1):
        Counter(DATA).add()
        barrier.wait()
        counted = thread.load(DATA)
        assert counted >= turn * parties, f"behind meeting {turn} only {counted} have come"


def consumes(thread: Thread) -> None:
    """Takes what is produced."""
    condition = Condition(_SECOND, Mutex(0))
    with condition:
        condition.wait_for(lambda: thread.load(DATA) > 0)
        thread.store(DATA, thread.load(DATA) - 1)


def produces(count: int) -> Program:
    """Puts `count` things there, and says so."""
    return partial(_produces, count)


def _produces(count: int, thread: Thread) -> None:
    condition = Condition(_SECOND, Mutex(0))
    with condition:
        thread.store(DATA, thread.load(DATA) + count)
        condition.notify(count)


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
    ProgramScenario("a mutex", ((locks(),), (locks(),)), finally_={DATA: 2}),
    ProgramScenario("a mutex", ((locks(), locks()), ()), finally_={DATA: 2}),
    ProgramScenario("a mutex", ((), (locks(),), (locks(),)), finally_={DATA: 2}),
    ProgramScenario("a mutex", ((locks(),), (locks(),)), deaths=1, finally_={DATA: 2}),
    ProgramScenario("a mutex that is tried", ((tries,), (locks(),))),
    ProgramScenario("a semaphore", ((takes(1),), (takes(1),)), finally_={DATA: 2}),
    ProgramScenario("an event that happens away", ((awaits,), (happens,)), _REORDERED),
    ProgramScenario("an event that happens at home", ((happens,), (awaits,)), _REORDERED),
    ProgramScenario("an event", ((), (awaits,), (happens,))),
    ProgramScenario("a barrier", ((meets(1, 2),), (meets(1, 2),)), _REORDERED, finally_={DATA: 2}),
)
"""Some seconds."""

PROGRAMS = (
    *QUICK_PROGRAMS,
    ProgramScenario("a mutex", ((locks(),), (locks(),)), _REORDERED, finally_={DATA: 2}),
    ProgramScenario("a mutex taken again", ((locks(),), (locks(2),)), finally_={DATA: 3}),
    ProgramScenario("a condition notified at home", ((produces(1),), (consumes,)), finally_={DATA: 0}),
    ProgramScenario("a condition notified away", ((consumes,), (produces(1),)), finally_={DATA: 0}),
    ProgramScenario("a condition", ((produces(1),), (consumes,)), deaths=1, finally_={DATA: 0}),
)
"""Less than a minute."""

LARGE_PROGRAMS = (
    ProgramScenario("a mutex", ((locks(4), locks(4)), (locks(4),), (locks(4),)), finally_={DATA: 16}),
    ProgramScenario("a mutex", ((locks(3), locks(3)), (locks(3), locks(3))), _REORDERED, deaths=1),
    ProgramScenario(
        "a semaphore", ((takes(2), takes(2)), (takes(2), takes(2)), (takes(2),)), limit=2, finally_={DATA: 5}
    ),
    ProgramScenario("a barrier", ((meets(3, 4), meets(3, 4)), (meets(3, 4),), (meets(3, 4),)), finally_={DATA: 12}),
    ProgramScenario("a barrier", ((meets(3, 3),), (meets(3, 3),), (meets(3, 3),)), _REORDERED, deaths=2),
    ProgramScenario("a condition", ((consumes, consumes), (produces(1), consumes), (produces(2),)), finally_={DATA: 0}),
)
"""Too many states: to be walked through at random."""
