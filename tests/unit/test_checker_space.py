"""Operations on the address space, searched together with page traffic; and broken ones, each found."""

from collections.abc import Callable
from unittest.mock import patch

import pytest

from guest.protocol.address_space import Access, AddressSpace, Kind, Operation, Refusal
from guest.protocol.effects import Effect, Freeze, SpaceDone
from guest.protocol.messages import Message
from guest.protocol.origin import OriginEngine
from guest.protocol.space import SpaceEngine
from guest.protocol.voting import VotingEngine
from orchestrator.checker.scenario import Links, Scenario, Start
from orchestrator.checker.search import explore
from orchestrator.checker.trace import tell

REORDERED, SHARED = Links.REORDERED, Start.SHARED
UNMAP, MAP = Operation(Kind.UNMAP, 0, 1), Operation(Kind.MAP, 0, 1)
READ_ONLY, WRITABLE = Operation(Kind.PROTECT, 0, 1, Access.READ), Operation(Kind.PROTECT, 0, 1, Access.WRITE)
MOVE, BACK = Operation(Kind.MOVE, 0, 1, to=1), Operation(Kind.MOVE, 1, 1, to=0)
COPY, DROP = Operation(Kind.COPY, 0, 1), Operation(Kind.UNMAP, 1, 1)


@pytest.mark.parametrize("engine", [VotingEngine, OriginEngine])
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario((2, 2), space=(UNMAP, MAP)),
        Scenario((2, 1), REORDERED, space=(UNMAP, MAP)),
        Scenario((2, 2), space=(READ_ONLY, WRITABLE)),
        Scenario((2, 2), space=(MOVE, BACK), pages=2, mapped=1, start=SHARED),
        Scenario((1, 1), space=(UNMAP, READ_ONLY), threads=2),
        Scenario((1, 1, 1), space=(UNMAP,), start=SHARED),
        Scenario((1, 1, 1), space=(MOVE,), pages=2, mapped=1, start=Start.MODIFIED),
        Scenario((1, 2), space=(UNMAP, MAP), give_ups=1),
        Scenario((2, 1), space=(UNMAP, MAP), deaths=1),
        Scenario((2, 2), space=(COPY,), pages=2, mapped=1, start=SHARED),
        Scenario((2, 1), REORDERED, space=(COPY, DROP), pages=2, mapped=1),
        Scenario((2, 1), space=(COPY,), pages=2, mapped=1, threads=2, start=Start.MODIFIED),
        Scenario((1, 1, 1), space=(COPY,), pages=2, mapped=1, start=Start.MODIFIED),
        Scenario((1, 1), space=(COPY,), pages=2, mapped=1, start=SHARED, deaths=1),
        Scenario((2, 2), REORDERED, members=1),
        Scenario((1, 1, 0), members=1),
        Scenario((1, 0, 1), members=2, deaths=1),
        Scenario((0, 1, 1), members=2, deaths=2),
        Scenario((1, 2), space=(UNMAP, MAP), members=1),
        Scenario((1, 1), space=(MOVE,), pages=2, mapped=1, members=1),
        Scenario((1, 1), space=(UNMAP,), members=1, deaths=1),
    ],
    ids=str,
)
def test_pages_stay_coherent_and_operations_end(scenario: Scenario, engine: type) -> None:
    report = explore(Scenario(**{**vars(scenario), "engine": engine}))
    assert report.violation is None, tell(report)
    assert report.complete


def does_not_wait_for_faults(self: SpaceEngine, effects: list[Effect]) -> None:
    """A kernel says that nothing is in flight without looking."""
    with patch.object(type(self._pages), "pending", lambda *_: False):
        settle(self, effects)


def commits_at_once(self: SpaceEngine, operation: Operation, effects: list[Effect]) -> None:
    """Home does not wait for the others' word that nothing is in flight."""
    if self.kernel == self.home:
        self._awaiting = ()
    lock(self, operation, effects)


def ends_too_early(self: SpaceEngine, operation: Operation, effects: list[Effect]) -> None:
    """Home does not wait until the others have carried it out."""
    carry_out(self, operation, effects)
    if self.kernel == self.home:
        self._awaiting = ()


def forgets_who_waits(self: SpaceEngine, operation: Operation, effects: list[Effect]) -> None:
    """Threads whose faults were held are not woken."""
    self._held = ()
    carry_out(self, operation, effects)


def does_not_hold_faults(self: SpaceEngine, page: int, write: bool) -> list[Effect]:
    """A locked page is asked for all the same."""
    locked, self._locked = self._locked, None
    effects = fault(self, page, write)
    self._locked = locked
    return effects


def answers_other_epochs(self: SpaceEngine, sender: int, message: Message) -> list[Effect]:
    """A request of a later epoch is answered at once."""
    return page_message(self, sender, message._replace(epoch=self.epoch))


