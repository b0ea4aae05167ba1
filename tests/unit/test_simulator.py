"""Kernels in virtual time: what faults and other orders of events must not change, and what must be caught."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.link.membership import BEAT_NS
from guest.protocol.effects import Effect, Protect
from guest.protocol.messages import Message
from guest.protocol.page import Page
from guest.protocol.voting import VotingEngine
from guest.workloads.shared_array import SharedArray
from orchestrator.checker.rehearsal import shared_array
from orchestrator.simulator import growth
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.memory import Memory
from orchestrator.simulator.plot import draw
from orchestrator.simulator.setting import Setting
from orchestrator.simulator.world import HEARTBEAT_NS, World

ROLES = {"R": "reader", "W": "writer", "-": "idle"}


def setting(roles: str, *, pages: int = 1, iterations: int = 2, engine: type[VotingEngine] = VotingEngine) -> Setting:
    """One letter a thread, one word a kernel."""
    words = roles.split()
    return Setting(
        names=tuple(f"k{number}" for number in range(len(words))),
        roles=tuple(tuple(ROLES[letter] for letter in word) for word in words),
        array=SharedArray(pages * 4096, 64, iterations),
        engine=engine,
    )


def simulated(what: Setting, conditions: Conditions | None = None, seed: str = "0") -> World:
    world = World(what, conditions or Conditions(), seed)
    world.run()
    return world


def total(world: World) -> int:
    return sum(world.sent().values())


class Unprotected(VotingEngine):
    """The only copy is given away and stays writable."""

    def share(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().share(page, sender, message, effects)
        effects.remove(Protect(page.number))


class GrantsForgotten(VotingEngine):
    """A copy is installed though its invalidation was granted."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().judge(page, sender, message, effects)
        page.granted = ()


class SharedWithoutNotice(VotingEngine):
    """Two kernels that fetch at once each believe themselves alone."""

    def _end_fetch(self, page: Page, effects: list[Effect]) -> None:
        page.fetched_by_others = False
        super()._end_fetch(page, effects)


class LateAnswersCount(VotingEngine):
    """Answers are told by page alone, not by request."""

    def receive(self, sender: int, message: Message) -> list[Effect]:
        page = self._pages[message.page]
        if page and message.name in (2, 3, 5):
            message = message._replace(request=page.request)
        return super().receive(sender, message)


class ForgottenDead(VotingEngine):
    """A vote waits for the dead."""

    def _recount(self, page: Page, dead: int, effects: list[Effect]) -> None: ...


@pytest.mark.parametrize(
    ("roles", "pages", "iterations"), [("R R", 1, 4), ("R R", 64, 16), ("W R", 1, 16), ("W R", 64, 4), ("W W", 1, 16)]
)
def test_two_kernels_send_as_many_messages_as_the_documentation_says(roles: str, pages: int, iterations: int) -> None:
    world = simulated(setting(roles, pages=pages, iterations=iterations))
    assert world.failure is None
    assert total(world) == len(shared_array(roles.replace(" ", ""), pages, iterations).log)


def test_writers_in_turn_cost_what_the_documentation_says() -> None:
    world = simulated(replace(setting("W W", iterations=16), in_turn=True))
    assert total(world) == 128


def events(what: Setting, conditions: Conditions, seed: str) -> str:
    log = io.StringIO()
    World(what, conditions, seed, log).run()
    return log.getvalue()


def test_the_same_seed_gives_the_same_events_and_another_seed_others() -> None:
    what = setting("W W R W", pages=2)
    conditions = Conditions((0, 300), reorder=True, duplicate=0.3, lose_doorbell=0.2, kills=(("k3", 900),))
    assert events(what, conditions, "7") == events(what, conditions, "7")
    assert events(what, conditions, "7") != events(what, conditions, "8")


@pytest.mark.parametrize(
    ("engine", "roles", "conditions", "kind"),
    [
        (Unprotected, "W R", Conditions(), "memory"),
        (GrantsForgotten, "W W R W", Conditions((0, 300)), "two copies"),
        (SharedWithoutNotice, "W W R W", Conditions((0, 300)), "stale copy"),
        (LateAnswersCount, "W W R W", Conditions((0, 300), duplicate=0.2), "no progress"),
        (ForgottenDead, "W W R W", Conditions((0, 300), kills=(("k1", 300),)), "no progress"),
    ],
)
def test_a_protocol_with_one_rule_broken_is_caught(
    engine: type[VotingEngine], roles: str, conditions: Conditions, kind: str
) -> None:
    kinds = set()
    for seed in range(60):
        assert simulated(setting(roles), conditions, str(seed)).failure is None
        failure = simulated(setting(roles, engine=engine), conditions, str(seed)).failure
        kinds.add(failure and failure.kind)
    assert kind in kinds


def test_a_stale_copy_is_told_with_node_page_expected_and_found() -> None:
    world = simulated(setting("W W R W", engine=SharedWithoutNotice), Conditions((0, 300)))
    assert world.failure is not None
    assert world.mismatch is not None
    assert str(world.mismatch) in world.failure.message
    assert world.mismatch.node in ("k0", "k1", "k2", "k3")
    assert world.mismatch.expected != world.mismatch.found


