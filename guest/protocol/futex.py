"""Waiting for a word, over kernels: one kernel's side of putting threads to sleep, and of waking them.

Threads synchronise by words of the coherent memory that only ever grow: tickets that are drawn, and counts of events
(the sequencers and eventcounts of Reed and Kanodia, 1979). A thread waits until such a word has reached a value. Loads
and atomic additions of ordinary memory do the work, and this is only for those who must sleep meanwhile. The *home
kernel* has the queues:

    FUTEX_WAIT     waiter → home    a thread of mine waits until this word has reached this value
    FUTEX_ANSWER   home → waiter    it is queued: look at the word once more
    FUTEX_WAIT     waiter → home    (CANCEL) it need not wait any more
    FUTEX_WAKE     anybody → home   this word has reached this value
    FUTEX_ANSWER   home → waiter    (WOKEN) go on

No daemon ever reads the word. No wake-up is lost, since who wakes adds to the word first and tells home then, and who
waits is queued first and looks at the word then: if home heard of the waker first, the waiter finds the word grown when
it looks. A wake-up says what the word has reached, so it never matters how often it is told, or whom it finds.

When a kernel dies, every wait of the process ends, now and later: what is waited for may have died with it.

Pure, like the page engine, beside which it runs: neither knows of the other.
"""

from collections.abc import Hashable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple, Self

from guest.protocol.effects import FutexEffect, Queued, Send, WaitLost, Woken
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName

_WAIT, _WAKE = int(MessageName.FUTEX_WAIT), int(MessageName.FUTEX_WAKE)
_ANSWER = int(MessageName.FUTEX_ANSWER)

CANCEL = 1
"""In `Message.flags` of a FUTEX_WAIT."""
WOKEN = 1
"""In `Message.flags` of a FUTEX_ANSWER."""


class Phase(IntEnum):
    """Where a wait of this kernel is."""

    ASKED = 0
    """Home has not said yet that it is queued."""
    QUEUED = 1
    GIVEN_UP = 2
    """Nobody waits any more, but home cannot be told before it has answered: that could overtake the request."""


class Wait(NamedTuple):
    """A wait of this kernel."""

    request: int
    word: int
    value: int
    phase: Phase


class Entry(NamedTuple):
    """A wait in the queues of the home kernel."""

    word: int
    value: int
    kernel: int
    request: int


