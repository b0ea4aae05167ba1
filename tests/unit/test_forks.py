"""Forks: who asks whom, who copies, and what becomes of it when a kernel dies."""

import pytest

from guest.protocol.address_space import Refusal
from guest.protocol.effects import Send
from guest.protocol.engine import ProtocolError
from guest.protocol.forks import Begin, Copy, Forked, ForksEngine
from guest.protocol.messages import Message, MessageName

FORK, FORKED = MessageName.PROCESS_FORK, MessageName.PROCESS_FORKED


@pytest.fixture
def engines() -> list[ForksEngine]:
    return [ForksEngine(kernel, range(3)) for kernel in range(3)]


def test_a_fork_onto_another_kernel_takes_a_question_and_an_answer(engines: list[ForksEngine]) -> None:
    forker, destination, _ = engines
    asked = Message(FORK, 7, 1)
    assert forker.fork(7, to=1) == [Send(1, asked)]
    assert destination.receive(0, asked) == [Copy(0, 1, 7)]
    answer = Message(FORKED, 9, 1, Refusal.NONE)
    assert destination.copied(0, 1, 9, Refusal.NONE) == [Begin(0, 1, 9), Send(0, answer)]
    assert forker.receive(1, answer) == [Forked(1, 9, Refusal.NONE)]


def test_a_fork_where_one_is_takes_no_message(engines: list[ForksEngine]) -> None:
    forker = engines[0]
    assert forker.fork(0, to=0) == [Copy(0, 1, 0)]
    assert forker.copied(0, 1, 5, Refusal.NONE) == [Begin(0, 1, 5), Forked(1, 5, Refusal.NONE)]
    assert forker.requests == 1


def test_without_room_nothing_begins_and_the_forker_hears_why(engines: list[ForksEngine]) -> None:
    forker, destination, _ = engines
    forker.fork(0, to=1)
    (answer,) = destination.copied(0, 1, 0, Refusal.NO_ROOM)
    assert isinstance(answer, Send)
    assert forker.receive(1, answer.message) == [Forked(1, 0, Refusal.NO_ROOM)]


def test_a_destination_that_dies_is_told_to_those_who_wait_for_it_alone(engines: list[ForksEngine]) -> None:
    forker = engines[0]
    forker.fork(0, to=1)
    forker.fork(0, to=2)
    assert forker.peer_down(1) == [Forked(1, 0, Refusal.DIED)]
    assert forker.fork(0, to=1) == [Forked(3, 0, Refusal.DIED)]
    assert forker.receive(1, Message(FORKED, 4, 1)) == []
    assert forker.receive(2, Message(FORKED, 4, 2)) == [Forked(2, 4, Refusal.NONE)]


def test_the_child_of_a_forker_that_dies_begins_all_the_same(engines: list[ForksEngine]) -> None:
    destination = engines[1]
    destination.receive(0, Message(FORK, 0, 1))
    destination.peer_down(0)
    assert destination.copied(0, 1, 3, Refusal.NONE) == [Begin(0, 1, 3)]
    assert destination.receive(0, Message(FORK, 0, 2)) == []


def test_what_nobody_asked_for_is_refused(engines: list[ForksEngine]) -> None:
    with pytest.raises(ProtocolError, match="fork 1, which was not asked for"):
        engines[0].receive(1, Message(FORKED, 4, 1))
    with pytest.raises(ProtocolError, match="none of forks"):
        engines[0].receive(1, Message(MessageName.THREAD_EXIT, 4))
