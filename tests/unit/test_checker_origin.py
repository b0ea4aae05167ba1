"""The checker finds nothing in the origin protocol, and everything in origins with one rule broken."""

from dataclasses import replace

import pytest

from guest.protocol.effects import Discard, Effect, Protect, Send
from guest.protocol.messages import Flag, Message
from guest.protocol.origin import OriginEngine
from guest.protocol.origin_page import Asker, AwayPage, HomePage
from guest.protocol.page import READ
from guest.protocol.table import S
from orchestrator.checker import Scenario, explore, wander
from orchestrator.checker.scenario import Links, Start
from orchestrator.checker.trace import tell

REORDERED = Links.REORDERED
SHARED, MODIFIED = Start.SHARED, Start.MODIFIED

SOUND = [
    Scenario((3, 3)),
    Scenario((3, 3), REORDERED),
    Scenario((3, 3), REORDERED, SHARED),
    Scenario((3, 3), REORDERED, MODIFIED),
    Scenario((2, 2), REORDERED, pages=2),
    Scenario((2, 2), REORDERED, threads=2),
    Scenario((2, 2), REORDERED, give_ups=2, deaths=1),
    Scenario((1, 1, 1), start=Start.PARTLY_SHARED),
    Scenario((2, 2, 2)),
    Scenario((2, 2, 2), REORDERED),
    Scenario((2, 2, 1), REORDERED, SHARED),
    Scenario((2, 2, 1), REORDERED, MODIFIED),
    Scenario((1, 1, 1), pages=2),
    Scenario((1, 1, 1), REORDERED, give_ups=1, deaths=1),
    Scenario((1, 1, 1), REORDERED, SHARED, give_ups=1, deaths=1),
    Scenario((1, 1, 1), REORDERED, MODIFIED, deaths=2),
    Scenario((1, 1, 1), REORDERED, SHARED, deaths=1, returns=1),
    Scenario((1, 1, 0), start=MODIFIED, deaths=2, returns=2),
    Scenario((2, 2, 2), REORDERED, SHARED, give_ups=1, leaves=2),
]


@pytest.mark.parametrize("scenario", SOUND, ids=str)
def test_the_origin_protocol_holds_in_every_state(scenario: Scenario) -> None:
    report = explore(replace(scenario, engine=OriginEngine))
    assert report.violation is None, tell(report)
    assert report.complete
    assert report.states > 100


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario((2, 2, 2, 2), REORDERED, SHARED, give_ups=1, deaths=2),
        Scenario((2,) * 8, REORDERED, MODIFIED, threads=2, deaths=1),
        Scenario((2, 2, 2), REORDERED, pages=3, threads=2, give_ups=2),
    ],
    ids=str,
)
def test_random_walks_through_larger_systems_find_nothing(scenario: Scenario, seed: int) -> None:
    report = wander(replace(scenario, engine=OriginEngine), seed, walks=25)
    assert report.violation is None, tell(report)


def without_dropping(effects: list[Effect]) -> bool:
    """Take whatever drops a page out of `effects`; false if there was nothing."""
    before = list(effects)
    effects[:] = [
        effect._replace(discard=False) if isinstance(effect, Send) else effect
        for effect in effects
        if not isinstance(effect, Discard)
    ]
    return effects != before


