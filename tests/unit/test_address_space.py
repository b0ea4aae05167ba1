"""What operations do to an address space, and which are refused."""

from pathlib import Path

import pytest

from guest.protocol.address_space import Access, AddressSpace, Kind, Operation, Refusal
from guest.protocol.effects import SpaceDone
from guest.protocol.messages import Message, MessageName
from guest.protocol.space import SpaceEngine, message_of, operation_of
from guest.protocol.voting import VotingEngine
from orchestrator.checker.protocol_charts import redraw

NONE, READ, WRITE = Access
HALF = AddressSpace.first(2, 4)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Operation(Kind.MAP, 2, 2, READ), (WRITE, WRITE, READ, READ)),
        (Operation(Kind.MAP, 1, 2), Refusal.MAPPED_ALREADY),
        (Operation(Kind.UNMAP, 1, 3), (WRITE, NONE, NONE, NONE)),
        (Operation(Kind.PROTECT, 0, 1, READ), (READ, WRITE, NONE, NONE)),
        (Operation(Kind.PROTECT, 1, 2, READ), Refusal.NOT_MAPPED),
        (Operation(Kind.MOVE, 0, 2, to=2), (NONE, NONE, WRITE, WRITE)),
        (Operation(Kind.MOVE, 0, 2, to=1), Refusal.MAPPED_ALREADY),
        (Operation(Kind.MOVE, 1, 2, to=0), Refusal.MAPPED_ALREADY),
        (Operation(Kind.MOVE, 2, 1, to=3), Refusal.NOT_MAPPED),
        (Operation(Kind.MOVE, 0, 1, to=4), Refusal.NOT_IN_REGION),
        (Operation(Kind.UNMAP, 3, 2), Refusal.NOT_IN_REGION),
        (Operation(Kind.MAP, -1, 1), Refusal.NOT_IN_REGION),
        (Operation(Kind.MAP, 2, 0), Refusal.NOT_IN_REGION),
    ],
    ids=str,
)
def test_operations(operation: Operation, expected: tuple[Access, ...] | Refusal) -> None:
    refusal = HALF.refusal(operation)
    if isinstance(expected, Refusal):
        assert refusal is expected
    else:
        assert refusal is Refusal.NONE
        assert HALF.after(operation).pages == expected


@pytest.mark.parametrize("kind", Kind)
def test_an_operation_comes_out_of_its_message_as_it_went_in(kind: Kind) -> None:
    operation = Operation(kind, 7, 3, Access.READ, 12)
    message = message_of(MessageName.SPACE_LOCK, operation, 5, 2, Refusal.NOT_MAPPED)
    assert operation_of(message) == operation
    assert (message.request, message.epoch) == (5, 2)


def engine(kernel: int) -> SpaceEngine:
    kernels = range(2)
    return SpaceEngine(VotingEngine(kernel, kernels, 4), kernel, kernels, HALF)


def test_a_refused_operation_goes_to_nobody_else_and_says_why() -> None:
    home = engine(0)
    assert home.operate(Operation(Kind.MAP, 0, 1)) == [SpaceDone(1, Refusal.MAPPED_ALREADY)]
    (answer,) = home.receive(1, message_of(MessageName.SPACE_LOCK, Operation(Kind.MAP, 0, 1), 9, 0))
    (done,) = engine(1).receive(0, answer.message)  # type: ignore[union-attr]
    assert done == SpaceDone(9, Refusal.MAPPED_ALREADY)


def test_when_home_is_dead_operations_are_refused_at_once_and_those_asked_for_too() -> None:
    away = engine(1)
    away.operate(Operation(Kind.UNMAP, 0, 1))
    assert SpaceDone(1, Refusal.HOME_DIED) in away.peer_down(0)
    assert away.operate(Operation(Kind.UNMAP, 0, 1)) == [SpaceDone(2, Refusal.HOME_DIED)]
    assert not away.orphaned


@pytest.mark.parametrize(("asks", "made"), [(True, True), (True, False), (False, True)])
def test_a_copy_that_was_made_where_it_was_asked_for_is_made_though_home_dies(asks: bool, made: bool) -> None:
    away = engine(1)
    if asks:
        away.operate(Operation(Kind.COPY, 0, 1))
    copy = Operation(Kind.COPY, 0, 1, asker=1 if asks else 0, to=2)
    away.receive(0, message_of(MessageName.SPACE_LOCK, copy, 1, 0))
    if made:
        away.receive(0, message_of(MessageName.SPACE_OP, copy, 1, 1))
    expected = [SpaceDone(1, Refusal.NONE, 1, 2) if made else SpaceDone(1, Refusal.HOME_DIED)] if asks else []
    assert [effect for effect in away.peer_down(0) if isinstance(effect, SpaceDone)] == expected
    assert away.orphaned is not made


def test_a_copy_that_home_has_told_of_is_not_taken_for_the_next_one() -> None:
    away = engine(1)
    away.operate(Operation(Kind.COPY, 0, 1))
    copy = Operation(Kind.COPY, 0, 1, asker=1, to=2)
    away.receive(0, message_of(MessageName.SPACE_LOCK, copy, 1, 0))
    away.receive(0, message_of(MessageName.SPACE_OP, copy, 1, 1))
    assert away.receive(0, message_of(MessageName.SPACE_DONE, copy, 1, 1)) == [SpaceDone(1, Refusal.NONE, 1, 2)]
    away.operate(Operation(Kind.COPY, 0, 1))
    assert SpaceDone(2, Refusal.HOME_DIED) in away.peer_down(0)


def test_a_kernel_that_the_dead_home_had_locked_is_orphaned() -> None:
    away = engine(1)
    away.receive(0, message_of(MessageName.SPACE_LOCK, Operation(Kind.UNMAP, 0, 1), 1, 0))
    away.peer_down(0)
    assert away.orphaned


def test_only_home_may_lock() -> None:
    third = SpaceEngine(VotingEngine(2, range(3), 4), 2, range(3), HALF)
    with pytest.raises(Exception, match="SPACE_LOCK, which only home may send"):
        third.receive(1, Message(MessageName.SPACE_LOCK, 0, 0, 0, 1))


def test_the_page_of_the_documentation_is_drawn_from_the_code_of_today() -> None:
    page = (Path(__file__).parents[2] / "docs" / "address-space.md").read_text()
    assert redraw(page) == page, "draw it again: python -m orchestrator.checker.protocol_charts docs/address-space.md"
