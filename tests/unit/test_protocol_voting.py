"""What the voting protocol does, by name. Small chosen orders of events; all the others are the checker's."""

from collections import Counter

import pytest

from guest.protocol.effects import (
    Forget,
    Grant,
    Install,
    Keep,
    Protect,
    Send,
    Wake,
    Zero,
)
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.registry import PROTOCOLS
from guest.protocol.table import State
from guest.protocol.voting import VotingEngine
from orchestrator.checker.rehearsal import Rehearsal, shared_array
from tests.unit.protocol_steps import LOSER, names, sent, shared, winner_with_a_loser

REQUEST, DATA, ABSENT = MessageName.PAGE_REQUEST, MessageName.PAGE_DATA, MessageName.PAGE_ABSENT
INVALIDATE, VOTE, ABANDON = MessageName.INVALIDATE, MessageName.VOTE, MessageName.ABANDON


def counts(system: Rehearsal) -> Counter[str]:
    return Counter(MessageName(message.name).name for _, _, message in system.log)


def settled(engine: VotingEngine, page: int = 0) -> State:
    assert not engine.pending(page)
    return engine.state(page)


# First touch


@pytest.mark.parametrize("kernels", [2, 3, 4, 8])
def test_first_touch_costs_two_messages_for_every_other_kernel(kernels: int) -> None:
    system = Rehearsal(kernels, 1)
    system.access(0, 0, write=True)
    system.settle()
    assert len(system.log) == 2 * (kernels - 1)
    assert system.states(0) == "N" + "U" * (kernels - 1)
    system.log.clear()
    system.access(1, 0, write=False)
    system.settle()
    assert len(system.log) == 2 * (kernels - 1)
    assert system.states(0) == "SS" + "U" * (kernels - 2)


def test_a_page_that_nobody_has_is_zero_writable_and_local_from_then_on() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, False))
    assert request.flags == Flag.FETCH
    assert engine.pending(0)
    assert engine.receive(1, Message(ABSENT, 0, request.request)) == [Zero(0, True)]
    assert settled(engine) is State.N


def test_two_kernels_that_fetch_at_once_share_a_page_of_zeros() -> None:
    system = Rehearsal(2, 1)
    system.access(0, 0, write=False)
    system.access(1, 0, write=False)
    system.settle()
    assert system.states(0) == "SS"
    assert counts(system) == {"PAGE_REQUEST": 2, "PAGE_ABSENT": 2}


def test_a_fetch_with_two_kernels_installs_straight_from_the_message() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, False))
    effects = engine.receive(1, Message(DATA, 0, request.request, 0, 3, 0b11))
    assert effects == [Install(0, writable=False, wake=True, kept=False)]


def test_a_fetch_waits_for_all_answers_and_takes_the_highest_version() -> None:
    engine = VotingEngine(0, range(4), 1)
    request = sent(engine.fault(0, False))[0].request
    assert engine.receive(1, Message(DATA, 0, request, 0, 3, 0b11)) == [Keep(0)]
    assert engine.receive(2, Message(DATA, 0, request, 0, 2, 0b101)) == []
    assert engine.receive(3, Message(DATA, 0, request, 0, 4, 0b1001)) == [
        Forget(0),
        Install(0, writable=False, wake=True, kept=False),
    ]


def test_a_copy_laid_aside_is_installed_when_the_last_answer_is_older() -> None:
    engine = VotingEngine(0, range(3), 1)
    request = sent(engine.fault(0, False))[0].request
    engine.receive(1, Message(DATA, 0, request, 0, 3, 0b11))
    assert engine.receive(2, Message(DATA, 0, request, 0, 2, 0b101)) == [Install(0, False, True, kept=True)]


def test_a_fetched_copy_older_than_what_a_denier_once_had_is_not_installed() -> None:
    """Kernel 1 gave version 0; kernel 2 had version 1 and granted it away: somewhere there is a newer one."""
    engine = VotingEngine(0, range(3), 1)
    request = sent(engine.fault(0, False))[0].request
    assert engine.receive(1, Message(DATA, 0, request, 0, 0, 0b111)) == [Keep(0)]
    effects = engine.receive(2, Message(ABSENT, 0, request, 0, 1, 0b111))
    assert names(effects) == ["Forget", "PAGE_REQUEST", "PAGE_REQUEST"]
    assert engine.state(0) is State.I