def test_a_load_of_a_wrong_value_fails_whatever_the_pages_states_say(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Memory.store

    def forgetful(memory: Memory, page: int, writer: int, stored: int) -> None:
        store(memory, page, writer, 1 if page == 1 else stored)

    monkeypatch.setattr(Memory, "store", forgetful)
    world = simulated(setting("W R", pages=2))
    assert world.failure is not None
    assert world.failure.kind == "wrong value"
    assert world.mismatch is not None
    assert (world.mismatch.page, world.mismatch.iteration, world.mismatch.offset) == (1, 1, 0)
    assert (world.mismatch.expected, world.mismatch.found) == (0x20100000040, 0x10100000040)


conditions_of_all_kinds = st.builds(
    Conditions,
    delay_us=st.tuples(st.integers(0, 50), st.integers(50, 1000)),
    reorder=st.booleans(),
    duplicate=st.sampled_from([0.0, 0.1, 1.0]),
    lose_doorbell=st.sampled_from([0.0, 0.1, 1.0]),
    slow=st.sampled_from([(), (("k0", 10.0),), (("k1", 100.0), ("k0", 3.0))]),
    kills=st.lists(st.tuples(st.just("k1"), st.integers(0, 4000)), max_size=1).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["W", "R", "-", "WR", "WW"]), min_size=2, max_size=5).map(" ".join),
    conditions_of_all_kinds,
    st.integers(0, 1 << 32).map(str),
)
def test_the_protocol_stands_every_fault(roles: str, conditions: Conditions, seed: str) -> None:
    world = simulated(setting(roles, pages=2), conditions, seed)
    assert world.failure is None
    assert world.lost == [] or world.died != []


def test_a_duplicate_arrives_twice_and_is_counted_once() -> None:
    once = simulated(setting("W R"))
    twice = simulated(setting("W R"), Conditions(duplicate=1.0))
    assert twice.handled > once.handled
    answers_to_duplicates = total(twice) - total(once)
    assert 0 < answers_to_duplicates <= total(once)


def in_order(conditions: Conditions, seed: int) -> bool:
    """Whether what kernel 0 sent to kernel 1 arrived in that order."""
    # With two threads a kernel, two faults are in flight at once, so that there is something to overtake.
    log = [json.loads(line) for line in events(setting("WR WR", pages=8), conditions, str(seed)).splitlines()]
    told = [
        [(event["name"], event["page"], event["request"]) for event in log if (event["kernel"], event["event"]) == who]
        for who in (("k0", "sends"), ("k1", "receives"))
    ]
    assert sorted(told[0]) == sorted(told[1])
    return told[0] == told[1]


def test_messages_of_a_pair_arrive_as_they_were_sent_unless_they_may_overtake() -> None:
    assert all(in_order(Conditions((0, 500)), seed) for seed in range(10))
    assert not all(in_order(Conditions((0, 500), reorder=True), seed) for seed in range(10))


def test_a_simulated_daemon_looks_around_as_often_as_a_real_one() -> None:
    assert HEARTBEAT_NS == BEAT_NS


def test_a_lost_doorbell_costs_up_to_a_heartbeat_and_no_message() -> None:
    sound = simulated(setting("R -"))
    lossy = simulated(setting("R -"), Conditions(lose_doorbell=1.0))
    assert total(lossy) == total(sound)
    assert sound.ended_ns < HEARTBEAT_NS / 100
    assert HEARTBEAT_NS < lossy.ended_ns < 3 * HEARTBEAT_NS


def test_a_slow_kernel_makes_the_others_wait() -> None:
    assert simulated(setting("W R"), Conditions(slow=(("k1", 50.0),))).ended_ns > 3 * simulated(setting("W R")).ended_ns


def test_what_only_a_dead_kernel_had_is_lost_by_name_and_the_others_go_on() -> None:
    found = []
    for at_us in range(100, 1500, 50):
        world = simulated(setting("W R R", pages=2, iterations=4), Conditions(kills=(("k0", at_us),)))
        assert world.failure is None
        assert world.died == [0]
        assert world.ended_ns > 3e9  # the failure deadline
        found += world.lost
    assert {loss.node for loss in found} == {"k1", "k2"}
    assert {loss.page for loss in found} <= {0, 1}


def test_a_dead_reader_loses_nothing() -> None:
    for at_us in range(0, 1500, 50):
        world = simulated(setting("W R R", iterations=4), Conditions(kills=(("k2", at_us),)))
        assert (world.failure, world.lost) == (None, [])


def test_a_kernel_is_not_killed_after_the_end() -> None:
    world = simulated(setting("W R"), Conditions(kills=(("k1", 10_000_000),)))
    assert world.died == []
    assert world.ended_ns < HEARTBEAT_NS


def test_a_thousand_kernels() -> None:
    roles = " ".join("W" if number == 0 else "R" if number % 100 == 0 else "-" for number in range(1000))
    world = simulated(setting(roles))
    assert world.failure is None
    # Ten first touches, then one write of a page that ten share, which nine read again.
    assert total(world) == 10 * 2 * 999 + 2 * 9 + 2 * 9


def test_message_counts_grow_as_the_formulas_say() -> None:
    costs = list(growth.growth([2, 3, 5, 8], seed=3))
    assert len(costs) == 4 * len(growth.Load)
    assert [cost for cost in costs if not cost.agrees] == []
    eight = {cost.load: (cost.first, cost.each) for cost in costs if cost.kernels == 8}
    assert eight[growth.Load.ALL_READ] == (8 * 14, 0)
    assert eight[growth.Load.ONE_WRITES] == (8 * 14, 28)
    assert eight[growth.Load.IN_TURN] == (112 + 56 + 14, 140)
    assert eight[growth.Load.AT_ONCE][1] == 8 * 14 + 28 * 16 + 14  # each two writers meet once: 28 lost votes


def test_the_numbers_of_kernels_tried_include_both_ends() -> None:
    assert growth.steps_of(range(2, 65)) == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert growth.steps_of(range(5, 10)) == [5, 6, 8, 9]


def test_the_plot_is_one_file_with_the_same_bytes_for_the_same_costs() -> None:
    costs = list(growth.growth([2, 3], seed=0))
    picture = draw(costs)
    assert picture == draw(costs)
    assert "<svg" in picture
    assert 'href="http' not in picture
