"""Threads that migrate, end and die with their kernels, every interleaving; and broken rules, each found."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest

from guest.protocol.arrival import Part
from guest.protocol.count import Count, Verdict
from guest.protocol.effects import Send
from guest.protocol.messages import Message
from guest.protocol.roll import RollCall
from guest.protocol.thread_effects import Placement, Run, ThreadEffect
from guest.protocol.thread_messages import LAST
from guest.protocol.threads import ThreadsEngine
from guest.protocol.watch import Watch
from orchestrator.checker.search import explore
from orchestrator.checker.thread_system import ThreadScenario, ThreadSystem
from orchestrator.checker.trace import tell

Effects = list[ThreadEffect]


@pytest.mark.parametrize(
    "scenario",
    [
        ThreadScenario(2, 2, 3, refusals=1),
        ThreadScenario(2, 1, 2, later=2),
        ThreadScenario(2, 2, 2, group_exits=2),
        ThreadScenario(2, 2, 2, refusals=1, deaths=1),
        ThreadScenario(2, 2, 2, group_exits=1, deaths=1),
        ThreadScenario(3, 1, 4),
        ThreadScenario(3, 2, 2, refusals=1),
        ThreadScenario(3, 1, 2, refusals=1, deaths=1),
        ThreadScenario(3, 1, 1, group_exits=1, deaths=2),
        ThreadScenario(2, 1, 2, later=1, watches=2),
        ThreadScenario(2, 2, 1, group_exits=1, deaths=1, watches=1),
        ThreadScenario(2, 1, 2, later=1, deaths=1, watches=2),
        ThreadScenario(3, 1, 2, deaths=1, watches=1),
        ThreadScenario(3, 1, 1, deaths=2, watches=1),
    ],
    ids=str,
)
def test_threads_run_once_and_the_group_ends(scenario: ThreadScenario) -> None:
    report = explore(scenario)
    assert report.violation is None, tell(report)
    assert report.complete


def counts_once(self: Count) -> Verdict:
    """One round that finds no thread is enough."""
    verdict = real_verdict(self)
    return Verdict.ENDED if verdict is Verdict.AGAIN and not self._threads else verdict


def forgets_arrivals(self: ThreadsEngine, sender: int, message: Message, effects: Effects) -> None:
    """A kernel counts its threads, but not those that ever came."""
    self.arrivals = 2 if self.kernel == self.home else 0
    real_tell_count(self, sender, message, effects)


def counts_arrived_only(self: ThreadsEngine, sender: int, message: Message, effects: Effects) -> None:
    """A thread on its way counts for neither side, once the source has let it go."""
    arriving, self._arriving = self._arriving, {}
    real_tell_count(self, sender, message, effects)
    self._arriving = arriving


def forgets_what_ended_meanwhile(self: Count) -> None:
    """What ends while a round is under way does not make home count again."""


def runs_before_it_answers(self: ThreadsEngine, source: int, message: Message, effects: Effects) -> None:
    """The destination does not tell the source before it lets the thread run."""
    real_let_in(self, source, message, effects)
    if self._arriving.pop(message.page, None):
        self._threads[message.page] = message.copyset
        effects.append(Run(message.page))


def goes_on_after_it_went(self: ThreadsEngine, thread: int, to: int, placement: Placement, effects: Effects) -> None:
    """The source goes on running what runs at the destination."""
    real_let_go(self, thread, to, Placement.REFUSED, effects)


def forgets_what_it_heard_early(
    self: ThreadsEngine, thread: int, to: int, placement: Placement, effects: Effects
) -> None:
    """What came from elsewhere before the destination's answer is dropped."""
    self._early.pop(thread, None)
    real_let_go(self, thread, to, placement, effects)


def takes_the_end_early(self: ThreadsEngine, sender: int, message: Message, effects: Effects) -> None:
    """An end is taken in though the thread has not gone yet, as far as is known here."""
    self._end_placeholder(message.page, effects)
    if message.flags & LAST:
        self._something_ended(effects)


def counts_those_that_depart(self: ThreadsEngine, sender: int, message: Message, effects: Effects) -> None:
    """Home is told of threads that may have ended elsewhere, and not asked to wait."""
    departing, self._departing = self._departing, {}
    real_tell_count(self, sender, message, effects)
    self._departing = departing