class OriginKeepsItsCopy(OriginEngine):
    """Another kernel may write, and the origin reads on."""

    def _let_write(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        super()._let_write(page, asker, effects)
        if without_dropping(effects):
            page.state = S


class ReaderUnrecorded(OriginEngine):
    """A reader is not entered in the directory."""

    def _let_read(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        holders = page.holders
        super()._let_read(page, asker, effects)
        page.holders = holders


class FirstVoteCounts(OriginEngine):
    """Of all invalidated holders only one is waited for."""

    def count_out(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        page.holders &= self._bit
        page.awaiting &= 1 << sender
        super().count_out(page, sender, message, effects)


class VotesWithoutDropping(OriginEngine):
    """An invalidation is acknowledged, and the copy kept."""

    def _drop(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        super()._drop(page, question, effects)
        without_dropping(effects)
        page.state = S


class QuestionsForgotten(OriginEngine):
    """A question that has overtaken the answer is not kept."""

    def wait(self, page: AwayPage, sender: int, message: Message, _effects: list[Effect]) -> None:
        super().wait(page, sender, message, _effects)
        page.question = None


class GrantsToAnybody(OriginEngine):
    """The right to write is sent without the page to a kernel that has none."""

    def _let_write(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        page.holders |= 1 << asker.kernel
        super()._let_write(page, asker, effects)


class ServesWhileBusy(OriginEngine):
    """A write is granted while the one before it waits for votes."""

    def enter_queue(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.state is S and page.awaiting and message.flags & Flag.FOR_WRITE:
            self._let_write(page, Asker(sender, message.request, True), effects)
        else:
            super().enter_queue(page, sender, message, effects)


class StaysWritable(OriginEngine):
    """A writer gives a copy away and writes on."""

    def _hand_over(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        super()._hand_over(page, question, effects)
        effects[:] = [effect for effect in effects if not isinstance(effect, Protect)]


class KeepsWhatIsToBeWritten(OriginEngine):
    """The owner keeps a copy of what another is going to write, and says that it does not."""

    def _hand_over(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        super()._hand_over(page, question, effects)
        if without_dropping(effects):
            page.state = S


class DropsTooLate(OriginEngine):
    """The owner sends the page to its next writer, and only then drops it: its threads read on meanwhile."""

    def _hand_over(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        super()._hand_over(page, question, effects)
        if without_dropping(effects):
            effects.append(Discard(page.number))


class OriginDropsTooLate(OriginEngine):
    """The same at the origin."""

    def _let_write(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        super()._let_write(page, asker, effects)
        if without_dropping(effects):
            effects.append(Discard(page.number))


class ReaderMayWrite(OriginEngine):
    """A copy to read is installed writable."""

    def install(self, page: AwayPage, sender: int, message: Message, effects: list[Effect]) -> None:
        super().install(page, sender, message._replace(flags=Flag.FOR_WRITE), effects)


class WriterForgotten(OriginEngine):
    """A copy comes whose reader has given up; the writer that waits too is neither woken nor asked for."""

    def install(self, page: AwayPage, sender: int, message: Message, effects: list[Effect]) -> None:
        page.wanted &= READ
        super().install(page, sender, message, effects)


class AnswerRefused(OriginEngine):
    """Who gives up does not take the answer any more, though the directory counts on it."""

    def give_up(self, page: AwayPage, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        page.wanted = 0
        page.asking = False


class DeadAreWaitedFor(OriginEngine):
    """The origin waits for a vote of the dead."""

    def bury(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        awaiting = page.awaiting
        super().bury(page, sender, message, effects)
        page.awaiting = awaiting


class DeadStayInTheQueue(OriginEngine):
    """A page is given to a kernel that is dead."""

    def bury(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        queue = page.queue
        super().bury(page, sender, message, [])
        page.queue = queue
        self._serve(page, effects)


class LostPagesAreZeros(OriginEngine):
    """A page whose only valid copy died begins again as zeros."""

    def bury(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        super().bury(page, sender, message, effects)
        page.lost = False


class OrphansHope(OriginEngine):
    """An answer is awaited from an origin that is dead."""

    def orphan(self, page: AwayPage, _sender: int, _message: Message, effects: list[Effect]) -> None:
        return


class OwnerStruckOut(OriginEngine):
    """An owner that gives a copy away is struck from the directory though it keeps one."""

    def come_home(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        page.holders = 0
        super().come_home(page, sender, message, effects)


class OriginRemembersNothing(OriginEngine):
    """An origin that comes back gives pages of zeros to whoever asks first, itself."""

    def peer_up(self, kernel: int) -> list[Effect]:
        effects = super().peer_up(kernel)
        self._orphaned &= kernel != self.kernel
        return effects


class LeavesWhileAPageIsOnItsWay(OriginEngine):
    """A kernel that leaves forgets that it has asked for something."""

    def pending(self, page: int) -> bool:
        return False


TWO_VALUES = "invariant 1: a page is writable in one kernel and readable in another"
STALE = "invariant 2: a kernel can read a stale value"
GONE = "invariant 4: no kernel has page 0 any more"
ZEROS = "invariant 4: page 0 becomes zeros in kernel 0 though it was written"
STUCK = "invariant 5: nothing is in flight, but"
UNPROTECTED = "page 0 sent while not write-protected"
MUTANTS: list[tuple[type[OriginEngine], Scenario, int, str]] = [
    (OriginKeepsItsCopy, Scenario((1, 1), start=SHARED), 3, STALE),
    (ReaderUnrecorded, Scenario((2, 1)), 5, TWO_VALUES),
    (FirstVoteCounts, Scenario((1, 1, 1), start=SHARED), 3, TWO_VALUES),
    (VotesWithoutDropping, Scenario((1, 1), start=SHARED), 3, TWO_VALUES),
    (QuestionsForgotten, Scenario((2, 2), REORDERED), 5, f"{STUCK} a thread waits in kernel 0"),
    (GrantsToAnybody, Scenario((2, 1)), 3, GONE),
    (ServesWhileBusy, Scenario((1, 1, 1), start=SHARED), 5, GONE),
    (StaysWritable, Scenario((1, 1)), 5, "kernel 1: " + UNPROTECTED),
    (KeepsWhatIsToBeWritten, Scenario((1, 1)), 6, TWO_VALUES),
    (DropsTooLate, Scenario((1, 1)), 5, "kernel 1: page 0 discarded behind a message about it"),
    (OriginDropsTooLate, Scenario((1, 1)), 3, "kernel 0: page 0 discarded behind a message about it"),
    (ReaderMayWrite, Scenario((1, 1)), 4, TWO_VALUES),
    (
        WriterForgotten,
        Scenario((0, 1), start=MODIFIED, threads=2, give_ups=1),
        5,
        f"{STUCK} a thread waits in kernel 1",
    ),
    (AnswerRefused, Scenario((1, 2), give_ups=1), 5, GONE),
    (DeadAreWaitedFor, Scenario((1, 1), start=SHARED, deaths=1), 3, f"{STUCK} a page is in flight in kernel 0"),
    (DeadStayInTheQueue, Scenario((2, 1), start=SHARED, deaths=1), 6, f"{STUCK} a thread waits in kernel 0"),
    (LostPagesAreZeros, Scenario((1, 2), start=SHARED, deaths=1), 6, ZEROS),
    (OrphansHope, Scenario((1, 1), start=MODIFIED, deaths=1), 3, f"{STUCK} a thread waits in kernel 1"),
    (OwnerStruckOut, Scenario((2, 1)), 7, TWO_VALUES),
    (OriginRemembersNothing, Scenario((1, 1), start=SHARED, deaths=1, returns=1), 5, TWO_VALUES),
    (LeavesWhileAPageIsOnItsWay, Scenario((0, 1), start=SHARED, give_ups=1, leaves=1), 6, GONE),
]
"""Each with the number of steps of the shortest story in which it fails, and how it does."""


@pytest.mark.parametrize(
    ("engine", "scenario", "steps", "how"), MUTANTS, ids=[mutant[0].__name__ for mutant in MUTANTS]
)
def test_an_origin_with_one_rule_broken_is_caught_by_its_shortest_story(
    engine: type[OriginEngine], scenario: Scenario, steps: int, how: str
) -> None:
    assert explore(replace(scenario, engine=OriginEngine)).violation is None
    report = explore(replace(scenario, engine=engine), limit=100_000)
    assert report.violation, f"{engine.__name__} was not caught: {report}"
    assert (len(report.trace), report.violation) == (steps, how), tell(report)
