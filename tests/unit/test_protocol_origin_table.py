"""The two tables of the origin protocol list what the engine does: no more, and no less."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.origin import OriginEngine
from guest.protocol.origin_table import AWAY, HOME, Event, Table
from guest.protocol.table import State
from orchestrator.checker import Scenario, explore
from orchestrator.checker.coverage import Coverage
from orchestrator.checker.scenario import Links, Start
from tests.unit.protocol_steps import names, sent, shared

U, N, M, S, I = State  # noqa: E741 - the field's letters
TABLES = {"home": HOME, "away": AWAY}

NEVER_MODELLED = {
    # The model's threads touch memory and engine in one step: none faults on a page that is there by now.
    *((state, event) for state in (N, M) for event in (Event.READ_FAULT, Event.WRITE_FAULT)),
    (S, Event.READ_FAULT),
    # Nor does anybody give up an access that has succeeded.
    (N, Event.GIVE_UP),
    (M, Event.GIVE_UP),
}
"""In either table. Besides, `late` is never needed: an answer can be late only if its kernel died and came back."""

NEEDS_FOUR_KERNELS = {(S, Event.PEER_DOWN)}
"""At the origin; see the last test."""


class Seen(NamedTuple):
    home: Coverage
    away: Coverage


@pytest.fixture(scope="module")
def seen() -> Seen:
    seen = Seen(Coverage(), Coverage())
    engine = seen.away.recording(seen.home.recording(OriginEngine, HOME), AWAY)
    for scenario in (
        Scenario((2, 2), Links.REORDERED, threads=2),
        Scenario((2, 2, 1), Links.REORDERED),
        Scenario((1, 1, 1), Links.REORDERED, threads=2),
        Scenario((1, 1, 1), Links.REORDERED, give_ups=1, deaths=1),
        Scenario((1, 1, 1), Links.REORDERED, Start.MODIFIED, deaths=1),
        Scenario((1, 1, 1), Links.REORDERED, Start.SHARED, deaths=1),
        Scenario((1, 1), start=Start.SHARED, give_ups=1),
    ):
        report = explore(replace(scenario, engine=engine))
        assert report.complete, str(report)
    return seen


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_rule_is_a_method_of_the_engine_and_says_what_it_does(table: Table) -> None:
    for key, rule in table.items():
        assert callable(getattr(OriginEngine, rule.name, None)), rule.name
        assert len(rule.says.split()) > 2, key


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_what_happens_locally_and_every_answer_has_a_rule_in_every_state(table: Table) -> None:
    questions = (Event.PAGE_REQUEST, Event.INVALIDATE)
    for event in {event for _, event in table if event not in questions}:
        assert {state for state, other in table if other is event} == set(State), event.name


def test_no_question_goes_to_a_kernel_whose_table_does_not_know_it() -> None:
    for table, other in ((HOME, AWAY), (AWAY, HOME)):
        sent = {Event(name) for rule in table.values() for name in rule.sends}
        assert sent <= {event for _, event in other}


@pytest.mark.parametrize("name", TABLES)
def test_the_engine_does_nothing_that_the_table_does_not_list(seen: Seen, name: str) -> None:
    table, coverage = TABLES[name], getattr(seen, name)
    for key, states in coverage.states.items():
        rule = table[key]
        assert states <= set(rule.to), f"{key}: {rule.name} went to {states - set(rule.to)}"
        assert coverage.sends[key] <= set(rule.sends), f"{key}: {rule.name} sent {coverage.sends[key]}"


@pytest.mark.parametrize("name", TABLES)
def test_everything_that_the_table_lists_really_happens(seen: Seen, name: str) -> None:
    coverage = getattr(seen, name)
    for key, rule in TABLES[name].items():
        if key in NEVER_MODELLED or rule.name == "late":
            assert key not in coverage.states, f"{key} happens after all"
            continue
        assert key in coverage.states, f"{key} never happened"
        assert coverage.states[key] == set(rule.to), f"{key}: {rule.name} went to {coverage.states[key]} only"
        if name != "home" or key not in NEEDS_FOUR_KERNELS:
            assert coverage.sends[key] == set(rule.sends), f"{key}: {rule.name} sent {coverage.sends[key]} only"


def test_a_death_may_lead_to_further_invalidations() -> None:
    """What NEEDS_FOUR_KERNELS leaves out. The origin writes, kernel 3 waits to read, kernel 2 to write. The last vote
    is kernel 1's, which dies: the origin has written, kernel 3 gets a copy, and loses it to kernel 2's write."""
    engine = shared(4, engine=OriginEngine).engines[0]
    question = sent(engine.fault(0, True))[0]
    assert engine.receive(3, Message(MessageName.PAGE_REQUEST, 0, 2)) == []
    assert engine.receive(2, Message(MessageName.PAGE_REQUEST, 0, 2, Flag.FOR_WRITE)) == []
    for kernel in (2, 3):
        assert engine.receive(kernel, Message(MessageName.VOTE, 0, question.request, Flag.GRANT)) == []
    assert names(engine.peer_down(1)) == ["Grant", "Protect", "PAGE_DATA", "INVALIDATE"]
