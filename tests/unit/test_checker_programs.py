"""Threads that synchronise, searched with the production code of synchronisation, waits and pages; and broken ones."""

import json
from collections.abc import Callable
from unittest.mock import patch

import pytest

from guest import synchronization
from guest.protocol.effects import FutexEffect
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Message
from guest.protocol.origin import OriginEngine
from guest.synchronization import Barrier, Event, Semaphore, here, wait_until
from orchestrator.checker.ladder import ladder
from orchestrator.checker.program_set import (
    DATA,
    LARGE_PROGRAMS,
    PROGRAMS,
    QUICK_PROGRAMS,
    awaits,
    consumes,
    happens,
    locks,
    meets,
    produces,
)
from orchestrator.checker.program_system import ProgramScenario
from orchestrator.checker.saved import Replay, trace_as_json, trace_from_json
from orchestrator.checker.scenario import Links
from orchestrator.checker.search import explore
from orchestrator.checker.trace import tell
from orchestrator.checker.walk import wander


@pytest.mark.parametrize("programs", QUICK_PROGRAMS, ids=str)
def test_threads_meet_in_order_and_nobody_waits_for_ever(programs: ProgramScenario) -> None:
    found = explore(programs)
    assert found.violation is None, tell(found)
    assert found.complete


def test_waits_do_not_depend_on_the_protocol_of_pages() -> None:
    found = explore(ProgramScenario("a mutex", ((locks(),), (locks(),)), finally_={DATA: 2}, engine=OriginEngine))
    assert found.violation is None, tell(found)
    assert found.complete


@pytest.mark.parametrize("programs", LARGE_PROGRAMS, ids=str)
def test_larger_systems_at_random(programs: ProgramScenario) -> None:
    found = wander(programs, seed=1, walks=20)
    assert found.violation is None, tell(found)
    assert found.states > 500


def test_a_walk_can_be_repeated() -> None:
    first, second = (wander(LARGE_PROGRAMS[0], seed=7, walks=2) for _ in range(2))
    assert first.trace == second.trace


# Broken ones ----------------------------------------------------------------------------------------------------------


def looks_only_once(address: int, value: int) -> None:
    """No second look when the wait is queued."""
    if here().load(address) < value:
        here().queue(address, value)
        here().await_wake()


def looks_before_it_is_queued(address: int, value: int) -> None:
    """The second look comes before the wait is queued."""
    if here().load(address) < value and here().load(address) < value:
        here().queue(address, value)
        here().await_wake()


def does_not_cancel(address: int, value: int) -> None:
    """Who sees at the second look that it need not wait leaves its wait where it is."""
    if here().load(address) < value:
        here().queue(address, value)
        if here().load(address) < value:
            here().await_wake()


def wakes_before_the_change(self: Semaphore) -> None:
    """Who releases wakes the next one before there is a permit for it."""
    released = here().load(self._released) + 1
    if here().load(self.address) >= self.permits + released:
        here().wake(self._released, released)
    here().fetch_add(self._released, 1)


def looks_for_waiters_too_early(self: Semaphore) -> None:
    """Who releases looks for somebody to wake before it has released."""
    drawn = here().load(self.address)
    released = here().fetch_add(self._released, 1) + 1
    if drawn >= self.permits + released:
        here().wake(self._released, released)


def adds_in_two_steps(self: Semaphore) -> None:
    """A ticket is drawn by a load and a store."""
    self.ticket = here().load(self.address)
    here().store(self.address, self.ticket + 1)  # type: ignore[attr-defined]


def overtakes(self: Semaphore, blocking: bool = True) -> bool:
    """Those who wait are served as they begin to wait, not as they took their places."""
    assert blocking
    wait_until(self.address + 8, here().fetch_add(self.address + 24, 1))
    return True


def is_set_without_a_word(self: Event) -> None:
    """It happens, and nobody is woken."""
    here().compare_exchange(self.address, 0, 1)


