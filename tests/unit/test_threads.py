"""Threads that move, by single events: messages, effects, and what is refused."""

from pathlib import Path

import pytest

from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.roll import RollCall
from guest.protocol.thread_effects import (
    Dissolve,
    DropState,
    EndPlaceholder,
    Fate,
    GroupEnded,
    Life,
    Lost,
    Park,
    Place,
    Placement,
    Run,
    Stay,
    TakeState,
    Why,
)
from guest.protocol.threads import ThreadsEngine
from orchestrator.checker.protocol_charts import redraw
from orchestrator.checker.thread_rehearsal import ThreadRehearsal


def names(kernels: ThreadRehearsal) -> list[str]:
    return [MessageName(sent.message.name).name for sent in kernels.log]


@pytest.fixture
def kernels() -> ThreadRehearsal:
    """Three kernels, two threads at home."""
    system = ThreadRehearsal(3)
    for thread in range(2):
        system.start(thread)
    system.effects.clear()
    return system


def test_the_page_shows_what_the_engines_do() -> None:
    page = (Path(__file__).parents[2] / "docs" / "threads.md").read_text()
    assert redraw(page) == page, "draw it again: python -m orchestrator.checker.protocol_charts docs/threads.md"


def test_a_migration_is_two_messages_each_way_of_placing(kernels: ThreadRehearsal) -> None:
    moves = (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1)
    for thread, source, to in moves:
        kernels.migrate(thread, source, to)
    assert names(kernels) == ["THREAD_MIGRATE", "THREAD_PLACED"] * 4
    parked = [effect for _, effect in kernels.effects if isinstance(effect, Park)]
    ways = (Placement.CREATED, Placement.CLONED, Placement.BACK, Placement.BACK)
    assert parked == [Park(thread, to, way) for (thread, _, to), way in zip(moves, ways, strict=True)]


def test_a_migration_to_where_the_thread_is_costs_nothing(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 0)
    assert kernels.log == []
    assert kernels.effects == [(0, Stay(0, Why.HERE))]


def test_a_thread_does_not_go_where_nobody_is(kernels: ThreadRehearsal) -> None:
    kernels.die(2)
    kernels.log.clear()
    for to in 2, 7:
        assert kernels.engines[0].migrate(0, to) == [Stay(0, Why.DIED)]


def test_placeholders_end_with_their_thread_and_the_process_with_its_last(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 1)
    kernels.migrate(0, 1, 2)
    kernels.exit(0, 2)
    assert [entry for entry in kernels.effects if isinstance(entry[1], EndPlaceholder)] == [
        (0, EndPlaceholder(0)),
        (1, EndPlaceholder(0)),
    ]
    assert not any(isinstance(effect, Dissolve) for _, effect in kernels.effects)
    kernels.exit(1, 0)
    assert sorted(kernel for kernel, effect in kernels.effects if isinstance(effect, Dissolve)) == [0, 1, 2]
    assert kernels.effects[-1] == (0, GroupEnded())


def test_the_lost_are_named_where_they_had_been(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 1)
    kernels.migrate(1, 0, 2)
    kernels.die(1)
    assert [entry for entry in kernels.effects if isinstance(entry[1], Lost)] == [(0, Lost(0))]
    assert kernels.engines[0].placeholders == (1,)


def test_threads_move_on_without_home_and_the_last_one_clears_up(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 1)
    kernels.migrate(1, 0, 2)
    kernels.die(0)
    kernels.migrate(0, 1, 2)
    assert kernels.effects[-2:] == [(2, Run(0)), (1, Park(0, 2, Placement.CLONED))]
    for thread in range(2):
        kernels.exit(thread, 2)
    assert sorted(kernel for kernel, effect in kernels.effects if isinstance(effect, Dissolve)) == [1, 2]