def counts_none_that_departs(self: ThreadsEngine, sender: int, message: Message, effects: Effects) -> None:
    """A thread on its way counts for neither side."""
    departing, threads = self._departing, self._threads
    self._departing, self._threads = {}, {thread: 0 for thread in threads if thread not in departing}
    real_tell_count(self, sender, message, effects)
    self._departing, self._threads = departing, threads


def does_nothing_later(self: ThreadsEngine, effects: Effects) -> None:
    """What was put off is not done."""


def counts_during_a_roll(self: ThreadsEngine, effects: Effects) -> None:
    """Home counts while kernels have still to hear of a death."""
    under_way, self._roll.under_way = self._roll.under_way, False
    real_something_ended(self, effects)
    self._roll.under_way = under_way


def tells_home_only(self: ThreadsEngine, thread: int) -> Effects:
    """Placeholders do not hear that their thread has ended."""
    self._threads[thread] = 0
    return real_exit(self, thread)


def tells_placeholders_only(self: ThreadsEngine, thread: int) -> Effects:
    """Home does not hear of an end unless it has a placeholder."""
    return [effect for effect in real_exit(self, thread) if not (isinstance(effect, Send) and effect.to == self.home)]


def forgets_where_it_was(self: ThreadsEngine, thread: int, to: int) -> Effects:
    """Only the last placeholder is told along."""
    self._threads[thread] = 0
    return real_migrate(self, thread, to)


def stays_gone(self: ThreadsEngine, kernel: int) -> Effects:
    """A thread whose destination dies does not go on."""
    self._departing = {thread: to for thread, to in self._departing.items() if to != kernel}
    return real_peer_down(self, kernel)


def takes_refusal_for_good(self: ThreadsEngine, thread: int, to: int, placement: Placement, effects: Effects) -> None:
    """A refused thread is let go all the same."""
    real_let_go(self, thread, to, placement or Placement.CLONED, effects)


def keeps_what_the_dead_sent(self: ThreadsEngine, kernel: int) -> Effects:
    """A thread whose source died stays, though it has no process yet."""
    arriving, self._arriving = self._arriving, {}
    effects = real_peer_down(self, kernel)
    self._arriving = arriving
    return effects


def counts_the_dead(self: Count) -> None:
    """Home waits for the count of a kernel that died."""


def counts_no_more_after_a_death(self: ThreadsEngine, effects: Effects) -> None:
    """Home does not count again when it has found out who died."""
    something_ended = ThreadsEngine._something_ended
    ThreadsEngine._something_ended = ThreadsEngine._tidy  # type: ignore[method-assign]
    real_end_roll(self, effects)
    ThreadsEngine._something_ended = something_ended  # type: ignore[method-assign]


def calls_no_roll(self: ThreadsEngine, effects: Effects) -> None:
    """Nobody finds out what was lost."""


def names_only_those_that_stay(self: ThreadsEngine, effects: Effects) -> None:
    """A thread that departs is not named in the roll."""
    threads, departing = self._threads, self._departing
    self._threads = {thread: copyset for thread, copyset in threads.items() if thread not in departing}
    real_call_roll(self, effects)
    self._threads = threads


def calls_its_roll_at_once(self: RollCall, others: Collection[int]) -> bool:
    """A kernel calls its roll before all others have heard of the death."""
    return not self._called


def hears_nothing_of_the_dead(self: ThreadSystem, parcel: int) -> bool:
    """Answers that a dead kernel has sent are not read any more."""
    return False


def lets_in_too_early(self: RollCall, kernel: int) -> bool:
    """A thread is let in from a kernel that has still to call its roll."""
    return True


def does_not_pass_on_the_end(self: ThreadsEngine, effects: Effects) -> None:
    """Home died while the group ended, and nobody tells the others in its place."""
    ended, self.ended = self.ended, False
    real_lose_home(self, effects)
    self.ended = ended


def stays_orphaned(self: ThreadsEngine, effects: Effects) -> None:
    """A kernel waits for a dead home to end its part."""


def joins_without_home(self: ThreadsEngine, effects: Effects) -> None:
    """A kernel that was joining when home died waits on."""
    part, self.part = self.part, Part.THERE
    arriving, self._arriving = self._arriving, {}
    real_lose_home(self, effects)
    self.part, self._arriving = part, arriving