def lets_one_go_early(self: Barrier) -> int:
    """The last but one does not wait."""
    come = here().fetch_add(self.address, 1)
    if come % self.parties == self.parties - 1:
        here().wake(self.address, come + 1)
    elif come % self.parties != self.parties - 2:
        wait_until(self.address, come // self.parties * self.parties + self.parties)
    return come


def forgets_to_queue(self: FutexEngine, sender: int, message: Message) -> list[FutexEffect]:
    """Home answers, but does not keep who waits."""
    queue = self._queue
    effects = receive(self, sender, message)
    if len(self._queue) > len(queue):
        self._queue = queue
    return effects


def wakes_one(self: FutexEngine, word: int, value: int) -> list[FutexEffect]:
    """Home wakes only the first one that waits for what the word has reached."""
    queue = self._queue
    for entry in queue:
        if entry.word == word and entry.value <= value:
            self._queue = (entry,)
            effects = wake(self, word, value)
            self._queue = tuple(other for other in queue if other is not entry)
            return effects
    return []


def wakes_too_many(self: FutexEngine, word: int, _value: int) -> list[FutexEffect]:
    """Home wakes all that wait for the word, and they believe it."""
    return wake(self, word, 1 << 40)


def ignores_who_gave_up(self: FutexEngine, kernel: int, request: int) -> None:
    """A wait that is cancelled stays in the queue."""


def mourns_nobody(self: FutexEngine, kernel: int) -> list[FutexEffect]:
    """Waits go on when a kernel dies."""
    self._others = tuple(other for other in self._others if other != kernel)
    return []


def mourns_once(self: FutexEngine, kernel: int) -> list[FutexEffect]:
    """Waits end when a kernel dies, but later ones begin."""
    effects = peer_down(self, kernel)
    self.lost = None
    return effects


def trusts_what_woke_it(address: int, value: int) -> None:
    """Who is woken goes on without another look: right only as long as nobody is woken too early."""
    if here().load(address) < value:
        here().queue(address, value)
        if here().load(address) >= value:
            here().cancel()
        else:
            here().await_wake()


receive, wake, peer_down = FutexEngine.receive, FutexEngine._wake, FutexEngine.peer_down

MUTEX = ProgramScenario("a mutex", ((locks(),), (locks(),)), finally_={DATA: 2})
THREE = ProgramScenario("a mutex", ((locks(),), (locks(), locks())), finally_={DATA: 3})
DYING = ProgramScenario("a mutex", ((locks(),), (locks(),)), deaths=1)
EVENT = ProgramScenario("an event", ((awaits,), (happens,)))
CONDITION = ProgramScenario("a condition", ((consumes,), (produces(1),)), finally_={DATA: 0})
MEETING = ProgramScenario("a barrier", ((meets(1, 3), meets(1, 3)), (meets(1, 3),)), finally_={DATA: 3})
FAR = ProgramScenario("an event", ((), (awaits,), (happens,)), Links.REORDERED)

MUTANTS: list[tuple[object, str, Callable[..., object], ProgramScenario]] = [
    (synchronization, "wait_until", looks_only_once, MUTEX),
    (synchronization, "wait_until", looks_before_it_is_queued, EVENT),
    (synchronization, "wait_until", does_not_cancel, MUTEX),
    (Semaphore, "release", wakes_before_the_change, MUTEX),
    (Semaphore, "release", looks_for_waiters_too_early, MUTEX),
    (Semaphore, "enqueue", adds_in_two_steps, MUTEX),
    (Semaphore, "acquire", overtakes, MUTEX),
    (Event, "set", is_set_without_a_word, EVENT),
    (Barrier, "wait", lets_one_go_early, MEETING),
    (FutexEngine, "receive", forgets_to_queue, MUTEX),
    (FutexEngine, "_wake", wakes_one, MEETING),
    (FutexEngine, "_remove", ignores_who_gave_up, FAR),
    (FutexEngine, "peer_down", mourns_nobody, DYING),
    (FutexEngine, "peer_down", mourns_once, DYING),
]


@pytest.mark.parametrize(
    ("owner", "rule", "mutant", "programs"), MUTANTS, ids=[mutant.__name__ for _, _, mutant, _ in MUTANTS]
)
def test_a_broken_rule_is_found(
    owner: object, rule: str, mutant: Callable[..., object], programs: ProgramScenario
) -> None:
    with patch.object(owner, rule, mutant):
        found = explore(programs, limit=300_000)
    assert found.violation is not None, str(found)


def test_a_counterexample_can_be_kept_and_replayed() -> None:
    with patch.object(Semaphore, "release", wakes_before_the_change):
        report = explore(QUICK_PROGRAMS[0])
        saved = trace_from_json(json.loads(json.dumps(trace_as_json(report, "voting"))))
        assert isinstance(saved.scenario, ProgramScenario)
        replay = Replay(saved, saved.scenario)
        steps = list(replay.steps())
    assert replay.violation == report.violation
    shown = [str(kernel) for kernel in replay.system.view(steps[-1][1])]
    assert any("thread 0 sleeps" in each for each in shown), shown
    with patch.object(Semaphore, "release", wakes_before_the_change):
        drawn = ladder(Replay(saved, saved.scenario))
    assert "asks to wait for 1 in word 0x8" in drawn, drawn


def test_programs_are_told_apart_by_what_they_are_called() -> None:
    assert len({str(programs) for programs in PROGRAMS}) == len(PROGRAMS)


def test_a_wake_up_too_early_is_found_by_the_next_look() -> None:
    with patch.object(FutexEngine, "_wake", wakes_too_many):
        assert explore(EVENT).violation is None
        with patch.object(synchronization, "wait_until", trusts_what_woke_it):
            found = explore(THREE, limit=300_000)
    assert found.violation is not None, str(found)
