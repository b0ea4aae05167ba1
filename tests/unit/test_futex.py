"""Waits over kernels: which messages they cost, and what becomes of them."""

import pytest

from guest.protocol.effects import FutexEffect, Queued, Send, WaitLost, Woken
from guest.protocol.engine import ProtocolError
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Message, MessageName

WORD = 0x100000000040


class Kernels:
    """Kernels whose messages arrive in the order in which they are sent."""

    def __init__(self, count: int) -> None:
        self.engines = [FutexEngine(kernel, range(count)) for kernel in range(count)]
        self.sent: list[str] = []
        self.seen: list[tuple[int, FutexEffect]] = []

    def carry_out(self, kernel: int, effects: list[FutexEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append(MessageName(effect.message.name).name)
                self.carry_out(effect.to, self.engines[effect.to].receive(kernel, effect.message))
            else:
                self.seen.append((kernel, effect))


def test_a_wait_far_from_home_costs_three_messages_and_a_wake_up_one() -> None:
    kernels = Kernels(3)
    kernels.carry_out(1, kernels.engines[1].wait(WORD, 3))
    assert kernels.seen == [(1, Queued(1))]
    kernels.carry_out(2, kernels.engines[2].wake(WORD, 2))
    kernels.carry_out(2, kernels.engines[2].wake(WORD + 8, 9))
    assert len(kernels.seen) == 1
    kernels.carry_out(2, kernels.engines[2].wake(WORD, 4))
    assert kernels.seen[1:] == [(1, Woken(1))]
    assert kernels.sent == ["FUTEX_WAIT", "FUTEX_ANSWER", "FUTEX_WAKE", "FUTEX_WAKE", "FUTEX_WAKE", "FUTEX_ANSWER"]


def test_at_home_nothing_is_sent() -> None:
    kernels = Kernels(2)
    home = kernels.engines[0]
    kernels.carry_out(0, home.wait(WORD, 1))
    kernels.carry_out(0, home.wait(WORD, 2))
    kernels.carry_out(0, home.wake(WORD, 1))
    kernels.carry_out(0, home.cancel(2))
    assert kernels.seen == [(0, Queued(1)), (0, Queued(2)), (0, Woken(1))]
    assert kernels.sent == []
    assert (home.waits, home.queue) == ((), ())


def test_all_that_wait_for_as_much_go_on_in_the_order_they_came() -> None:
    kernels = Kernels(2)
    for kernel, value in ((1, 2), (0, 1), (1, 3), (0, 2)):
        kernels.carry_out(kernel, kernels.engines[kernel].wait(WORD, value))
    kernels.seen.clear()
    kernels.carry_out(1, kernels.engines[1].wake(WORD, 2))
    assert kernels.seen == [(1, Woken(1)), (0, Woken(1)), (0, Woken(2))]
    assert [entry.value for entry in kernels.engines[0].queue] == [3]


def test_a_cancelled_wait_is_out_of_the_queue_and_a_late_wake_up_is_nothing() -> None:
    home, away = FutexEngine(0, range(2)), FutexEngine(1, range(2))
    (asked,) = away.wait(WORD, 1)
    assert isinstance(asked, Send)
    (queued,) = home.receive(1, asked.message)
    (woken,) = home.wake(WORD, 1)
    assert isinstance(queued, Send)
    assert isinstance(woken, Send)
    assert away.receive(0, queued.message) == [Queued(1)]
    (cancelled,) = away.cancel(1)
    assert isinstance(cancelled, Send)
    assert away.receive(0, woken.message) == []
    assert home.receive(1, cancelled.message) == []
    assert away.cancel(1) == []


def test_who_gives_up_before_home_has_answered_tells_it_then() -> None:
    kernels = Kernels(2)
    away = kernels.engines[1]
    (asked,) = away.wait(WORD, 1)
    assert away.cancel(1) == []
    kernels.carry_out(1, [asked])
    assert kernels.sent == ["FUTEX_WAIT", "FUTEX_ANSWER", "FUTEX_WAIT"]
    assert kernels.seen == []
    assert (away.waits, kernels.engines[0].queue) == ((), ())


@pytest.mark.parametrize("dead", [0, 2])
def test_a_death_ends_every_wait_now_and_later(dead: int) -> None:
    engine = FutexEngine(1, range(3))
    engine.wait(WORD, 1)
    engine.wait(WORD, 2)
    engine.cancel(2)
    assert engine.peer_down(dead) == [WaitLost(1, dead)]
    assert engine.peer_down(2 - dead) == []
    assert engine.wait(WORD, 1) == [WaitLost(3, dead)]
    assert engine.receive(2, Message(MessageName.FUTEX_ANSWER, WORD, 3)) == []


def test_only_home_has_queues_and_only_home_answers() -> None:
    with pytest.raises(ProtocolError, match="kernel 2 sends FUTEX_WAIT to kernel 1; kernel 0 is home"):
        FutexEngine(1, range(3)).receive(2, Message(MessageName.FUTEX_WAIT, WORD, 1, version=1))
    with pytest.raises(ProtocolError, match="kernel 2 sends FUTEX_ANSWER to kernel 0"):
        FutexEngine(0, range(3)).receive(2, Message(MessageName.FUTEX_ANSWER, WORD, 1))