def test_without_home_no_kernel_becomes_part_of_the_process(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 1)
    kernels.die(0)
    kernels.migrate(0, 1, 2)
    assert kernels.effects[-1] == (1, Stay(0, Why.REFUSED))


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (lambda engine: engine.start(0), "is told to start thread 0, which there is already"),
        (lambda engine: engine.migrate(7, 1), "is told to migrate thread 7, which does not run there"),
        (lambda engine: engine.exit(7), "is told to end thread 7, which does not run there"),
        (
            lambda engine: engine.receive(1, Message(MessageName.THREAD_MIGRATE, 0)),
            "sends thread 0, which kernel 0 h",
        ),
        (lambda engine: engine.receive(1, Message(MessageName.VOTE)), "sends message 5, which is none of threads"),
    ],
)
def test_what_cannot_be_is_refused_by_name(event: object, says: str) -> None:
    engine = ThreadsEngine(0, range(2))
    engine.start(0)
    assert callable(event)
    with pytest.raises(ProtocolError, match=says):
        event(engine)


def test_what_is_heard_of_a_thread_before_its_destination_answers_waits_for_that() -> None:
    engine = ThreadsEngine(0, range(3))
    for thread in range(3):
        engine.start(thread)
        engine.migrate(thread, 1)
    assert engine.receive(2, Message(MessageName.THREAD_MIGRATE, 0, copyset=0b011)) == [TakeState(0)]
    assert engine.receive(2, Message(MessageName.THREAD_EXIT, 1)) == []
    for thread in range(2):
        parked, then = engine.receive(1, Message(MessageName.THREAD_PLACED, thread, flags=Placement.CLONED))
        assert parked == Park(thread, 1, Placement.CLONED)
        assert then == [Place(0, Placement.BACK), EndPlaceholder(1)][thread]
    assert engine.receive(2, Message(MessageName.THREAD_MIGRATE, 2, copyset=0b011)) == [TakeState(2)]
    assert DropState(2) in engine.peer_down(2)


def test_a_roll_counts_only_for_the_deaths_that_it_was_called_for() -> None:
    """Kernel 3 called its roll for one death, and calls it again when it has heard of the second."""
    roll = RollCall()
    roll.begin(1)
    roll.begin(2)
    roll.heard(3, 0b10)
    assert not roll.due((3,))
    roll.heard(3, 0b110)
    assert roll.due((3,))
    roll.call((7, 8))
    roll.named(3, 0b10, 7)
    roll.called(3, 0b10)
    assert roll.lost((3,)) is None
    assert not roll.abreast(3)
    roll.named(3, 0b110, 8)
    roll.called(3, 0b110)
    assert roll.abreast(3)
    assert roll.lost((3,)) == [7]


def test_no_thread_starts_where_the_process_is_not() -> None:
    with pytest.raises(ProtocolError, match="thread 0 where there is no process"):
        ThreadsEngine(1, range(2)).start(0)


def test_who_asks_again_hears_at_once_that_the_thread_lives(kernels: ThreadRehearsal) -> None:
    kernels.migrate(0, 0, 1)
    kernels.log.clear()
    for _ in range(2):
        kernels.carry_out(2, kernels.engines[2].watch(0, 0))
        kernels.settle()
    assert names(kernels) == ["THREAD_WATCH"] * 2  # a question and its answer
    assert kernels.effects[-2:] == [(2, Fate(0, Life.ALIVE))] * 2
    kernels.exit(0, 1)
    assert (2, Fate(0, Life.GONE)) in kernels.effects


def test_a_kernel_that_asks_twice_before_it_hears_sends_one_question(kernels: ThreadRehearsal) -> None:
    engine = kernels.engines[2]
    assert len(engine.watch(0, 0)) == 1
    assert engine.watch(0, 0) == []


def test_where_the_group_has_ended_nobody_is_told_what_became_of_a_thread(kernels: ThreadRehearsal) -> None:
    """It would look as if it had been lost; and whoever asks is about to end, too."""
    home = kernels.engines[0]
    home.exit_group()
    assert home.watch(0, 0) == []
    assert home.receive(2, Message(MessageName.THREAD_WATCH, 0)) == []
