"""What the origin protocol does, by name. Small chosen orders of events; all the others are the checker's."""

from collections import Counter

import pytest

from guest.protocol.effects import Discard, Grant, Install, Poison, Protect, Send, Wake, Zero
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.origin import OriginEngine
from guest.protocol.registry import PROTOCOLS
from guest.protocol.table import State
from orchestrator.checker.rehearsal import Rehearsal, shared_array
from tests.unit.protocol_steps import names, sent, shared

REQUEST, DATA, ABSENT = MessageName.PAGE_REQUEST, MessageName.PAGE_DATA, MessageName.PAGE_ABSENT
INVALIDATE, VOTE, GRANT = MessageName.INVALIDATE, MessageName.VOTE, MessageName.GRANT


def counts(system: Rehearsal) -> Counter[str]:
    return Counter(MessageName(message.name).name for _, _, message in system.log)


def written_by(kernel: int, kernels: int) -> Rehearsal:
    """All kernels had the page, and this one wrote it; the log is empty."""
    system = shared(kernels, engine=OriginEngine)
    system.access(kernel, 0, write=True)
    system.settle()
    system.log.clear()
    return system


def settled(system: Rehearsal, kernel: int, write: bool) -> Counter[str]:
    """What an access costs."""
    system.log.clear()
    system.access(kernel, 0, write=write)
    system.settle()
    return counts(system)


# First touch


def test_the_origin_touches_its_pages_first_without_a_message() -> None:
    engine = OriginEngine(0, range(4), 1)
    assert engine.fault(0, False) == [Zero(0, True)]
    assert engine.state(0) is State.N


def test_another_kernel_is_told_that_the_page_is_zero_and_its_own() -> None:
    system = Rehearsal(4, 1, OriginEngine)
    assert settled(system, 2, write=False) == {"PAGE_REQUEST": 1, "PAGE_ABSENT": 1}
    assert system.states(0) == "UUNU"


def test_the_origin_is_the_lowest_kernel_of_the_set() -> None:
    engine = OriginEngine(5, (3, 5, 9), 1)
    assert engine.origin == 3
    assert [effect.to for effect in engine.fault(0, True) if isinstance(effect, Send)] == [3]


# Reading


def test_a_copy_of_the_origin_costs_two_messages() -> None:
    system = shared(3, engine=OriginEngine)
    assert system.states(0) == "SSS"
    assert settled(written_by(0, 3), 1, write=False) == {"PAGE_REQUEST": 1, "PAGE_DATA": 1}


def test_a_page_written_elsewhere_is_brought_home_and_stays_readable_there() -> None:
    system = written_by(1, 3)
    assert settled(system, 2, write=False) == {"PAGE_REQUEST": 2, "PAGE_DATA": 2}
    assert system.states(0) == "SSS"


def test_the_origin_reads_for_two_messages_and_one_installation() -> None:
    system = written_by(1, 2)
    (request,) = sent(system.engines[0].fault(0, False))
    effects = system.engines[0].receive(1, Message(DATA, 0, request.request))
    assert effects == [Install(0, writable=False, wake=True, kept=False)]


# Writing


def test_who_has_a_valid_copy_is_granted_without_the_page() -> None:
    system = shared(2, engine=OriginEngine)
    assert settled(system, 1, write=True) == {"PAGE_REQUEST": 1, "GRANT": 1}
    assert system.states(0) == "IM"


def test_the_origin_drops_its_copy_before_it_grants() -> None:
    system = shared(2, engine=OriginEngine)
    effects = system.engines[0].receive(1, Message(REQUEST, 0, 7, Flag.FOR_WRITE))
    assert names(effects) == ["Discard", "GRANT"]


def test_who_has_none_gets_the_only_copy() -> None:
    system = written_by(0, 2)
    effects = system.engines[0].receive(1, Message(REQUEST, 0, 7, Flag.FOR_WRITE))
    assert names(effects) == ["Protect", "PAGE_DATA+"]
    assert sent(effects)[0].flags & Flag.FOR_WRITE


def test_all_other_holders_are_invalidated_first() -> None:
    system = shared(4, engine=OriginEngine)
    assert settled(system, 1, write=True) == {"PAGE_REQUEST": 1, "INVALIDATE": 2, "VOTE": 2, "GRANT": 1}
    assert system.states(0) == "IMII"


def test_a_page_written_elsewhere_is_written_next_for_four_messages() -> None:
    system = written_by(1, 3)
    assert settled(system, 2, write=True) == {"PAGE_REQUEST": 2, "PAGE_DATA": 2}
    assert system.states(0) == "IIM"


