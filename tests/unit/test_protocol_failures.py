"""Writers that give up and kernels that die: nobody waits for them, and nothing of the living is lost."""

from guest.protocol.effects import (
    Grant,
    Poison,
)
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.table import State
from guest.protocol.voting import VotingEngine
from tests.unit.protocol_steps import LOSER, names, sent, shared, winner_with_a_loser

REQUEST, DATA, ABSENT = MessageName.PAGE_REQUEST, MessageName.PAGE_DATA, MessageName.PAGE_ABSENT
INVALIDATE, VOTE, ABANDON = MessageName.INVALIDATE, MessageName.VOTE, MessageName.ABANDON


def test_a_loser_that_gives_up_tells_the_winner() -> None:
    """Kernel 1 votes for kernel 0 while its own votes are under way, then nobody waits for its write any more."""
    engine = VotingEngine(1, range(2), 1)
    (request,) = sent(engine.fault(0, True))
    (vote,) = sent(engine.receive(0, Message(DATA, 0, request.request, 0, 0, 0b11)))
    (grant,) = sent(engine.receive(0, Message(INVALIDATE, 0, 1, 0, 0, 0, 1 << 16)))
    assert grant.flags == Flag.GRANT | Flag.ALSO_WRITING
    assert engine.abandon(0) == []
    (abandon,) = sent(engine.receive(0, Message(VOTE, 0, vote.request, Flag.ALSO_WRITING, 0, 0, 1 << 16)))
    assert (abandon.name, abandon.stamp) == (ABANDON, grant.stamp)


def test_a_loser_that_gave_up_is_not_waited_for() -> None:
    engine = winner_with_a_loser()
    assert engine.receive(2, Message(REQUEST, 0, 8)) == []
    assert names(engine.receive(1, Message(ABANDON, 0, 0, 0, 0, 0, LOSER))) == ["Protect", "PAGE_DATA"]


def test_the_death_of_a_loser_releases_the_readers() -> None:
    engine = winner_with_a_loser()
    assert engine.receive(2, Message(REQUEST, 0, 8)) == []
    assert names(engine.peer_down(1)) == ["Protect", "PAGE_DATA"]


def test_votes_of_the_dead_are_not_awaited() -> None:
    system = shared(3)
    engine = system.engines[0]
    vote = sent(engine.fault(0, True))[0].request
    assert engine.receive(1, Message(VOTE, 0, vote, Flag.GRANT, 0, 0, 1)) == []
    assert engine.peer_down(2) == [Grant(0)]


def test_a_page_whose_only_valid_copy_died_is_poison() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.settle()
    survivor = system.engines[1]
    assert survivor.peer_down(0) == []
    assert survivor.fault(0, False) == [Poison(0)]
    assert survivor.fault(0, True) == [Poison(0)]
    assert not survivor.pending(0)


def test_a_reader_waits_for_a_peer_that_still_fetches() -> None:
    engine = VotingEngine(0, range(3), 1)
    request = sent(engine.fault(0, False))[0].request
    assert engine.receive(1, Message(REQUEST, 0, 4)) == []
    engine.receive(2, Message(DATA, 0, request, 0, 1, 0b111))
    effects = engine.receive(1, Message(ABSENT, 0, request, 0, 1, 0b111))
    assert names(effects) == ["Install", "PAGE_DATA"]


def test_a_page_with_another_valid_copy_survives_its_writer() -> None:
    system = shared(3)
    system.access(0, 0, write=True)
    system.settle()
    system.access(1, 0, write=False)
    system.settle()
    for kernel in (1, 2):
        system.engines[kernel].peer_down(0)
    system.log.clear()
    system.access(2, 0, write=False)
    system.settle()
    assert system.states(0)[1:] == "SS"
    assert {(sender, receiver) for sender, receiver, _ in system.log} == {(1, 2), (2, 1)}


def test_what_a_dead_kernel_sent_is_ignored() -> None:
    system = shared(2)
    system.engines[0].peer_down(1)
    assert system.engines[0].receive(1, Message(INVALIDATE, 0, 1, 0, 0, 0, 5 << 16 | 1)) == []
    assert system.engines[0].state(0) is State.S


def test_a_request_that_knows_of_a_death_waits_until_we_know_of_it_too() -> None:
    system = shared(3)
    engine = system.engines[0]
    assert engine.receive(1, Message(REQUEST, 0, 7, 0, 0, 1 << 2)) == []
    assert names(engine.peer_down(2)) == ["PAGE_DATA"]


def test_a_kernel_that_comes_back_starts_with_nothing() -> None:
    system = shared(2)
    system.access(0, 0, write=True)
    system.settle()
    engine = system.engines[0]
    engine.peer_down(1)
    engine.peer_up(1)
    effects = engine.receive(1, Message(REQUEST, 0, 1, Flag.FETCH))
    assert names(effects) == ["Protect", "PAGE_DATA"]


def test_an_invalidation_makes_a_lost_page_usable_again() -> None:
    system = shared(3)
    system.access(0, 0, write=True)
    system.settle()
    engine = system.engines[2]
    engine.peer_down(0)
    (ask,) = sent(engine.fault(0, False))
    (ask,) = sent(engine.receive(1, Message(ABSENT, 0, ask.request, 0, 0, 0b110)))
    assert engine.receive(1, Message(ABSENT, 0, ask.request, 0, 0, 0b110)) == [Poison(0)]
    assert "Discard" in names(engine.receive(1, Message(INVALIDATE, 0, 1, 0, 1, 0, 9 << 16 | 1)))
    assert names(engine.fault(0, False)) == ["PAGE_REQUEST"]