def knows_only_what_is_here(self: ThreadsEngine, thread: int) -> bool:
    """A thread that has left counts as one that is no more."""
    return thread in self._threads


def says_it_once(self: Watch, thread: int, living: Iterable[int]) -> Effects:
    """Nobody who has asked hears that the thread is no more."""
    return []


def waits_for_the_dead(self: Watch, kernel: int) -> Effects:
    """Who has asked a kernel that died waits for its word."""
    return []


real_verdict = Count._verdict
real_tell_count, real_let_in, real_let_go = ThreadsEngine._tell_count, ThreadsEngine._let_in, ThreadsEngine._let_go
real_exit, real_migrate, real_peer_down = ThreadsEngine.exit, ThreadsEngine.migrate, ThreadsEngine.peer_down
real_end_roll, real_call_roll = ThreadsEngine._end_roll, ThreadsEngine._call_roll
real_lose_home, real_something_ended = ThreadsEngine._lose_home, ThreadsEngine._something_ended

MUTANTS: list[tuple[type, str, Callable[..., Any], ThreadScenario]] = [
    (Count, "_verdict", counts_once, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "_tell_count", forgets_arrivals, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "_tell_count", counts_arrived_only, ThreadScenario(3, 2, 3, refusals=1)),
    (Count, "renew", forgets_what_ended_meanwhile, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "_tell_count", counts_those_that_depart, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "_tell_count", counts_none_that_departs, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "_departed", does_nothing_later, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "_something_ended", counts_during_a_roll, ThreadScenario(3, 2, 2, deaths=1)),
    (ThreadsEngine, "_let_in", runs_before_it_answers, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_let_go", goes_on_after_it_went, ThreadScenario(2)),
    (ThreadsEngine, "_let_go", forgets_what_it_heard_early, ThreadScenario(3, 1, 3)),
    (ThreadsEngine, "_hear_exit", takes_the_end_early, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "exit", tells_home_only, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "exit", tells_placeholders_only, ThreadScenario(2, 1, 1)),
    (ThreadsEngine, "migrate", forgets_where_it_was, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "peer_down", stays_gone, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_let_go", takes_refusal_for_good, ThreadScenario(2, refusals=1)),
    (ThreadsEngine, "peer_down", keeps_what_the_dead_sent, ThreadScenario(2, deaths=1)),
    (Count, "give_up", counts_the_dead, ThreadScenario(3, deaths=1)),
    (ThreadsEngine, "_end_roll", counts_no_more_after_a_death, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_call_roll", calls_no_roll, ThreadScenario(3, 1, 2, deaths=1)),
    (ThreadsEngine, "_call_roll", names_only_those_that_stay, ThreadScenario(4, 1, 2, deaths=1)),
    (RollCall, "due", calls_its_roll_at_once, ThreadScenario(3, 2, 2, deaths=1)),
    (ThreadSystem, "_settles", hears_nothing_of_the_dead, ThreadScenario(3, 1, 2, deaths=1)),
    (RollCall, "abreast", lets_in_too_early, ThreadScenario(4, 1, 2, deaths=1)),
    (ThreadsEngine, "_lose_home", does_not_pass_on_the_end, ThreadScenario(3, 2, 2, group_exits=1, deaths=1)),
    (ThreadsEngine, "_tidy", stays_orphaned, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_lose_home", joins_without_home, ThreadScenario(3, 1, 2, deaths=1)),
    (ThreadsEngine, "_has", knows_only_what_is_here, ThreadScenario(2, watches=1)),
    (Watch, "gone", says_it_once, ThreadScenario(2, 2, watches=1)),
    (Watch, "peer_down", waits_for_the_dead, ThreadScenario(2, later=1, deaths=1, watches=1)),
]


@pytest.mark.parametrize(("owner", "rule", "mutant", "scenario"), MUTANTS, ids=[each[2].__name__ for each in MUTANTS])
def test_a_broken_rule_is_found(
    owner: type, rule: str, mutant: Callable[..., Any], scenario: ThreadScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, rule, mutant)
    report = explore(scenario, limit=300_000)
    assert report.violation is not None, f"{report}"