def test_a_page_that_somebody_once_had_never_becomes_zeros() -> None:
    engine = VotingEngine(0, range(3), 1)
    request = sent(engine.fault(0, True))[0].request
    engine.receive(1, Message(ABSENT, 0, request, 0, 1, 0b111))
    effects = engine.receive(2, Message(ABSENT, 0, request))
    assert not any(isinstance(effect, Zero) for effect in effects)
    assert engine.state(0) is State.I


def test_a_fetched_copy_that_was_invalidated_on_its_way_is_not_installed() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, False))
    (vote,) = sent(engine.receive(1, Message(INVALIDATE, 0, 9, 0, 3, 0, 1 << 16 | 1)))
    assert vote.flags == Flag.GRANT
    assert vote.request == 9
    effects = engine.receive(1, Message(DATA, 0, request.request, 0, 3, 0b11))
    assert [effect.to for effect in effects if isinstance(effect, Send)] == [1]
    assert engine.state(0) is State.I


# Reads and writes


def test_read_of_an_invalid_page_costs_two_messages() -> None:
    system = shared(3)
    system.access(0, 0, write=True)
    system.settle()
    system.log.clear()
    system.access(2, 0, write=False)
    system.settle()
    assert counts(system) == {"PAGE_REQUEST": 1, "PAGE_DATA": 1}
    assert system.states(0) == "SIS"


def test_read_whose_owner_hint_misses_asks_the_copyset() -> None:
    """Kernel 2 missed nothing, but its owner gave the page away: it is sent on to all who ever had it."""
    engine = VotingEngine(2, range(3), 1)
    request = sent(engine.fault(0, False))[0].request
    engine.receive(0, Message(DATA, 0, request, 0, 0, 0b111))
    engine.receive(1, Message(DATA, 0, request, 0, 0, 0b111))
    engine.receive(0, Message(INVALIDATE, 0, 1, 0, 0, 0, 1 << 16))
    (to_owner,) = engine.fault(0, False)
    assert isinstance(to_owner, Send)
    assert to_owner.to == 0
    wide = engine.receive(0, Message(ABSENT, 0, to_owner.message.request, 0, 1, 0b111))
    assert [effect.to for effect in wide if isinstance(effect, Send)] == [0, 1]


@pytest.mark.parametrize("kernels", [2, 3, 4, 8])
def test_write_of_a_shared_page_costs_two_messages_for_every_copy(kernels: int) -> None:
    system = shared(kernels)
    system.access(0, 0, write=True)
    system.settle()
    assert counts(system) == {"INVALIDATE": kernels - 1, "VOTE": kernels - 1}
    assert system.states(0) == "M" + "I" * (kernels - 1)


def test_a_lost_vote_costs_two_messages_and_another_vote() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.access(1, 0, write=True)
    system.settle()
    assert counts(system) == {"INVALIDATE": 3, "VOTE": 3, "PAGE_REQUEST": 1, "PAGE_DATA": 1}
    assert system.states(0) == "IM"


def test_a_loser_keeps_its_timestamp_until_it_has_won() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.access(1, 0, write=True)
    system.settle()
    stamps = [message.stamp for sender, _, message in system.log if sender == 1 and message.name == INVALIDATE]
    assert len(stamps) == 2
    assert len(set(stamps)) == 1


