"""Kernels that keep no more pages than they have room for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guest.daemon import eviction
from guest.daemon.eviction import SLACK, Eviction
from guest.protocol.effects import Send
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.registry import PROTOCOLS
from guest.protocol.table import State
from orchestrator.checker.rehearsal import Rehearsal

PAGES = 8
READABLE, WRITABLE = 1, 2
PRESENCE = {State.S: READABLE, State.N: WRITABLE, State.M: WRITABLE}


class Memory:
    """What `Eviction` asks a region, answered from the engine's states."""

    pages = PAGES

    def __init__(self, state: Callable[[int], State]) -> None:
        self._state = state
        self.more = 0

    @property
    def resident(self) -> int:
        return self.more + sum(self._state(page) in PRESENCE for page in range(PAGES))

    def present(self, presence: int, first: int) -> Iterator[int]:
        order = [*range(first, PAGES), *range(first)]
        return (page for page in order if PRESENCE.get(self._state(page)) == presence)


class Kernels:
    """Engines with evictions beside them, over links that keep their order."""

    def __init__(self, protocol: str, *limits: int | None) -> None:
        self.system = Rehearsal(len(limits), PAGES, PROTOCOLS[protocol])
        self.asked: list[tuple[int, int, Message]] = []
        self.sent: list[tuple[int, int, Message]] = []
        self.memories = [Memory(self.system.engines[k].state) for k in range(len(limits))]
        self.alive = list(range(len(limits)))
        self.evictions = [self._eviction(kernel, limit) for kernel, limit in enumerate(limits)]

    def _eviction(self, kernel: int, limit: int | None) -> Eviction:
        def carry_out(effects: list[Any]) -> None:
            for effect in effects:
                if isinstance(effect, Send) and effect.message.name == MessageName.EVICT:
                    self.asked.append((kernel, effect.to, effect.message))
                    self.sent.append(self.asked[-1])
                else:
                    self.system.carry_out(kernel, [effect])

        memory: Any = self.memories[kernel]
        others = lambda: [other for other in self.alive if other != kernel]  # noqa: E731
        return Eviction(self.system.engines[kernel], memory, limit, others, carry_out)

    def touch(self, kernel: int, page: int, write: bool = True) -> None:
        """A thread's access, to its end; nothing is evicted meanwhile."""
        self.system.carry_out(kernel, self.system.engines[kernel].fault(page, write))
        while self.system.deliver() is not None:
            pass

    def settle(self) -> None:
        """Until nothing happens any more."""
        going = True
        while going:
            for each in self.evictions:
                if each.busy:
                    each.settle()
            going = bool(self.asked)
            if going:
                sender, to, message = self.asked.pop(0)
                self.evictions[to].receive(sender, message)
                for each in self.evictions:
                    each.settle()
            while self.system.deliver() is not None:
                going = True

    def held(self, kernel: int) -> list[int]:
        return [page for page in range(PAGES) if self.system.engines[kernel].state(page) in PRESENCE]


@pytest.fixture(params=sorted(PROTOCOLS))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_pages_beyond_the_limit_go_to_who_has_room(protocol: str) -> None:
    kernels = Kernels(protocol, 3, None)
    for page in range(PAGES):
        kernels.touch(0, page)
    assert kernels.held(0) == list(range(PAGES))
    kernels.settle()
    assert kernels.held(0) == [5, 6, 7]
    assert kernels.held(1) == [0, 1, 2, 3, 4]
    assert kernels.system.engines[1].state(0) is State.M


def test_the_next_ones_go_where_the_last_ones_ended(protocol: str) -> None:
    kernels = Kernels(protocol, 3, None)
    for page in range(PAGES):
        kernels.touch(0, page)
    kernels.settle()
    for page in (0, 1):
        kernels.touch(0, page)
    kernels.settle()
    assert kernels.held(0) == [0, 1, 7]


def test_pages_that_others_hold_too_go_first() -> None:
    kernels = Kernels("voting", 4, None)
    for page in range(4):
        kernels.touch(0, page)
    kernels.touch(1, 2, write=False)
    kernels.touch(0, 4)
    kernels.settle()
    assert kernels.held(0) == [0, 1, 3, 4]
    assert [message.name for _, _, message in kernels.sent] == [MessageName.EVICT]


def test_who_has_no_room_says_so_and_the_next_is_asked(protocol: str) -> None:
    kernels = Kernels(protocol, 2, 1, None)
    kernels.touch(1, 7)
    for page in range(4):
        kernels.touch(0, page)
    kernels.settle()
    assert kernels.held(1) == [7]
    assert len(kernels.held(0)) == 2
    assert sorted(kernels.held(0) + kernels.held(2)) == [0, 1, 2, 3]
    assert any(message.flags & Flag.NO_ROOM for _, _, message in kernels.sent)


def test_who_has_no_room_takes_what_it_holds_already() -> None:
    kernels = Kernels("voting", 2, 3)
    for page in range(3):
        kernels.touch(0, page)
    for page in range(3):
        kernels.touch(1, page, write=False)
    kernels.settle()
    assert (len(kernels.held(0)), len(kernels.held(1))) == (2, 3)


def test_when_all_are_full_nobody_asks_without_pause(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr(eviction, "monotonic_ns", lambda: now[0])
    kernels = Kernels(protocol, 2, 1)
    kernels.touch(1, 7)
    for page in range(3):
        kernels.touch(0, page)
    kernels.settle()
    assert kernels.held(0) == [0, 1, 2]
    assert len(kernels.sent) == 2  # a question and its answer
    now[0] += 30_000_000
    kernels.settle()
    assert len(kernels.sent) == 4


def test_with_nobody_else_alive_pages_stay(protocol: str) -> None:
    kernels = Kernels(protocol, 2, None)
    for page in range(4):
        kernels.touch(0, page)
    kernels.alive = [0]
    kernels.settle()
    assert kernels.held(0) == [0, 1, 2, 3]


def test_faults_wait_once_the_limit_is_far_behind() -> None:
    kernels = Kernels("voting", 2, None)
    full = []
    for kernels.memories[0].more in (1 + SLACK, 2 + SLACK):
        full.append([each.full for each in kernels.evictions])
    assert full == [[False, False], [True, False]]
