"""A kernel that leaves hands over what it has, whatever the others do meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest

from guest.daemon.leaving import Handover
from guest.protocol.effects import Send
from guest.protocol.messages import Message, MessageName
from guest.protocol.registry import PROTOCOLS
from guest.protocol.table import State
from orchestrator.checker.rehearsal import Rehearsal

PAGES = 4
HELD = (State.N, State.M, State.S)


class Kernels:
    """Engines with handovers beside them, over links that keep their order."""

    def __init__(self, count: int, protocol: str) -> None:
        self.system = Rehearsal(count, PAGES, PROTOCOLS[protocol])
        self.leaves: list[tuple[int, int, Message]] = []
        self.gone = False
        self.handovers = [Handover(self.system.engines[k], PAGES, self._carrier(k)) for k in range(count)]

    def _carrier(self, kernel: int) -> Callable[[list[Any]], None]:
        def carry_out(effects: list[Any]) -> None:
            for effect in effects:
                if isinstance(effect, Send) and effect.message.name == MessageName.LEAVE:
                    self.leaves.append((kernel, effect.to, effect.message))
                else:
                    self.system.carry_out(kernel, [effect])

        return carry_out

    def step(self) -> bool:
        """Let one message arrive, and everybody settle."""
        if self.leaves:
            sender, to, message = self.leaves.pop(0)
            self.handovers[to].receive(sender, message)
        elif self.system.deliver() is None:
            return False
        for handover in self.handovers:
            handover.settle()
        return True

    def leave(self, kernel: int, successor: int) -> None:
        def done() -> None:
            self.gone = True

        self.handovers[kernel].begin(successor, done)
        self.handovers[kernel].settle()

    def holds(self, kernel: int) -> list[int]:
        return [page for page in range(PAGES) if self.system.engines[kernel].state(page) in HELD]


@pytest.fixture(params=sorted(PROTOCOLS))
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return Kernels(3, request.param)


def test_what_only_the_leaver_has_is_at_the_successor_when_it_goes(kernels: Kernels) -> None:
    for page in range(PAGES):
        kernels.system.access(2, page, write=True)
        kernels.system.settle()
    assert kernels.holds(0) == []
    kernels.leave(2, 0)
    while not kernels.gone:
        assert kernels.step(), "nothing is in flight, but it has not left"
    assert kernels.holds(0) == list(range(PAGES))


def test_who_has_nothing_leaves_at_once(kernels: Kernels) -> None:
    kernels.leave(2, 0)
    assert kernels.gone


def test_a_page_that_the_successor_has_costs_two_messages_and_no_fault(kernels: Kernels) -> None:
    for kernel in range(3):
        kernels.system.access(kernel, 1, write=False)
        kernels.system.settle()
    before = len(kernels.system.log)
    kernels.leave(2, 0)
    while kernels.step():
        pass
    assert kernels.gone
    assert len(kernels.system.log) == before


def test_a_page_taken_by_a_writer_meanwhile_need_not_be_handed_over(kernels: Kernels) -> None:
    kernels.system.access(2, 0, write=True)
    kernels.system.settle()
    kernels.leave(2, 0)
    kernels.system.access(1, 0, write=True)
    while kernels.step():
        pass
    assert kernels.gone
    assert 0 in kernels.holds(0) + kernels.holds(1)


def test_a_write_that_is_granted_late_takes_nothing_away(kernels: Kernels) -> None:
    """The successor has a copy, but the leaver's write of the page is under way, though nobody waits for it."""
    for kernel in range(3):
        kernels.system.access(kernel, 0, write=False)
        kernels.system.settle()
    kernels.system.access(2, 0, write=True)
    kernels.system.abandon(2, 0)
    kernels.leave(2, 0)
    assert kernels.leaves == []
    while kernels.step():
        pass
    assert kernels.gone
    assert kernels.holds(0) == [0]


def test_a_successor_that_died_is_replaced(kernels: Kernels) -> None:
    kernels.system.access(2, 0, write=True)
    kernels.system.settle()
    kernels.leave(2, 1)
    kernels.leaves.clear()
    for kernel in (0, 2):
        kernels.system.bury(kernel, 1)
    kernels.leave(2, 0)
    while not kernels.gone:
        assert kernels.step()
    assert kernels.holds(0) == [0]