class FutexEngine:
    """One kernel's waits; on the home kernel, which is the lowest of `kernels`, the queues of all.

    A word is known by its address, in bytes. On the wire it is in `page`, the value in `version`.
    """

    def __init__(self, kernel: int, kernels: Iterable[int]) -> None:
        self.kernel = kernel
        self._others = tuple(sorted({*kernels} - {kernel}))
        self.home = min(kernel, *self._others) if self._others else kernel
        self.requests = 0
        """How many waits were asked for here."""
        self.lost: int | None = None
        """The kernel that died first."""
        self._waits: tuple[Wait, ...] = ()
        self._queue: tuple[Entry, ...] = ()

    @property
    def waits(self) -> tuple[Wait, ...]:
        """The waits of this kernel that are not over."""
        return self._waits

    @property
    def queue(self) -> tuple[Entry, ...]:
        """What is queued here, in order of arrival; nothing unless this is the home kernel."""
        return self._queue

    # What threads ask for ---------------------------------------------------------------------------------------------

    def wait(self, word: int, value: int) -> list[FutexEffect]:
        """A local thread waits until the word has reached the value.

        The wait has the number `requests` then. `Queued` follows, and then, unless it is cancelled, `Woken`; or
        `WaitLost` in the place of either.
        """
        self.requests += 1
        request = self.requests
        if self.lost is not None:
            return [WaitLost(request, self.lost)]
        if self.kernel == self.home:
            self._waits = (*self._waits, Wait(request, word, value, Phase.QUEUED))
            self._queue = (*self._queue, Entry(word, value, self.kernel, request))
            return [Queued(request)]
        self._waits = (*self._waits, Wait(request, word, value, Phase.ASKED))
        return [Send(self.home, Message(_WAIT, word, request, version=value))]

    def cancel(self, request: int) -> list[FutexEffect]:
        """The thread need not wait any more, or is no more. Nothing happens if the wait is over."""
        wait = self._find(request)
        if wait is None:
            return []
        self._end(wait)
        if self.kernel == self.home:
            self._remove(self.kernel, request)
            return []
        if wait.phase is Phase.QUEUED:
            return [self._cancelled(wait)]
        self._waits = (*self._waits, wait._replace(phase=Phase.GIVEN_UP))
        return []

    def wake(self, word: int, value: int) -> list[FutexEffect]:
        """A local thread has made the word reach the value: whoever waits for that, or for less, goes on."""
        if self.kernel == self.home:
            return self._wake(word, value)
        return [Send(self.home, Message(_WAKE, word, version=value))] if self.lost is None else []

    # Messages ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: Message) -> list[FutexEffect]:
        """One message of another kernel. Raises ProtocolError on one that it may not send."""
        if sender not in self._others or self.lost is not None:
            return []  # it is dead, or will hear of the same death
        if self.home != (sender if message.name == _ANSWER else self.kernel):
            name = MessageName(message.name).name
            raise ProtocolError(f"kernel {sender} sends {name} to kernel {self.kernel}; kernel {self.home} is home")
        if message.name == _ANSWER:
            return self._answered(message)
        if message.name == _WAKE:
            return self._wake(message.page, message.version)
        if message.flags & CANCEL:
            self._remove(sender, message.request)
            return []
        self._queue = (*self._queue, Entry(message.page, message.version, sender, message.request))
        return [Send(sender, Message(_ANSWER, message.page, message.request, version=message.version))]

    def _answered(self, message: Message) -> list[FutexEffect]:
        wait = self._find(message.request, given_up=True)
        if wait is None:
            return []  # cancelled while home woke it
        if message.flags & WOKEN:
            self._end(wait)
            return [Woken(wait.request)] if wait.phase is not Phase.GIVEN_UP else []
        self._end(wait)
        if wait.phase is Phase.GIVEN_UP:
            return [self._cancelled(wait)]
        self._waits = (*self._waits, wait._replace(phase=Phase.QUEUED))
        return [Queued(wait.request)]

    def peer_down(self, kernel: int) -> list[FutexEffect]:
        """Another kernel died: a thread of it may have held what is waited for here, or home had the queues."""
        if kernel not in self._others:
            return []
        self._others = tuple(other for other in self._others if other != kernel)
        if self.lost is not None:
            return []
        self.lost = kernel
        waits, self._waits, self._queue = self._waits, (), ()
        return [WaitLost(wait.request, kernel) for wait in waits if wait.phase is not Phase.GIVEN_UP]

    # ------------------------------------------------------------------------------------------------------------------

    def _find(self, request: int, *, given_up: bool = False) -> Wait | None:
        for wait in self._waits:
            if wait.request == request and (given_up or wait.phase is not Phase.GIVEN_UP):
                return wait
        return None

    def _end(self, wait: Wait) -> None:
        self._waits = tuple(other for other in self._waits if other is not wait)

    def _remove(self, kernel: int, request: int) -> None:
        self._queue = tuple(entry for entry in self._queue if (entry.kernel, entry.request) != (kernel, request))

    def _cancelled(self, wait: Wait) -> FutexEffect:
        return Send(self.home, Message(_WAIT, wait.word, wait.request, CANCEL, wait.value))

    def _wake(self, word: int, value: int) -> list[FutexEffect]:
        effects: list[FutexEffect] = []
        staying = []
        for entry in self._queue:
            if entry.word != word or entry.value > value:
                staying.append(entry)
            elif entry.kernel == self.kernel:
                self._waits = tuple(wait for wait in self._waits if wait.request != entry.request)
                effects.append(Woken(entry.request))
            else:
                effects.append(Send(entry.kernel, Message(_ANSWER, word, entry.request, WOKEN, value)))
        self._queue = tuple(staying)
        return effects

    def freeze(self) -> Hashable:
        """See `Engine.freeze`."""
        return self._others, self.requests, self.lost, self._waits, self._queue

    def thaw(self, frozen: Any) -> Self:
        """See `Engine.thaw`."""
        self._others, self.requests, self.lost, self._waits, self._queue = frozen
        return self
