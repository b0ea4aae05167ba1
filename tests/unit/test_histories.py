"""The search for an order that explains a history: known cases, and random ones against trying every order."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.histories import (
    History,
    Interval,
    Operation,
    interleaving,
    is_linearizable,
    is_sequentially_consistent,
    load,
    store,
)


def at(begin: int, end: int, clock: int = 0) -> Interval:
    return Interval(clock, begin, end)


CONSISTENT = {
    "nothing at all": History(()),
    "the first value is 0": History(((load("x", 0),),)),
    "message passing, seen late": History(((store("x", 1), store("y", 1)), (load("y", 0), load("x", 1)))),
    "store buffering, one first": History(((store("x", 1), load("y", 0)), (store("y", 1), load("x", 1)))),
    "the last store stays": History(((store("x", 1),), (store("x", 2),)), (("x", 1),)),
}
INCONSISTENT = {
    "a value from nowhere": History(((load("x", 7),),)),
    "message passing": History(((store("x", 1), store("y", 1)), (load("y", 1), load("x", 0)))),
    "store buffering": History(((store("x", 1), load("y", 0)), (store("y", 1), load("x", 0)))),
    "load buffering": History(((load("x", 1), store("y", 1)), (load("y", 1), store("x", 1)))),
    "two readers disagree": History(
        ((store("x", 1),), (store("y", 1),), (load("x", 1), load("y", 0)), (load("y", 1), load("x", 0)))
    ),
    "a value comes back": History(((store("x", 1),), (load("x", 1), load("x", 0)))),
    "a store is lost": History(((store("x", 1),),), (("x", 0),)),
}


@pytest.mark.parametrize("history", CONSISTENT.values(), ids=CONSISTENT)
def test_an_order_is_found_and_explains_the_history(history: History) -> None:
    order = interleaving(history)
    assert order is not None
    assert explains(order, history)


@pytest.mark.parametrize("history", INCONSISTENT.values(), ids=INCONSISTENT)
def test_what_no_order_explains_is_refused(history: History) -> None:
    assert not is_sequentially_consistent(history)


def test_a_load_that_begins_after_a_store_has_ended_must_see_it() -> None:
    stale = History(((store("x", 1, at(0, 1)),), (load("x", 0, at(2, 3)),)))
    assert is_sequentially_consistent(stale)
    assert not is_linearizable(stale)


def test_a_load_that_overlaps_a_store_may_see_either_value() -> None:
    for value in (0, 1):
        assert is_linearizable(History(((store("x", 1, at(0, 5)),), (load("x", value, at(2, 3)),))))


def test_times_of_different_clocks_are_not_compared() -> None:
    assert is_linearizable(History(((store("x", 1, at(0, 1)),), (load("x", 0, at(2, 3, clock=1)),))))


def test_linearizability_looks_at_each_variable_by_itself() -> None:
    """Store buffering without any order in time: each variable alone is fine, both together are not."""
    history = INCONSISTENT["store buffering"]
    assert is_linearizable(history)
    assert not is_sequentially_consistent(history)


def test_ranks_keep_the_order_on_each_clock_and_nothing_else() -> None:
    slow = History(((store("x", 1, at(10, 500)),), (load("x", 1, at(400, 900)),), (load("x", 0, at(7, 8, clock=1)),)))
    fast = History(((store("x", 1, at(1, 3)),), (load("x", 1, at(2, 4)),), (load("x", 0, at(70, 80, clock=1)),)))
    assert slow.with_ranks() == fast.with_ranks() != slow


def explains(order: list[Operation], history: History) -> bool:
    """Whether a memory that goes through `order` shows every load its value, and ends as it should."""
    memory: dict[str, int] = {}
    for operation in order:
        if operation.is_store:
            memory[operation.variable] = operation.value
        elif memory.get(operation.variable, 0) != operation.value:
            return False
    return all(memory.get(name, 0) == value for name, value in history.final)


def every_order(history: History) -> bool:
    """Sequential consistency by trying every merge of the threads."""
    tags = [number for number, thread in enumerate(history.threads) for _ in thread]
    for merge in set(itertools.permutations(tags)):
        remaining = [iter(thread) for thread in history.threads]
        if explains([next(remaining[number]) for number in merge], history):
            return True
    return False


operations = st.builds(Operation, st.booleans(), st.sampled_from("xy"), st.integers(0, 2))
threads = st.lists(st.lists(operations, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)


@st.composite
def executions(draw: st.DrawFn) -> History:
    """What threads see of one memory, in a random order; every operation takes no time, at its place in the order."""
    programs = draw(threads)
    tags = draw(st.permutations([number for number, program in enumerate(programs) for _ in program]))
    memory: dict[str, int] = {}
    seen: list[list[Operation]] = [[] for _ in programs]
    for moment, number in enumerate(tags):
        is_store, variable, value, _ = programs[number][len(seen[number])]
        if is_store:
            memory[variable] = value
        seen[number].append(Operation(is_store, variable, memory.get(variable, 0), at(moment, moment)))
    return History(tuple(map(tuple, seen)), tuple(sorted(memory.items())))


@given(executions())
def test_what_one_memory_has_shown_is_always_accepted(history: History) -> None:
    assert is_sequentially_consistent(history)
    assert is_linearizable(history)


@settings(max_examples=150)
@given(threads)
def test_the_search_says_what_trying_every_order_says(drawn: tuple[tuple[Operation, ...], ...]) -> None:
    history = History(drawn)
    assert is_sequentially_consistent(history) == every_order(history)


@settings(max_examples=150)
@given(executions(), st.data())
def test_a_load_that_is_made_wrong_is_caught_exactly_when_no_order_explains_it(
    history: History, data: st.DataObject
) -> None:
    loads = [(t, n) for t, thread in enumerate(history.threads) for n, each in enumerate(thread) if not each.is_store]
    if not loads:
        return
    place, number = data.draw(st.sampled_from(loads))
    wrong = [list(thread) for thread in history.threads]
    found = wrong[place][number]
    wrong[place][number] = found._replace(value=(found.value + data.draw(st.integers(1, 2))) % 3)
    mutant = History(tuple(map(tuple, wrong)), history.final)
    assert is_sequentially_consistent(mutant) == every_order(mutant)
    # Intervals are moments here, so there is one order in time, and in that order this load is wrong.
    assert not is_linearizable(mutant)
