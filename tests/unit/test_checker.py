"""The checker finds nothing in the protocol, and everything in protocols with one rule broken."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from guest.protocol.effects import Effect, Protect, Send
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.page import Page, Phase
from guest.protocol.table import S
from guest.protocol.voting import VotingEngine
from orchestrator.checker import Report, Scenario, explore, wander
from orchestrator.checker.scenario import Links, Start
from orchestrator.checker.search import NEVER_AT_REST
from orchestrator.checker.trace import tell, trace_chart

REORDERED = Links.REORDERED
PARTLY_SHARED, SHARED, MODIFIED = Start.PARTLY_SHARED, Start.SHARED, Start.MODIFIED

SOUND = [
    Scenario((3, 3)),
    Scenario((3, 3), REORDERED),
    Scenario((3, 3), REORDERED, SHARED),
    Scenario((3, 3), REORDERED, MODIFIED),
    Scenario((1, 1, 1), start=PARTLY_SHARED),
    Scenario((1, 1, 1), REORDERED, PARTLY_SHARED),
    Scenario((1, 1, 1), start=SHARED),
    Scenario((1, 1, 1), REORDERED, SHARED),
    Scenario((1, 1, 1), start=MODIFIED),
    Scenario((1, 1, 0), REORDERED),
    Scenario((2, 2), pages=2),
    Scenario((1, 1), threads=2),
    Scenario((2, 2), REORDERED, give_ups=2),
    Scenario((2, 2), REORDERED, deaths=1),
    Scenario((2, 2), REORDERED, MODIFIED, give_ups=1, deaths=1),
    Scenario((1, 1, 0), start=MODIFIED, deaths=1),
    Scenario((1, 1, 0), start=SHARED, deaths=2),
    Scenario((1, 1), REORDERED, deaths=1, returns=1),
    Scenario((2, 1), start=MODIFIED, deaths=2, returns=2),
    Scenario((1, 1, 0), start=MODIFIED, deaths=1, returns=1),
    Scenario((2, 2), REORDERED, leaves=1),
    Scenario((2, 1), leaves=1, returns=1),
    Scenario((1, 1, 0), REORDERED, MODIFIED, leaves=2),
]


@pytest.mark.parametrize("scenario", SOUND, ids=str)
def test_the_protocol_holds_in_every_state(scenario: Scenario) -> None:
    report = explore(scenario)
    assert report.violation is None, tell(report)
    assert report.complete
    assert report.states > 10


class StaleReadAfterALostVote(VotingEngine):
    """The original's first defect: what a loser asked for is valid, whatever was granted meanwhile."""

    def accept(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.stamp and page.answered(sender, message.request):
            self._install(page, message.version, False, effects)
        else:
            super().accept(page, sender, message, effects)


class SilentGivingUp(VotingEngine):
    """The second one: nobody hears of a loser that gives up."""

    def _withdraw(self, page: Page, effects: list[Effect]) -> None:
        page.stamp = 0
        self._serve(page, effects)


class LateAnswersCount(VotingEngine):
    """The third one: answers are told by page alone, not by request."""

    def receive(self, sender: int, message: Message) -> list[Effect]:
        page = self._pages[message.page]
        if page and message.name in (MessageName.PAGE_DATA, MessageName.PAGE_ABSENT, MessageName.VOTE):
            message = message._replace(request=page.request)
        return super().receive(sender, message)


class GrantsForgotten(VotingEngine):
    """A copy is installed though its invalidation was granted."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().judge(page, sender, message, effects)
        page.granted = ()


class AsksForEver(VotingEngine):
    """Whoever hears that a page is absent asks again, though it needs no answer any more."""

    def receive(self, sender: int, message: Message) -> list[Effect]:
        effects = super().receive(sender, message)
        if message.name == MessageName.PAGE_ABSENT:
            again = Message(MessageName.PAGE_REQUEST, message.page, message.request, Flag.FETCH)
            effects.append(Send(sender, again))
        return effects


class FirstAnswerCounts(VotingEngine):
    """A fetch does not wait for all answers."""

    def collect(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.answered(sender, message.request):
            page.copyset |= message.copyset
            page.awaiting = 0
            self._arrive(page, message.version, False, effects)


class AlwaysZeros(VotingEngine):
    """A page that nobody has at the moment becomes zeros, though somebody once had it."""

    def _end_fetch(self, page: Page, effects: list[Effect]) -> None:
        page.touched = False
        page.granted = ()
        super()._end_fetch(page, effects)


class SharedWithoutNotice(VotingEngine):
    """Two kernels that fetch at once each believe themselves alone."""

    def _end_fetch(self, page: Page, effects: list[Effect]) -> None:
        page.fetched_by_others = False
        super()._end_fetch(page, effects)


class Unprotected(VotingEngine):
    """The only copy is given away and stays writable."""

    def share(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().share(page, sender, message, effects)
        effects.remove(Protect(page.number))


class EveryoneGrants(VotingEngine):
    """Two writers grant to each other."""

    def _goes_first(self, page: Page, stamp: int) -> bool:
        return False


class VersionStandsStill(VotingEngine):
    """A granted write does not count."""

    def _win(self, page: Page, effects: list[Effect]) -> None:
        page.version -= 1
        super()._win(page, effects)


class GivesWhileVoting(VotingEngine):
    """A copy is handed on while the votes that make it stale are under way."""

    def give(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        self._give(page, sender, message.request, effects)


class KeepsTheCopy(VotingEngine):
    """An invalidation is granted, and the copy kept."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.state is S and not page.stamp:
            self._vote(page, sender, message, 4, effects)
        else:
            super().judge(page, sender, message, effects)


class WinsWithoutTheCopy(VotingEngine):
    """A vote is won though the page was granted to another meanwhile, who is dead by now."""

    def _decide(self, page: Page, effects: list[Effect]) -> None:
        if page.refusals:
            super()._decide(page, effects)
        else:
            self._win(page, effects)


class DenialsSayNothing(VotingEngine):
    """A fetch does not learn from a denial that the copy it got elsewhere is stale."""

    def collect_absence(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().collect_absence(page, sender, message._replace(version=0), effects)


class ForgottenDead(VotingEngine):
    """The dead are waited for."""

    def _recount(self, page: Page, dead: int, effects: list[Effect]) -> None:
        return


class DeadDataCounts(VotingEngine):
    """A fetch in flight goes on over a death, with answers from before it."""

    def fetch_again(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.awaiting >> sender & 1:
            page.awaiting ^= 1 << sender
            if not page.awaiting:
                self._end_fetch(page, effects)


class DeathsAreKeptSecret(VotingEngine):
    """A request of a kernel that knows of a death is answered by one that does not."""

    def _is_ahead(self, message: Message) -> bool:
        return message.epoch > self.epoch


class NewcomersNeverHeardOfDeaths(VotingEngine):
    """A kernel that comes back believes that every page is somewhere, and asks for it for ever."""

    def peer_up(self, kernel: int) -> list[Effect]:
        knew, effects = self._died, super().peer_up(kernel)
        self._died = knew
        return effects


class NobodyAsksTheNewcomer(VotingEngine):
    """A fetch in flight goes on over a return, without an answer of the newcomer."""

    def peer_up(self, kernel: int) -> list[Effect]:
        questions = [record for record in self._pages if record is not None]
        phases = [record.phase for record in questions]
        for record in questions:
            record.phase = Phase.IDLE
        effects = super().peer_up(kernel)
        for record, phase in zip(questions, phases, strict=True):
            record.phase = phase
        return effects


class NewcomersAreOld(VotingEngine):
    """A newcomer does not learn what time it is, and takes a timestamp older than those of writers unknown to it."""

    def _see(self, stamp: int) -> None:
        return


class VisitorsAreForgotten(VotingEngine):
    """Who has fetched a page that is nowhere else may die with it, and nobody remembers that there was one."""

    def absent_here(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().absent_here(page, sender, message, effects)
        page.visitors = 0


class LatecomersAreSure(VotingEngine):
    """A kernel that was not there when others fetched pages believes that it has heard of all of them."""

    def peer_up(self, kernel: int) -> list[Effect]:
        effects = super().peer_up(kernel)
        self._latecomer = self._unsure = False
        return effects


class LostPagesAreUnheardOf(VotingEngine):
    """A kernel that knows of a page that died tells those who ask that it never was."""

    def absent_here(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        touched, page.touched = page.touched, False
        super().absent_here(page, sender, message, effects)
        page.touched = touched


class OneBarrenRound(VotingEngine):
    """A page is given up as lost though the last round of questions has found a sign of life."""

    def accept(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().accept(page, sender, message, effects)
        page.barren = max(page.barren, 0)

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().judge(page, sender, message, effects)
        page.barren = max(page.barren, 1)


TWO_VALUES = "invariant 1: a page is writable in one kernel and readable in another"
STALE = "invariant 2: a kernel can read a stale value"
GONE = "invariant 4: no kernel has page 0 any more"
ZEROS = "invariant 4: page 0 becomes zeros in kernel 0 though it was written"
STUCK = "invariant 5: nothing is in flight, but"
UNPROTECTED = "page 0 sent while not write-protected"
THREE = Scenario((1, 1, 1), start=SHARED)
MUTANTS: list[tuple[type[VotingEngine], Scenario, int, str]] = [
    (StaleReadAfterALostVote, THREE, 23, TWO_VALUES),
    (SilentGivingUp, Scenario((1, 1, 1), start=SHARED, give_ups=1), 13, f"{STUCK} a thread waits in kernel 1"),
    (LateAnswersCount, THREE, 21, TWO_VALUES),
    (GrantsForgotten, Scenario((1, 1, 1), start=MODIFIED), 10, STALE),
    (AsksForEver, Scenario((1, 0)), 1, NEVER_AT_REST),
    (FirstAnswerCounts, Scenario((1, 1, 1)), 13, STALE),
    (AlwaysZeros, Scenario((1, 1, 1)), 12, ZEROS),
    (SharedWithoutNotice, Scenario((1, 1)), 6, TWO_VALUES),
    (Unprotected, Scenario((1, 1)), 5, "kernel 0: " + UNPROTECTED),
    (EveryoneGrants, Scenario((1, 1), start=SHARED), 4, GONE),
    (VersionStandsStill, Scenario((2, 1), start=SHARED), 5, f"{STUCK} a thread waits in kernel 1"),
    (GivesWhileVoting, Scenario((1, 1, 1), start=PARTLY_SHARED), 8, STALE),
    (KeepsTheCopy, Scenario((1, 1), start=SHARED), 3, TWO_VALUES),
    (WinsWithoutTheCopy, Scenario((1, 1, 1), start=SHARED, deaths=1), 5, f"{STUCK} a page is in flight in kernel 0"),
    (DenialsSayNothing, Scenario((1, 1, 1), REORDERED, PARTLY_SHARED), 12, STALE),
    (ForgottenDead, Scenario((1, 1), start=SHARED, deaths=1), 3, f"{STUCK} a thread waits in kernel 0"),
    (DeadDataCounts, Scenario((1, 1, 1), start=PARTLY_SHARED, deaths=1), 8, STALE),
    (
        DeathsAreKeptSecret,
        Scenario((1, 1, 1), start=PARTLY_SHARED, deaths=1),
        15,
        "invariant 4: page 0 given up as lost while kernel 2 has it",
    ),
    (NewcomersAreOld, Scenario((1, 1, 1), start=PARTLY_SHARED), 19, f"{STUCK} a thread waits in kernel 1"),
    (VisitorsAreForgotten, Scenario((1, 1), deaths=1), 6, ZEROS.replace("kernel 0", "kernel 1")),
    (LatecomersAreSure, Scenario((1, 1), start=MODIFIED, deaths=2, returns=1), 6, ZEROS),
    (LostPagesAreUnheardOf, Scenario((1, 1), deaths=1, returns=1), 10, ZEROS),
    (NobodyAsksTheNewcomer, Scenario((1, 1, 1), deaths=1, returns=1), 8, f"{STUCK} a thread waits in kernel 1"),
]
"""Each with the number of steps of the shortest story in which it fails, and how it does."""


def verdict(engine: Callable[..., Any], scenario: Scenario) -> Report:
    return explore(replace(scenario, engine=engine), limit=100_000)


@pytest.mark.parametrize(
    ("engine", "scenario", "steps", "how"), MUTANTS, ids=[mutant[0].__name__ for mutant in MUTANTS]
)
def test_a_protocol_with_one_rule_broken_is_caught_by_its_shortest_story(
    engine: type[VotingEngine], scenario: Scenario, steps: int, how: str
) -> None:
    report = verdict(engine, scenario)
    assert report.violation, f"{engine.__name__} was not caught: {report}"
    assert (len(report.trace), report.violation) == (steps, how), tell(report)


def test_a_counterexample_is_told_step_by_step() -> None:
    report = verdict(KeepsTheCopy, Scenario((1, 1), start=SHARED))
    text = tell(report)
    assert "invariant 1: a page is writable in one kernel and readable in another" in text
    steps = text.splitlines()[1:]
    assert len(steps) == 3
    assert (
        steps[0]
        .split(maxsplit=1)[1]
        .startswith("kernel 0 writes page 0: sends INVALIDATE version 0 timestamp 1.0 to 1")
    )
    assert steps[2].split(maxsplit=1)[1] == "kernel 0 receives VOTE grant from 1"


def test_a_counterexample_is_a_shortest_one() -> None:
    lengths = {len(verdict(SharedWithoutNotice, Scenario((ops, ops))).trace) for ops in (1, 2, 3)}
    assert len(lengths) == 1


def test_a_counterexample_can_be_drawn() -> None:
    chart = trace_chart(verdict(KeepsTheCopy, Scenario((1, 1), start=SHARED)))
    assert chart.startswith("sequenceDiagram")
    assert "k0->>k1: INVALIDATE version 0 timestamp 1.0" in chart
    assert "Note over k0,k1: invariant 1" in chart


def test_a_search_that_reaches_its_limit_says_that_it_is_not_complete() -> None:
    report = explore(Scenario((2, 2)), limit=100)
    assert not report.complete
    assert report.violation is None
    assert "no violation so far" in str(report)


def test_a_search_of_the_same_scenario_visits_the_same_states() -> None:
    first, second = (explore(Scenario((2, 2), REORDERED, deaths=1)) for _ in range(2))
    assert (first.states, first.depth) == (second.states, second.depth)


def test_in_order_links_allow_less_than_reordered_ones() -> None:
    assert explore(Scenario((2, 2))).states < explore(Scenario((2, 2), REORDERED)).states


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario((2, 2, 2, 2), start=PARTLY_SHARED),
        Scenario((2, 2, 2, 2), REORDERED, give_ups=1, deaths=1),
        Scenario((2, 2, 2), REORDERED, MODIFIED, pages=2, threads=2),
    ],
    ids=str,
)
def test_random_walks_through_larger_systems_find_nothing(scenario: Scenario, seed: int) -> None:
    report = wander(scenario, seed, walks=15)
    assert report.violation is None, tell(report)


def test_random_walks_with_the_same_seed_are_the_same() -> None:
    first, second = (wander(Scenario((2, 2, 2), REORDERED), seed=7, walks=3) for _ in range(2))
    assert (first.states, first.depth) == (second.states, second.depth)


@pytest.mark.parametrize(
    ("engine", "scenario"),
    [
        (GrantsForgotten, Scenario((3, 3, 3), start=SHARED)),
        (OneBarrenRound, Scenario((3, 3, 3, 3), REORDERED, MODIFIED, deaths=1)),
        (NewcomersNeverHeardOfDeaths, Scenario((2, 2), start=MODIFIED, deaths=1, returns=1)),
    ],
    ids=["GrantsForgotten", "OneBarrenRound", "NewcomersNeverHeardOfDeaths"],
)
def test_random_walks_find_a_broken_rule(engine: type[VotingEngine], scenario: Scenario) -> None:
    report = wander(replace(scenario, engine=engine), seed=1, walks=1000)
    assert report.violation, str(report)