def test_the_origin_writes_a_page_written_elsewhere_with_one_installation() -> None:
    system = written_by(1, 2)
    (request,) = sent(system.engines[0].fault(0, True))
    effects = system.engines[0].receive(1, Message(DATA, 0, request.request, Flag.FOR_WRITE))
    assert effects == [Install(0, writable=True, wake=True, kept=False)]


def test_requests_that_meet_are_served_in_the_order_in_which_they_came() -> None:
    system = shared(3, engine=OriginEngine)
    system.woken.clear()
    for kernel in (0, 2, 1):
        system.access(kernel, 0, write=True)
    system.settle()
    assert [kernel for kernel, _ in system.woken] == [0, 2, 1]
    assert system.states(0) == "IMI"


# Answers and questions that meet


def test_a_question_that_overtakes_the_answer_waits_for_it() -> None:
    engine = shared(2, engine=OriginEngine).engines[1]
    (request,) = sent(engine.fault(0, True))
    assert engine.receive(0, Message(REQUEST, 0, 9)) == []
    effects = engine.receive(0, Message(GRANT, 0, request.request))
    assert names(effects) == ["Grant", "Protect", "PAGE_DATA"]
    assert sent(effects)[0].request == 9


def test_an_invalidation_makes_a_granted_write_one_that_needs_the_page() -> None:
    engine = shared(3, engine=OriginEngine).engines[1]
    (request,) = sent(engine.fault(0, True))
    assert names(engine.receive(0, Message(INVALIDATE, 0, 4))) == ["Discard", "VOTE"]
    effects = engine.receive(0, Message(DATA, 0, request.request, Flag.FOR_WRITE))
    assert effects == [Install(0, writable=True, wake=True, kept=False)]


def test_late_answers_are_dropped() -> None:
    engine = OriginEngine(1, range(2), 1)
    (request,) = sent(engine.fault(0, False))
    for name in (DATA, ABSENT, GRANT):
        assert engine.receive(0, Message(name, 0, request.request + 1)) == []
    assert engine.pending(0)
    home = written_by(1, 2).engines[0]
    (request,) = sent(home.fault(0, False))
    for name in (DATA, VOTE):
        assert home.receive(1, Message(name, 0, request.request + 1)) == []
    assert home.pending(0)


def test_a_question_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ProtocolError, match=r"asks kernel 1 for page 0 \(INVALIDATE\), which is U there"):
        OriginEngine(1, range(2), 1).receive(0, Message(INVALIDATE, 0, 1))
    writer = written_by(1, 2).engines[1]
    with pytest.raises(ProtocolError, match="kernel 0 sends INVALIDATE about page 0, which kernel 1 has in state M"):
        writer.receive(0, Message(INVALIDATE, 0, 1))


@pytest.mark.parametrize("message", [Message(MessageName.ABANDON), Message(40), Message(REQUEST, 2), Message(35)])
def test_what_is_no_message_of_the_protocol_is_an_error(message: Message) -> None:
    with pytest.raises(ProtocolError, match="cannot handle message"):
        OriginEngine(0, range(2), 2).receive(1, message)


def test_another_threads_fault_may_have_brought_the_page() -> None:
    system = shared(2, engine=OriginEngine)
    assert [engine.fault(0, False) for engine in system.engines] == [[Wake(0)], [Wake(0)]]


def test_a_request_of_a_later_epoch_waits_for_it() -> None:
    engine = OriginEngine(0, range(2), 1)
    assert engine.receive(1, Message(REQUEST, 0, 1, epoch=1)) == []
    assert names(engine.enter_epoch(1)) == ["PAGE_ABSENT"]


# Threads that give up, kernels that die


def test_what_was_asked_for_in_vain_is_taken_all_the_same() -> None:
    engine = shared(2, engine=OriginEngine).engines[1]
    (request,) = sent(engine.fault(0, True))
    assert engine.abandon(0) == []
    assert engine.receive(0, Message(GRANT, 0, request.request)) == [Grant(0)]


def test_the_dead_are_not_waited_for() -> None:
    engine = shared(3, engine=OriginEngine).engines[0]
    assert names(engine.fault(0, True)) == ["INVALIDATE", "INVALIDATE"]
    assert engine.peer_down(2) == []
    assert engine.receive(1, Message(VOTE, 0, 1, Flag.GRANT)) == [Grant(0)]


