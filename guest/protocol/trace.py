"""A trace of one kernel's engine: every event it was given and the effects it asked for, in order.

Traces are written by the daemons of a run and read by `testbed replay`, which gives the events to an engine of its own.
A trace is a header and entries; both are JSON, an entry is one line:

    [time_us, event, arguments, effects]        [812.4, "receive", [1, [3, 0, …]], [["Zero", 0, true]]]

`event` is the engine's method, `arguments` are its own; messages are lists of their fields, effects have their name in
front. An event that the engine refused has the one effect ["Refused", why]. Times are the kernel's own.

A kernel that has engines of threads and of waits, too, notes their events in the same trace, by names of two parts:
`threads.migrate`, `waits.wake`. They share the links, so their order matters.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Self

from guest.protocol.address_space import Operation
from guest.protocol.effects import Effect
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message
from guest.protocol.space import SpaceEngine
from guest.protocol.table import State

TRACE_VERSION = 5
"""2: a Send says whether its page is dropped first. 3: operations on the address space, kernels that
join, threads, waits. 4: copies of the address space, forks. 5: threads
migrate in two messages."""
EVENTS_MAX = 100_000
"""Events kept of each kernel, at most: some 60 MB in the guest. Later ones are only counted."""

EVENTS = ("fault", "receive", "abandon", "peer_down", "peer_up", "enter_epoch", "operate", "join")
"""Methods of an engine that are events."""
THREAD_EVENTS = (
    "start",
    "migrate",
    "exit",
    "exit_group",
    "created",
    "placed",
    "refused",
    "watch",
    "receive",
    "peer_down",
)
WAIT_EVENTS = ("wait", "cancel", "wake", "receive", "peer_down")
FORK_EVENTS = ("fork", "copied", "receive", "peer_down")
PARTS: dict[str, tuple[str, ...]] = {
    "": EVENTS,
    "threads": THREAD_EVENTS,
    "waits": WAIT_EVENTS,
    "forks": FORK_EVENTS,
}
"""Events by the engine whose methods they are; "" is the engine of pages and of the address space."""


class Entry(NamedTuple):
    """One event and what came of it, as a trace has it."""

    time_us: float
    event: str
    arguments: list[Any]
    effects: list[list[Any]]

    @property
    def part(self) -> str:
        """Which engine's event it is: a key of `PARTS`; of the threads of a forked process `threads/NUMBER/HOME`."""
        return self.event.rpartition(".")[0]

    @property
    def kind(self) -> str:
        """What kind of engine's event it is: a key of `PARTS`."""
        return self.part.partition("/")[0]

    @property
    def what(self) -> str:
        """The engine's method."""
        return self.event.rpartition(".")[2]


def encode(effects: Iterable[Any]) -> list[list[Any]]:
    """Effects as a trace has them."""
    return [
        [type(effect).__name__, *(list(field) if isinstance(field, Message) else field for field in effect)]
        for effect in effects
    ]


def happen(engine: Any, event: str, arguments: list[Any]) -> list[list[Any]]:
    """Give the event of an entry, by its method, to the engine; returns the effects as a trace has them."""
    if event == "receive":
        sender, fields = arguments
        arguments = [sender, Message(*fields)]
    elif event == "operate":
        arguments = [Operation.of(*arguments[0])]
    try:
        return encode(getattr(engine, event)(*arguments))
    except ProtocolError as error:
        return [["Refused", str(error)]]