def test_loser_of_a_vote_never_reads_stale_data() -> None:
    """Kernel 1 lost; the winner's copy is overtaken by an older writer's invalidation of just that version."""
    engine = VotingEngine(1, range(3), 1)
    request = sent(engine.fault(0, True))[0].request
    engine.receive(0, Message(DATA, 0, request, 0, 0, 0b111))
    vote = sent(engine.receive(2, Message(DATA, 0, request, 0, 0, 0b111)))[0]
    engine.receive(0, Message(INVALIDATE, 0, 1, 0, 0, 0, 1 << 16))
    engine.receive(2, Message(VOTE, 0, vote.request, Flag.GRANT, 0, 0, 2))
    (ask,) = sent(engine.receive(0, Message(VOTE, 0, vote.request, Flag.ALSO_WRITING, 0, 0, 1 << 16)))
    assert ask.flags == Flag.FOR_WRITE
    engine.receive(2, Message(INVALIDATE, 0, 2, 0, 1, 0, 0 << 16 | 2))
    effects = engine.receive(0, Message(DATA, 0, ask.request, 0, 1, 0b111))
    assert not any(isinstance(effect, Install) for effect in effects)
    (again, *_) = sent(effects)
    assert (again.name, again.flags, again.version) == (REQUEST, Flag.FOR_WRITE, 2)


def test_a_winner_keeps_readers_waiting_until_every_loser_has_asked() -> None:
    engine = winner_with_a_loser()
    assert engine.receive(2, Message(REQUEST, 0, 8)) == []
    assert settled(engine) is State.M
    effects = engine.receive(1, Message(REQUEST, 0, 9, Flag.FOR_WRITE, 0, 0, LOSER))
    assert names(effects) == ["Protect", "PAGE_DATA", "PAGE_DATA"]
    assert [message.request for message in sent(effects)] == [8, 9]


def test_a_winner_without_losers_answers_readers_at_once() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.settle()
    assert names(system.engines[0].receive(1, Message(REQUEST, 0, 8))) == ["Protect", "PAGE_DATA"]


def test_a_write_wanted_while_a_read_is_in_flight_goes_on_as_a_write() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.settle()
    system.access(1, 0, write=False)
    system.access(1, 0, write=True)
    system.log.clear()
    system.settle()
    assert system.states(0) == "IM"
    assert counts(system) == {"PAGE_DATA": 1, "INVALIDATE": 1, "VOTE": 1}


def test_further_faults_while_one_is_in_flight_send_nothing() -> None:
    engine = VotingEngine(0, range(2), 1)
    assert names(engine.fault(0, False)) == ["PAGE_REQUEST"]
    assert engine.fault(0, False) == []
    assert engine.fault(0, True) == []


def test_a_writer_that_waits_is_not_woken_by_the_copy_that_comes_first() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, True))
    effects = engine.receive(1, Message(DATA, 0, request.request, 0, 0, 0b11))
    assert effects[0] == Install(0, writable=False, wake=False, kept=False)
    (vote,) = sent(effects)
    assert engine.receive(1, Message(VOTE, 0, vote.request, Flag.GRANT, 0, 0, 1)) == [Grant(0)]
    assert settled(engine) is State.M


def test_a_fault_on_a_page_that_is_there_by_now_only_wakes() -> None:
    system = shared(2)
    assert system.engines[0].fault(0, False) == [Wake(0)]
    system.access(0, 0, write=True)
    system.settle()
    assert system.engines[0].fault(0, True) == [Wake(0)]
    assert settled(system.engines[0]) is State.M  # type: ignore[arg-type]


def test_the_only_copy_is_protected_before_it_is_given_away() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, True))
    engine.receive(1, Message(ABSENT, 0, request.request))
    effects = engine.receive(1, Message(REQUEST, 0, 5, Flag.FETCH))
    assert effects[0] == Protect(0)
    assert names(effects) == ["Protect", "PAGE_DATA"]
    assert sent(effects)[0].request == 5


def test_a_vote_about_a_stale_version_is_refused_by_who_has_a_newer_one() -> None:
    """A loser asked, was answered late, and voted again with the copy it had: that copy is stale by now."""
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, False))
    engine.receive(1, Message(DATA, 0, request.request, 0, 5, 0b11))
    (vote,) = sent(engine.receive(1, Message(INVALIDATE, 0, 3, 0, 4, 0, 1 << 16 | 1)))
    assert not vote.flags & Flag.GRANT
    assert engine.state(0) is State.S
    assert vote.stamp & 0xFFFF == 0  # whom the loser asks now


