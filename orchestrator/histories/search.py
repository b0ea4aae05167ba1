"""Is there one order of all operations that explains what every thread saw?

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with Lowe's memoisation: a state
is how far each thread has come and what the memory holds, and none is looked at twice. Sequential consistency (Lamport,
1979) asks for an order that keeps every thread's own. Linearizability (Herlihy and Wing, 1990) also asks that an
operation that had ended before another began comes first; it is local, so each variable is searched for by itself.

Intervals are compared on one clock only. Where clocks differ, as between guests, what this search accepts may still not
be linearizable; what it refuses is wrong by any clock.
"""

from orchestrator.histories.history import History, Operation

_State = tuple[tuple[int, ...], tuple[int, ...]]
"""How many operations of each thread have been done, and the values of the variables."""


def is_sequentially_consistent(history: History) -> bool:
    """Whether one memory could have shown each thread this, in its program order."""
    return interleaving(history) is not None


def is_linearizable(history: History) -> bool:
    """Whether, variable by variable, each operation took effect at one moment between its begin and its end."""
    return all(interleaving(history.of(each), in_real_time=True) is not None for each in history.variables())


def interleaving(history: History, *, in_real_time: bool = False) -> list[Operation] | None:
    """An order of all operations in which every load finds what was stored last, or None if there is none."""
    variables = history.variables()
    places = {name: place for place, name in enumerate(variables)}
    start: _State = (tuple(0 for _ in history.threads), tuple(0 for _ in variables))
    came_by: dict[_State, tuple[_State, Operation] | None] = {start: None}
    open_states = [start]
    while open_states:
        state = open_states.pop()
        done, memory = state
        if all(count == len(thread) for count, thread in zip(done, history.threads, strict=True)):
            if all(memory[places[name]] == value for name, value in history.final):
                return _path(came_by, state)
            continue
        for number, operation in _next(history, done, in_real_time):
            place = places[operation.variable]
            if not operation.is_store and memory[place] != operation.value:
                continue
            after: _State = (
                (*done[:number], done[number] + 1, *done[number + 1 :]),
                (*memory[:place], operation.value, *memory[place + 1 :]),
            )
            if after not in came_by:
                came_by[after] = state, operation
                open_states.append(after)
    return None


def _next(history: History, done: tuple[int, ...], in_real_time: bool) -> list[tuple[int, Operation]]:
    """The operations that may come now, each with its thread: of every thread the first that is not done."""
    heads = [
        (number, thread[count])
        for number, (count, thread) in enumerate(zip(done, history.threads, strict=True))
        if count < len(thread)
    ]
    if not in_real_time:
        return heads
    # All later operations of a thread end after its first one, so it is enough to look at these.
    return [(number, head) for number, head in heads if not any(_precedes(other, head) for _, other in heads)]


def _precedes(first: Operation, second: Operation) -> bool:
    one, two = first.during, second.during
    return one is not None and two is not None and one.clock == two.clock and one.end < two.begin


def _path(came_by: dict[_State, tuple[_State, Operation] | None], state: _State) -> list[Operation]:
    order = []
    while (step := came_by[state]) is not None:
        state, operation = step
        order.append(operation)
    return order[::-1]