class TracedEngine:
    """An engine that is asked through this, and remembers. `now_ns` is the clock of whoever owns it."""

    def __init__(self, engine: Engine, now_ns: Callable[[], int], events_max: int = EVENTS_MAX) -> None:
        self._engine = engine
        self._now_ns = now_ns
        self._room = events_max
        self._events: list[tuple[int, str, tuple[Any, ...], list[Any] | str]] = []
        self.dropped = 0
        """Events that came after there was no more room."""

    @property
    def epoch(self) -> int:
        """See `Engine.epoch`."""
        return self._engine.epoch

    @property
    def origin(self) -> int | None:
        """See `Engine.origin`."""
        return self._engine.origin

    def entries(self) -> list[Entry]:
        """The whole trace, ready for JSON. Costs far more than taking it down did."""
        found = []
        for time_ns, event, arguments, came in self._events:
            plain = [list(each) if isinstance(each, Message | Operation) else each for each in arguments]
            effects = [["Refused", came]] if isinstance(came, str) else encode(came)
            found.append(Entry(time_ns / 1e3, event, plain, effects))
        return found

    def fault(self, page: int, write: bool) -> list[Effect]:
        """See `Engine.fault`."""
        return self._noted("fault", page, write)

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """See `Engine.receive`."""
        return self._noted("receive", sender, message)

    def abandon(self, page: int) -> list[Effect]:
        """See `Engine.abandon`."""
        return self._noted("abandon", page)

    def peer_down(self, kernel: int) -> list[Effect]:
        """See `Engine.peer_down`."""
        return self._noted("peer_down", kernel)

    def peer_up(self, kernel: int) -> list[Effect]:
        """See `Engine.peer_up`."""
        return self._noted("peer_up", kernel)

    def peer_joined(self, kernel: int) -> None:
        """See `Engine.peer_joined`."""
        self._engine.peer_joined(kernel)

    def enter_epoch(self, epoch: int) -> list[Effect]:
        """See `Engine.enter_epoch`."""
        return self._noted("enter_epoch", epoch)

    def forget(self, pages: range) -> None:
        """See `Engine.forget`."""
        self._engine.forget(pages)

    def move(self, pages: range, to: int) -> None:
        """See `Engine.move`."""
        self._engine.move(pages, to)

    def copy(self, pages: range, to: int) -> None:
        """See `Engine.copy`."""
        self._engine.copy(pages, to)

    def operate(self, operation: Operation) -> list[Effect]:
        """See `SpaceOperations.operate`; only where the engine has an address space."""
        return self._noted("operate", operation)

    def join(self) -> list[Effect]:
        """See `SpaceEngine.join`; only where the engine has an address space."""
        return self._noted("join")

    @property
    def requests(self) -> int:
        """See `SpaceOperations.requests`."""
        return self._space.requests

    @property
    def orphaned(self) -> bool:
        """See `SpaceOperations.orphaned`."""
        return self._space.orphaned

    @property
    def _space(self) -> SpaceEngine:
        assert isinstance(self._engine, SpaceEngine), "this engine has no address space"
        return self._engine

    def state(self, page: int) -> State:
        """See `Engine.state`."""
        return self._engine.state(page)

    def pending(self, page: int) -> bool:
        """See `Engine.pending`."""
        return self._engine.pending(page)

    def freeze(self) -> Hashable:
        """See `Engine.freeze`."""
        return self._engine.freeze()

    def thaw(self, frozen: Any) -> Self:
        """See `Engine.thaw`. The trace stays as it is."""
        self._engine.thaw(frozen)
        return self

    def _noted(self, event: str, *arguments: Any) -> list[Effect]:
        effects: list[Effect] = self.noted(event, getattr(self._engine, event), arguments)
        return effects

    def noted(self, event: str, call: Callable[..., list[Any]], arguments: tuple[Any, ...]) -> list[Any]:
        """Give an engine the event `call(*arguments)`, note it as `event`, and return its effects."""
        try:
            effects = call(*arguments)
        except ProtocolError as error:
            self._note(event, arguments, str(error))
            raise
        self._note(event, arguments, effects)
        return effects

    def _note(self, event: str, arguments: tuple[Any, ...], came: list[Any] | str) -> None:
        if self._room:
            self._room -= 1
            self._events.append((self._now_ns(), event, arguments, came))
        else:
            self.dropped += 1


class TracedPart:
    """Another engine of the same kernel, whose events go into the same trace; all else of it is as it was."""

    def __init__(self, part: str, engine: Any, trace: TracedEngine) -> None:
        self._part, self._engine, self._trace = part, engine, trace

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if name not in PARTS[self._part.partition("/")[0]]:
            return found
        return lambda *arguments: self._trace.noted(f"{self._part}.{name}", found, arguments)
