"""Engines driven by Hypothesis: any mix of accesses, of deliveries in any order the links allow, of processes and
kernels that die. A failure is shrunk to a short story.

What the model checker searches to the end for small systems is here sampled for larger ones; and it is another model
of memory and threads than the checker's, so that neither can hide a mistake of the other.
"""

from collections import deque
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from guest.protocol import effects as fx
from guest.protocol.engine import Engine
from guest.protocol.messages import Message, MessageName
from guest.protocol.page import Page
from guest.protocol.registry import PROTOCOLS
from guest.protocol.voting import VotingEngine

INDEX = st.integers(0, 1 << 16)
NONE, READ, WRITE, LOST = range(4)


class Kernel:
    """One kernel: engine, memory, one thread."""

    def __init__(self, engine: Engine, pages: int) -> None:
        self.engine = engine
        self.access = [NONE] * pages
        self.value = [0] * pages
        self.kept = [0] * pages
        self.wanted: tuple[int, bool] | None = None
        """Page and whether to write, of the thread's fault in flight."""
        self.alive = True


class Machine(RuleBasedStateMachine):
    """Some kernels over links that keep their order."""

    protocol: type[Engine] = VotingEngine

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self.links: dict[tuple[int, int], deque[tuple[Message, int]]] = {}
        self.latest: list[int] = []
        self.stores = 0
        self.deaths = 0
        self.news: list[tuple[int, int]] = []
        """(dead, survivor that has not heard of it)."""
        self.back: list[tuple[int, int]] = []
        """(kernel that has come back, member that has not heard of it)."""

    @initialize(kernels=st.integers(2, 6), pages=st.integers(1, 3))
    def boot(self, kernels: int, pages: int) -> None:
        everyone = range(kernels)
        self.kernels = [Kernel(self.protocol(kernel, everyone, pages), pages) for kernel in everyone]
        self.links = {(a, b): deque() for a in everyone for b in everyone if a != b}
        self.latest = [0] * pages

    @rule(which=INDEX, page=INDEX, write=st.booleans())
    def access(self, which: int, page: int, write: bool) -> None:
        newcomers = {newcomer for newcomer, _ in self.back}
        idle = [k for k, kernel in enumerate(self.kernels) if kernel.alive and kernel.wanted is None]
        idle = [k for k in idle if k not in newcomers]
        if idle:
            self.attempt(idle[which % len(idle)], page % len(self.latest), write)

    @precondition(lambda self: any(self.links.values()))
    @rule(which=INDEX)
    def deliver(self, which: int) -> None:
        busy = [pair for pair, link in self.links.items() if link]
        sender, to = busy[which % len(busy)]
        message, value = self.links[sender, to].popleft()
        self.carry_out(to, self.kernels[to].engine.receive(sender, message), value)

    @rule(which=INDEX)
    def stop_waiting(self, which: int) -> None:
        asleep = [k for k, kernel in enumerate(self.kernels) if kernel.wanted is not None]
        if asleep and which % 8 == 0:
            kernel = self.kernels[asleep[which // 8 % len(asleep)]]
            assert kernel.wanted is not None
            page, kernel.wanted = kernel.wanted[0], None
            self.carry_out(self.kernels.index(kernel), kernel.engine.abandon(page))

    @precondition(lambda self: len(self.kernels) > 2 and self.deaths == 0)
    @rule(which=INDEX)
    def die(self, which: int) -> None:
        if which % 16:
            return
        dead = which // 16 % len(self.kernels)
        self.deaths += 1
        self.kernels[dead].alive, self.kernels[dead].wanted = False, None
        for (_, to), link in self.links.items():
            if to == dead:
                link.clear()
        self.news = [(dead, kernel) for kernel in range(len(self.kernels)) if kernel != dead]

    @precondition(lambda self: self.news)
    @rule(which=INDEX)
    def hear_of_it(self, which: int) -> None:
        dead, kernel = self.news.pop(which % len(self.news))
        self.links[dead, kernel].clear()
        self.carry_out(kernel, self.kernels[kernel].engine.peer_down(dead))

    @precondition(lambda self: self.deaths == 1 and not self.news and not all(kernel.alive for kernel in self.kernels))
    @rule(which=INDEX)
    def come_back(self, which: int) -> None:
        if which % 8:
            return
        back = next(k for k, kernel in enumerate(self.kernels) if not kernel.alive)
        pages = len(self.latest)
        self.kernels[back] = Kernel(self.protocol(back, range(len(self.kernels)), pages), pages)
        self.kernels[back].engine.peer_up(back)
        self.back = [(back, kernel) for kernel in range(len(self.kernels)) if kernel != back]

    @precondition(lambda self: self.back)
    @rule(which=INDEX)
    def hear_of_the_return(self, which: int) -> None:
        back, kernel = self.back.pop(which % len(self.back))
        self.carry_out(kernel, self.kernels[kernel].engine.peer_up(back))

    def teardown(self) -> None:
        """With fair delivery every fault ends, and in the end everyone can read the latest value of every page."""
        if not self.kernels:
            return
        self.settle()
        for page in range(len(self.latest)):
            for k, kernel in enumerate(self.kernels):
                if kernel.alive:
                    self.attempt(k, page, False)
                    self.settle()

    def settle(self) -> None:
        while self.news:
            self.hear_of_it(0)
        while self.back:
            self.hear_of_the_return(0)
        for _ in range(20_000):
            if not any(self.links.values()):
                break
            self.deliver(0)
        else:
            raise AssertionError("20,000 messages, and no end")
        for k, kernel in enumerate(self.kernels):
            assert kernel.wanted is None, f"nothing is in flight, but kernel {k} waits for page {kernel.wanted}"
            if kernel.alive:
                assert not any(kernel.engine.pending(page) for page in range(len(self.latest)))

    def attempt(self, k: int, page: int, write: bool) -> None:
        """The thread of kernel `k` loads or stores, or faults."""
        kernel = self.kernels[k]
        access = kernel.access[page]
        if access == LOST:
            kernel.wanted = None
            assert self.deaths, "a page is lost though nobody died"
        elif access == WRITE or (access == READ and not write):
            kernel.wanted = None
            if write:
                self.stores += 1
                self.latest[page] = kernel.value[page] = self.stores
            elif not self.deaths:
                assert kernel.value[page] == self.latest[page], f"kernel {k} reads a stale value of page {page}"
        else:
            kernel.wanted = (page, write)
            self.carry_out(k, kernel.engine.fault(page, write))

    def carry_out(self, k: int, wanted: list[fx.Effect], payload: int = 0) -> None:
        kernel = self.kernels[k]
        woken = set()
        for effect in wanted:
            if isinstance(effect, fx.Send):
                message = effect.message
                value = kernel.value[message.page] if message.name == MessageName.PAGE_DATA else 0
                if effect.discard:
                    kernel.access[message.page] = NONE
                if self.kernels[effect.to].alive:
                    self.links[k, effect.to].append((message, value))
            elif isinstance(effect, fx.SpaceEffect):
                raise TypeError(f"{effect} without an address space")
            elif self.change(kernel, effect, payload):
                woken.add(effect.page)
        self.check_writers()
        if kernel.alive and kernel.wanted is not None and kernel.wanted[0] in woken:
            self.attempt(k, *kernel.wanted)

    def change(self, kernel: Kernel, effect: Any, payload: int) -> bool:
        """What an effect does to memory; whether it wakes who waits for the page."""
        page = effect.page
        match effect:
            case fx.Install():
                assert kernel.access[page] in (NONE, LOST), "installed over something"
                kernel.access[page] = WRITE if effect.writable else READ
                kernel.value[page] = kernel.kept[page] if effect.kept else payload
                return effect.wake
            case fx.Zero():
                kernel.access[page], kernel.value[page] = WRITE if effect.writable else READ, 0
                if self.deaths:  # whatever only the dead had is gone
                    self.latest[page] = 0
                return True
            case fx.Grant():
                assert kernel.access[page] == READ, "granted without a copy"
                kernel.access[page] = WRITE
                return True
            case fx.Protect():
                kernel.access[page] = READ
            case fx.Discard():
                kernel.access[page] = NONE
            case fx.Keep():
                kernel.kept[page] = payload
            case fx.Poison():
                kernel.access[page] = LOST
                return True
            case fx.Wake():
                return True
        return False

    def check_writers(self) -> None:
        for page in range(len(self.latest)):
            access = [kernel.access[page] for kernel in self.kernels if kernel.alive]
            if WRITE in access:
                assert sum(each in (READ, WRITE) for each in access) == 1, (
                    f"page {page} is writable and elsewhere: {access}"
                )


class Forgetful(VotingEngine):
    """Grants a write, and keeps its own copy readable."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[fx.Effect]) -> None:
        super().judge(page, sender, message, effects)
        effects[:] = [effect for effect in effects if not isinstance(effect, fx.Discard)]


def machine_of(engine: type[Engine]) -> type[Machine]:
    return type("Machine", (Machine,), {"protocol": engine})


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_whatever_happens_the_memory_stays_coherent_and_every_fault_ends(protocol: str) -> None:
    machine = machine_of(PROTOCOLS[protocol])
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None))


def test_the_machine_would_notice_a_copy_that_outlives_its_vote() -> None:
    wanted = settings(max_examples=500, stateful_step_count=40, deadline=None, phases=[Phase.generate])
    with pytest.raises(
        AssertionError, match=r"stale value|writable and elsewhere|installed over something|nothing is in flight"
    ):
        run_state_machine_as_test(machine_of(Forgetful), settings=wanted)