def keeps_pages(self: SpaceEngine, operation: Operation, effects: list[Effect]) -> None:
    """An unmapped page stays what it was for the page engine."""
    with patch.object(type(self._pages), "forget", lambda *_: None):
        carry_out(self, operation, effects)


def waits_for_the_dead(self: SpaceEngine, kernel: int) -> list[Effect]:
    """Home waits for the word of a kernel that died."""
    return self._pages.peer_down(kernel)


def lets_in_at_once(self: SpaceEngine, newcomer: int, effects: list[Effect]) -> bool:
    """Home does not wait until every member knows the newcomer."""
    let_in(self, newcomer, effects)
    if self._awaiting:
        self._awaiting, self._queue = (), self._queue[1:]
        self._welcome(newcomer, effects)
    return False


def is_deaf_outside(self: SpaceEngine, sender: int, message: Message) -> list[Effect]:
    """What members ask a newcomer before it knows that it is in is dropped."""
    effects = outside(self, sender, message)
    self._early = ()
    return effects


def leaves_members_waiting(_self: SpaceEngine, _sender: int, _message: Message) -> list[Effect]:
    """A newcomer whose home died does not answer the members that took it for one of them."""
    return []


def forgets_what_is_mapped(self: SpaceEngine, newcomer: int, effects: list[Effect]) -> None:
    """A newcomer is told of nothing that is mapped."""
    with patch.object(AddressSpace, "runs", lambda _: []):
        welcome(self, newcomer, effects)


def lets_threads_store(self: SpaceEngine, effects: list[Effect]) -> None:
    """Threads may store to pages of which others make their copy already."""
    settle(self, effects)
    effects[:] = [effect for effect in effects if not isinstance(effect, Freeze)]


def is_blind_to_copies(self: SpaceEngine, operation: Operation, effects: list[Effect]) -> None:
    """The page engine is not told of a copy."""
    with patch.object(type(self._pages), "copy", lambda *_: None):
        carry_out(self, operation, effects)


def refuses_what_was_made(_self: SpaceEngine, request: int) -> SpaceDone:
    """Home dies before it says that a copy was made everywhere, and who has asked takes it for refused."""
    return SpaceDone(request, Refusal.HOME_DIED)


settle, lock, carry_out = SpaceEngine._settle, SpaceEngine._lock, SpaceEngine._carry_out
fault, page_message = SpaceEngine.fault, SpaceEngine._page_message
let_in, outside, welcome = SpaceEngine._let_in, SpaceEngine._outside, SpaceEngine._welcome

MUTANTS: list[tuple[str, Callable[..., object], Scenario]] = [
    ("_settle", does_not_wait_for_faults, Scenario((1, 1, 1), space=(UNMAP,))),
    ("_lock", commits_at_once, Scenario((1, 1), space=(UNMAP,))),
    ("_carry_out", ends_too_early, Scenario((1, 1), space=(UNMAP,))),
    ("_carry_out", forgets_who_waits, Scenario((1, 1), space=(UNMAP,))),
    ("fault", does_not_hold_faults, Scenario((1, 1), space=(UNMAP,))),
    ("_page_message", answers_other_epochs, Scenario((1, 1), REORDERED, space=(MOVE,), threads=2, pages=2, mapped=1)),
    ("_carry_out", keeps_pages, Scenario((1, 1), space=(UNMAP,), start=SHARED)),
    ("_settle", lets_threads_store, Scenario((1, 1), space=(COPY,), pages=2, mapped=1, start=Start.MODIFIED)),
    ("_carry_out", is_blind_to_copies, Scenario((1, 1), space=(COPY,), pages=2, mapped=1, start=SHARED)),
    ("_unanswered", refuses_what_was_made, Scenario((0, 1), space=(COPY,), pages=2, mapped=1, deaths=1)),
    ("peer_down", waits_for_the_dead, Scenario((1, 1), space=(UNMAP,), deaths=1)),
    ("_let_in", lets_in_at_once, Scenario((0, 1, 1), members=2)),
    ("_outside", is_deaf_outside, Scenario((0, 1, 1), members=2)),
    ("_stand_by", leaves_members_waiting, Scenario((0, 1, 1), members=2, deaths=1)),
    ("_welcome", forgets_what_is_mapped, Scenario((1, 1), space=(UNMAP,), members=1)),
]


@pytest.mark.parametrize(("rule", "mutant", "scenario"), MUTANTS, ids=[mutant.__name__ for _, mutant, _ in MUTANTS])
def test_a_broken_rule_is_found(
    rule: str, mutant: Callable[..., object], scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpaceEngine, rule, mutant)
    report = explore(scenario)
    assert report.violation is not None, f"{report}"
