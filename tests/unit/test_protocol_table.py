"""The transition table is complete, and says what the engine does: no more, and no less."""

import pytest

from guest.protocol.table import TABLE, Event, State
from guest.protocol.voting import VotingEngine
from orchestrator.checker import Scenario, explore
from orchestrator.checker.coverage import Coverage
from orchestrator.checker.scenario import Links, Start

U, N, M, S, I = State  # noqa: E741 - the field's letters

NEVER_MODELLED = {
    # The model's threads touch memory and engine in one step: none faults on a page that is there by now.
    *((state, event) for state in (N, M) for event in (Event.READ_FAULT, Event.WRITE_FAULT)),
    (S, Event.READ_FAULT),
    # Nor does anybody give up an access that has succeeded.
    (N, Event.GIVE_UP),
    (M, Event.GIVE_UP),
    # Nobody gives a copy of, or votes about, what he does not have; the rules are there so that every pair has one.
    (N, Event.PAGE_DATA),
    (N, Event.PAGE_ABSENT),
    (N, Event.INVALIDATE),
    (N, Event.ABANDON),
    (U, Event.ABANDON),
    *((state, Event.VOTE) for state in (U, N, M)),
}

NEEDS_MORE_KERNELS_OR_DEATHS = {
    (U, Event.PAGE_DATA),
    (U, Event.PAGE_ABSENT),
    (I, Event.PAGE_ABSENT),
    (S, Event.GIVE_UP),
    *((state, Event.PEER_DOWN) for state in (U, M, S, I)),
}
"""Pairs whose rules have outcomes that only larger searches reach than fit in here: docs/protocol.md lists those."""


@pytest.fixture(scope="module")
def coverage() -> Coverage:
    seen = Coverage()
    engine = seen.recording(VotingEngine)
    for scenario in (
        Scenario((2, 2), Links.REORDERED, engine=engine),
        Scenario((1, 1, 0), engine=engine),
        Scenario((1, 1, 1), Links.REORDERED, Start.SHARED, engine=engine),
        Scenario((1, 1, 1), start=Start.MODIFIED, engine=engine),
        Scenario((1, 1, 0), start=Start.SHARED, deaths=1, engine=engine),
        Scenario((2, 1), Links.REORDERED, give_ups=1, deaths=1, engine=engine),
    ):
        report = explore(scenario)
        assert report.complete, str(report)
    report = explore(Scenario((1, 1, 1), start=Start.SHARED, give_ups=1, engine=engine), limit=30_000)
    assert not report.violation, str(report)
    return seen


def test_every_state_has_a_rule_for_every_event() -> None:
    assert set(TABLE) == {(state, event) for state in State for event in Event}


def test_every_rule_is_a_method_of_the_engine() -> None:
    for rule in TABLE.values():
        assert callable(getattr(VotingEngine, rule.name, None)), rule.name


def test_every_rule_says_what_it_does() -> None:
    for key, rule in TABLE.items():
        assert len(rule.says.split()) > 2, key


def test_the_engine_does_nothing_that_the_table_does_not_list(coverage: Coverage) -> None:
    for key, states in coverage.states.items():
        rule = TABLE[key]
        assert states <= set(rule.to), f"{key}: {rule.name} went to {states - set(rule.to)}"
        assert coverage.sends[key] <= set(rule.sends), f"{key}: {rule.name} sent {coverage.sends[key]}"


def test_everything_that_the_table_lists_really_happens(coverage: Coverage) -> None:
    for key, rule in TABLE.items():
        if key in NEVER_MODELLED:
            assert key not in coverage.states, f"{key} happens after all"
            continue
        assert key in coverage.states, f"{key} never happened"
        if key not in NEEDS_MORE_KERNELS_OR_DEATHS:
            assert coverage.states[key] == set(rule.to), f"{key}: {rule.name} went to {coverage.states[key]} only"
            assert coverage.sends[key] == set(rule.sends), f"{key}: {rule.name} sent {coverage.sends[key]} only"
