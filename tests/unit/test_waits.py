"""Who is told what of a wait."""

from guest.daemon.waits import Outcome, Waits
from guest.protocol.effects import Effect, Queued, Send, WaitLost, Woken
from guest.protocol.futex import WOKEN, FutexEngine
from guest.protocol.messages import Message, MessageName

WORD = 64
_ANSWER = MessageName.FUTEX_ANSWER


def away() -> tuple[Waits, list[Effect], list[Outcome]]:
    sent: list[Effect] = []
    return Waits(FutexEngine(1, range(3)), sent.extend), sent, []


def test_the_thread_that_waits_is_told_and_nobody_else() -> None:
    waits, sent, told = away()
    others: list[Outcome] = []
    assert waits.next_number == 1
    waits.wait(WORD, 1, told.append)
    waits.wait(WORD, 2, others.append)
    assert [effect.message.name for effect in sent if isinstance(effect, Send)] == [MessageName.FUTEX_WAIT] * 2
    waits.receive(0, Message(_ANSWER, WORD, 1, version=1))
    waits.receive(0, Message(_ANSWER, WORD, 1, WOKEN, 1))
    assert told == [Queued(1), Woken(1)]
    assert others == []
    waits.peer_down(2)
    assert others == [WaitLost(2, 2)]
    assert waits.next_number == 3


def test_who_has_cancelled_hears_nothing_more_and_cannot_cancel_what_is_over() -> None:
    waits, _, told = away()
    waits.wait(WORD, 1, told.append)
    waits.receive(0, Message(_ANSWER, WORD, 1, version=1))
    assert waits.cancel(1)
    assert not waits.cancel(1)
    waits.receive(0, Message(_ANSWER, WORD, 1, WOKEN, 1))
    waits.wait(WORD, 1, told.append)
    waits.receive(0, Message(_ANSWER, WORD, 2, WOKEN, 1))
    assert not waits.cancel(2)
    assert told == [Queued(1), Woken(2)]


def test_at_home_it_is_told_within_the_call() -> None:
    told: list[Outcome] = []
    sent: list[Effect] = []
    home = Waits(FutexEngine(0, range(2)), sent.extend)
    home.wait(WORD, 1, told.append)
    home.wake(WORD, 1)
    assert told == [Queued(1), Woken(1)]
    home.peer_down(1)
    home.wait(WORD, 1, told.append)
    assert told[2:] == [WaitLost(2, 1)]
    assert sent == []