def test_a_copy_is_not_given_to_who_needs_a_newer_one() -> None:
    system = shared(2)
    assert system.engines[0].receive(1, Message(REQUEST, 0, 3, 0, version=1)) == []
    effects = system.engines[0].receive(1, Message(INVALIDATE, 0, 1, 0, 0, 0, 1 << 16 | 1))
    assert names(effects) == ["Discard", "VOTE", "PAGE_ABSENT"]


# Late, early and impossible messages


def test_late_answers_never_meet_a_newer_request() -> None:
    engine = VotingEngine(0, range(3), 1)
    first = sent(engine.fault(0, False))[0].request
    engine.peer_down(2)
    before = engine.freeze()
    assert engine.receive(1, Message(DATA, 0, first, 0, 7, 0b11)) == []
    assert engine.freeze() == before


def test_a_request_of_a_newer_epoch_waits_until_it_is_reached() -> None:
    engine = VotingEngine(0, range(2), 1)
    assert engine.receive(1, Message(REQUEST, 0, 1, Flag.FETCH, epoch=2)) == []
    assert engine.enter_epoch(1) == []
    assert names(engine.enter_epoch(2)) == ["PAGE_ABSENT"]


def test_a_copy_of_the_only_page_cannot_be_invalidated() -> None:
    engine = VotingEngine(0, range(2), 1)
    (request,) = sent(engine.fault(0, True))
    engine.receive(1, Message(ABSENT, 0, request.request))
    with pytest.raises(ProtocolError, match="kernel 1 invalidates version 0 of page 0, but kernel 0 holds"):
        engine.receive(1, Message(INVALIDATE, 0, 1, 0, 0, 0, 1 << 16 | 1))


@pytest.mark.parametrize("message", [Message(99, 0), Message(MessageName.BARRIER, 0), Message(REQUEST, 4)])
def test_a_message_that_is_not_the_protocols_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match=f"message {int(message.name)} for page {message.page} from kernel 1"):
        VotingEngine(0, range(2), 4).receive(1, message)


# Message counts of the three workloads, engines only


def run(roles: str, pages: int, iterations: int, *, at_once: bool = True) -> int:
    system = shared_array(roles, pages, iterations, at_once=at_once)
    assert not any(engine.pending(page) for engine in system.engines for page in range(pages))
    return len(system.log)


def slope(roles: str, pages: int, *, at_once: bool) -> float:
    """Messages a page and iteration, once the first touches are over."""
    return (run(roles, pages, 16, at_once=at_once) - run(roles, pages, 4, at_once=at_once)) / pages / 12


@pytest.mark.parametrize("pages", [1, 64])
@pytest.mark.parametrize("iterations", [1, 4, 16])
def test_two_readers_pay_for_the_first_iteration_only(pages: int, iterations: int) -> None:
    assert run("RR", pages, iterations) == 4 * pages


@pytest.mark.parametrize("pages", [1, 64])
@pytest.mark.parametrize("iterations", [1, 4, 16])
def test_a_writer_and_a_reader_pay_four_messages_a_page_and_iteration(pages: int, iterations: int) -> None:
    assert run("WR", pages, iterations) == 4 * pages * iterations


@pytest.mark.parametrize("pages", [1, 64])
@pytest.mark.parametrize(("at_once", "messages"), [(False, 8), (True, 10)])
def test_two_writers_pay_more_for_every_iteration(pages: int, at_once: bool, messages: int) -> None:
    assert slope("WW", pages, at_once=at_once) == messages


def test_the_registry_knows_the_protocol_by_name() -> None:
    assert PROTOCOLS["voting"] is VotingEngine


def test_a_thawed_engine_goes_on_where_the_frozen_one_stopped() -> None:
    system = shared(2)
    system.engines[0].fault(0, True)
    frozen = system.engines[0].freeze()
    twin = VotingEngine(0, range(2), 1).thaw(frozen)
    assert twin.freeze() == frozen
    message = Message(INVALIDATE, 0, 1, 0, 0, 0, 3 << 16 | 1)
    assert twin.receive(1, message) == system.engines[0].receive(1, message)
    assert twin.freeze() == system.engines[0].freeze() != frozen
