"""Threads that migrate, end and die with their kernels, every interleaving; and broken rules, each found."""

from collections.abc import Callable
from typing import Any

import pytest

from guest.protocol.count import Count, Verdict
from guest.protocol.effects import Send
from guest.protocol.messages import Message
from guest.protocol.roll import RollCall
from guest.protocol.thread_effects import Park, Placement, Run, ThreadEffect
from guest.protocol.threads import Part, Stage, ThreadsEngine
from orchestrator.checker.search import explore
from orchestrator.checker.thread_system import ThreadScenario
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


def runs_at_once(self: ThreadsEngine, thread: int, source: int, copyset: int, effects: Effects) -> None:
    """The destination does not wait for the word to go."""
    real_let_in(self, thread, source, copyset, effects)
    if self._arriving.pop(thread, None):
        self._threads[thread] = copyset
        effects.append(Run(thread))


def goes_before_it_parks(self: ThreadsEngine, thread: int, to: int, placement: Placement, effects: Effects) -> None:
    """The source goes on running what it has let go."""
    copyset = self._threads.get(thread, 0)
    real_let_go(self, thread, to, placement, effects)
    if any(isinstance(effect, Park) for effect in effects):
        effects[:] = [effect for effect in effects if not isinstance(effect, Park)]
        self._placeholders -= {thread}
        self._threads[thread] = copyset


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


def runs_what_the_dead_sent(self: ThreadsEngine, kernel: int) -> Effects:
    """A thread whose source died before it said GO is run."""
    orphans = [thread for thread, arrival in self._arriving.items() if arrival.source == kernel]
    answered = [thread for thread in orphans if self._arriving[thread].stage is Stage.ANSWERED]
    runs: Effects = []
    for thread in answered:
        self._threads[thread] = self._arriving.pop(thread).copyset
        self._placeholders -= {thread}
        runs.append(Run(thread))
    return runs + real_peer_down(self, kernel)


def keeps_what_the_dead_sent(self: ThreadsEngine, kernel: int) -> Effects:
    """A thread whose source died waits for its GO for ever."""
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


def calls_no_roll(self: ThreadsEngine, dead: int, effects: Effects) -> None:
    """Nobody finds out what was lost."""


def names_only_those_that_run(self: ThreadsEngine, dead: int, effects: Effects) -> None:
    """A thread that arrives is not named in the roll."""
    arriving, self._arriving = self._arriving, {}
    real_call_roll(self, dead, effects)
    self._arriving = arriving


def lets_in_too_early(self: RollCall, kernel: int) -> bool:
    """A thread is let in from a kernel that has still to call its roll."""
    return True


def mixes_rolls(self: RollCall, kernel: int, dead: int) -> None:
    """Any roll will do, whatever deaths it is about."""
    real_called(self, kernel, self.dead)


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


real_verdict, real_called = Count._verdict, RollCall.called
real_tell_count, real_let_in, real_let_go = ThreadsEngine._tell_count, ThreadsEngine._let_in, ThreadsEngine._let_go
real_exit, real_migrate, real_peer_down = ThreadsEngine.exit, ThreadsEngine.migrate, ThreadsEngine.peer_down
real_end_roll, real_call_roll = ThreadsEngine._end_roll, ThreadsEngine._call_roll
real_lose_home = ThreadsEngine._lose_home

MUTANTS: list[tuple[type, str, Callable[..., Any], ThreadScenario]] = [
    (Count, "_verdict", counts_once, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "_tell_count", forgets_arrivals, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "_tell_count", counts_arrived_only, ThreadScenario(3, 2, 2)),
    (Count, "renew", forgets_what_ended_meanwhile, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "_let_in", runs_at_once, ThreadScenario(2)),
    (ThreadsEngine, "_let_go", goes_before_it_parks, ThreadScenario(2)),
    (ThreadsEngine, "exit", tells_home_only, ThreadScenario(3, 2, 2)),
    (ThreadsEngine, "exit", tells_placeholders_only, ThreadScenario(2, 1, 1)),
    (ThreadsEngine, "migrate", forgets_where_it_was, ThreadScenario(3, 2, 3)),
    (ThreadsEngine, "peer_down", stays_gone, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_let_go", takes_refusal_for_good, ThreadScenario(2, refusals=1)),
    (ThreadsEngine, "peer_down", runs_what_the_dead_sent, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "peer_down", keeps_what_the_dead_sent, ThreadScenario(2, deaths=1)),
    (Count, "give_up", counts_the_dead, ThreadScenario(3, deaths=1)),
    (ThreadsEngine, "_end_roll", counts_no_more_after_a_death, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_call_roll", calls_no_roll, ThreadScenario(3, 1, 2, deaths=1)),
    (ThreadsEngine, "_call_roll", names_only_those_that_run, ThreadScenario(3, 1, 2, deaths=1)),
    (RollCall, "abreast", lets_in_too_early, ThreadScenario(4, 1, 2, deaths=1)),
    (RollCall, "called", mixes_rolls, ThreadScenario(3, 1, 2, deaths=2)),
    (ThreadsEngine, "_lose_home", does_not_pass_on_the_end, ThreadScenario(3, 2, 2, group_exits=1, deaths=1)),
    (ThreadsEngine, "_tidy", stays_orphaned, ThreadScenario(2, deaths=1)),
    (ThreadsEngine, "_lose_home", joins_without_home, ThreadScenario(3, 1, 2, deaths=1)),
]


@pytest.mark.parametrize(("owner", "rule", "mutant", "scenario"), MUTANTS, ids=[each[2].__name__ for each in MUTANTS])
def test_a_broken_rule_is_found(
    owner: type, rule: str, mutant: Callable[..., Any], scenario: ThreadScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, rule, mutant)
    report = explore(scenario, limit=300_000)
    assert report.violation is not None, f"{report}"