def test_a_page_whose_only_valid_copy_died_is_poison_for_everybody() -> None:
    system = written_by(1, 3)
    home, other = system.engines[0], system.engines[2]
    assert home.peer_down(1) == []
    assert home.fault(0, False) == [Poison(0)]
    (request,) = sent(other.fault(0, False))
    (answer,) = sent(home.receive(2, request))
    assert (answer.name, answer.flags) == (ABSENT, Flag.LOST)
    assert other.receive(0, answer) == [Poison(0)]


def test_a_death_while_the_page_comes_home_ends_the_waiting() -> None:
    system = written_by(1, 3)
    home = system.engines[0]
    assert names(home.receive(2, Message(REQUEST, 0, 5))) == ["PAGE_REQUEST"]
    (answer,) = sent(home.peer_down(1))
    assert (answer.request, answer.flags) == (5, Flag.LOST)


def test_without_the_origin_what_is_here_stays_and_nothing_else_comes() -> None:
    system = written_by(1, 3)
    writer, other = system.engines[1], system.engines[2]
    (request,) = sent(other.fault(0, False))
    assert other.peer_down(0) == [Poison(0)]
    assert not other.pending(0)
    assert other.fault(0, True) == [Poison(0)]
    assert other.receive(0, Message(DATA, 0, request.request)) == []
    assert writer.peer_down(0) == []
    assert writer.state(0) is State.M


def test_a_reader_without_an_origin_reads_until_somebody_writes() -> None:
    engine = shared(2, engine=OriginEngine).engines[1]
    assert engine.peer_down(0) == []
    assert engine.fault(0, False) == [Wake(0)]
    assert engine.fault(0, True) == [Discard(0), Poison(0)]


def test_an_origin_that_comes_back_is_asked_nothing() -> None:
    engine = OriginEngine(1, range(2), 1)
    engine.peer_down(0)
    assert engine.peer_up(0) == []
    assert engine.fault(0, False) == [Poison(0)]


def test_a_kernel_that_comes_back_has_nothing() -> None:
    system = shared(2, engine=OriginEngine)
    home = system.engines[0]
    home.peer_down(1)
    home.peer_up(1)
    assert names(home.receive(1, Message(REQUEST, 0, 1, Flag.FOR_WRITE))) == ["PAGE_DATA+"]


# What it costs


@pytest.mark.parametrize(
    ("roles", "at_once", "first", "each"),
    [("RR", True, 2, 0), ("WR", True, 2, 4), ("RW", True, 4, 4), ("WW", False, 4, 6), ("WW", True, 4, 6)],
)
def test_messages_a_page_and_iteration(roles: str, at_once: bool, first: int, each: int) -> None:
    for iterations in (1, 2, 5):
        system = shared_array(roles, 3, iterations, at_once=at_once, engine=OriginEngine)
        assert len(system.log) == 3 * (first + each * (iterations - 1)), counts(system)


def test_writers_alone_cost_four_messages_a_page_and_iteration() -> None:
    """Without anybody who reads in between, which costs two more: each takes the page from the other."""
    system = Rehearsal(2, 1, OriginEngine)
    for kernel in (0, 1):
        settled(system, kernel, write=True)
    for _ in range(3):
        assert sum(sum(settled(system, kernel, write=True).values()) for kernel in (0, 1)) == 4


def test_sixty_four_kernels_share_and_write() -> None:
    system = shared(64, engine=OriginEngine)
    assert system.states(0) == "S" * 64
    assert settled(system, 63, write=True) == {"PAGE_REQUEST": 1, "INVALIDATE": 62, "VOTE": 62, "GRANT": 1}
    assert system.states(0) == "I" * 63 + "M"


def test_an_experiment_can_name_it() -> None:
    assert PROTOCOLS["origin"] is OriginEngine


def test_a_frozen_state_can_be_taken_on() -> None:
    for engine in written_by(1, 2).engines:
        frozen = engine.freeze()
        other = OriginEngine(engine.kernel, range(2), 1).thaw(frozen)  # type: ignore[attr-defined]
        assert other.freeze() == frozen
        assert names(other.fault(0, True)) == names(engine.fault(0, True))


def test_a_copy_that_is_given_is_protected_first() -> None:
    engine = OriginEngine(0, range(2), 1)
    engine.fault(0, True)
    effects = engine.receive(1, Message(REQUEST, 0, 1))
    assert effects[0] == Protect(0)
    assert names(effects) == ["Protect", "PAGE_DATA"]
