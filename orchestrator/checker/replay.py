"""Where reality left the model: the traces of a real run, given to the engine and the invariants once more.

Three questions, in this order, about every event of every kernel:

1. *Could it happen?* A message must have been sent before it arrives, and arrive in the order of its link, once.
2. *Does the engine say the same?* An engine of today, given the same events, must ask for the same effects.
3. *Do the invariants hold?* Whatever the kernels' clocks say, the events are put in an order in which causes come
   before effects; every such order is one that the protocol has to stand.

Kernels may have died in the run. From the moment one of the others hears of it, the dead count for no invariant; of one
that left no trace, anything may have arrived until then. What the others did before, by way of it, is in no order that
could be known, so invariants count from the moment on when all of them have heard of its death; never, if the run ended
before anybody had.

When a run fails, traces are taken one after the other while its kernels go on: what one has sent after its own was
taken is in nobody's, and the replay ends where another one receives it.
"""

import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guest.protocol.address_space import AddressSpace, Operation
from guest.protocol.engine import Engine
from guest.protocol.forks import ForksEngine
from guest.protocol.futex import FutexEngine
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.registry import PROTOCOLS
from guest.protocol.space import SpaceEngine, operation_of
from guest.protocol.table import State
from guest.protocol.threads import ThreadsEngine
from guest.protocol.trace import PARTS, TRACE_VERSION, Entry, happen
from orchestrator.errors import InputError

LAST_EVENTS = 8
"""Events about the same page that a divergence is shown with."""
_NAME, _PAGE = 0, 1
_OF_PAGES = MessageName.GRANT
"""Up to this, messages are about a page. Others are about ranges, which may even lie outside the region and are refused
then, about kernels, threads or words."""
_SPACE = (MessageName.SPACE_LOCK, MessageName.SPACE_OP, MessageName.SPACE_DONE)
"""About an operation on a range of pages."""
_READABLE = (State.N, State.M, State.S)


@dataclass(frozen=True)
class Trace:
    """What one kernel's engine did."""

    node: str
    kernel: int
    kernels: int
    protocol: str
    pages: int
    dropped: int
    entries: tuple[Entry, ...]
    mapped: int | None = None
    """Pages that were mapped at first; None if threads could not change the address space."""
    members: int | None = None
    """Kernels that were in the kernel set at first, the first ones; None if all of them were."""
    kept: bool = True
    """Whether there is one: a kernel that was killed takes its own with it."""
    open: bool = False
    """Whether the kernel went on after it was taken."""

    @property
    def deaths(self) -> set[int]:
        """The kernels of whose death this one has heard."""
        return {entry.arguments[0] for entry in self.entries if entry.what == "peer_down"}


@dataclass
class Replay:
    """What came of replaying one point."""

    traces: Sequence[Trace]
    events: int = 0
    messages: int = 0
    complete: bool = True
    """Whether every event was replayed; false too when a trace had no room for all of them, was taken too early, or is
    missing though no other kernel has heard of a death."""
    divergence: str | None = None
    """Where reality left the model, in words."""
    last: list[str] = field(default_factory=list)
    """The events before that, about the same page."""

    @property
    def untraced(self) -> list[int]:
        """Kernels that left no trace though no other one has heard of their death."""
        heard = set.union(*(trace.deaths for trace in self.traces))
        return [trace.kernel for trace in self.traces if not trace.kept and trace.kernel not in heard]


def read_traces(folder: Path) -> list[Trace]:
    """The traces of one point, by kernel. Raises InputError."""
    traces = sorted(
        (_read_trace(path) for path in folder.glob("*.jsonl")), key=lambda trace: (trace.kernel, trace.node)
    )
    if not traces:
        raise InputError(
            f"{folder}: found no traces", "run with `trace: true` under `coherency` in the experiment file"
        )
    first = traces[0]
    numbers = {trace.kernel for trace in traces}
    points = {(trace.kernels, trace.protocol, trace.pages) for trace in traces}
    if len(points) != 1 or len(numbers) != len(traces) or not numbers <= set(range(first.kernels)):
        found = ", ".join(f"{each.node} is kernel {each.kernel} of {each.kernels}" for each in traces)
        raise InputError(f"{folder}: found {found}, expected at most one trace of each of {first.kernels} kernels")
    # Not all hear of a death, and nobody does if the run ends before: then nobody listens any more.
    heard = set.union(*(trace.deaths for trace in traces))
    for kernel in sorted(set(range(first.kernels)) - numbers):
        node = f"kernel {kernel}, which {'died' if kernel in heard else 'left no trace'}"
        traces.insert(kernel, replace(first, node=node, kernel=kernel, entries=(), kept=False))
    return traces


def _read_trace(path: Path) -> Trace:
    entries: list[Entry] = []
    header: dict[str, Any] | None = None
    try:
        with path.open(encoding="utf-8") as lines:
            header = _header(json.loads(next(lines, "null")))
            for line in lines:
                time_us, event, arguments, effects = json.loads(line)
                entry = Entry(time_us, event, arguments, effects)
                if entry.what not in PARTS.get(entry.kind, ()) or not -1 <= _page(entry) < header["pages"]:
                    raise ValueError(f"event {event!r} with {arguments}, of {header['pages']} pages")
                entries.append(entry)
        return Trace(**header, entries=tuple(entries))
    except (OSError, ValueError, TypeError, LookupError) as error:
        line_number = 1 if header is None else len(entries) + 2
        raise InputError(f"{path}:{line_number}: found {error}, expected a trace of an engine") from None


def _header(fields: Any) -> dict[str, Any]:
    version = fields.pop("version", None) if isinstance(fields, dict) else None
    if version != TRACE_VERSION:
        raise ValueError(f"a trace of version {version}, this side reads {TRACE_VERSION}")
    if fields.get("protocol") not in PROTOCOLS:
        raise ValueError(f"protocol {fields.get('protocol')!r}, known: {', '.join(PROTOCOLS)}")
    return dict(fields)


def replay(traces: Sequence[Trace]) -> Replay:
    """Replay the traces of all kernels of one point together."""
    result = Replay(traces)
    result.complete = not (result.untraced or any(trace.dropped for trace in traces))
    world = _World(traces)
    try:
        while world.step():
            pass
        if result.complete:
            result.complete = world.all_happened()
    except _Diverged as diverged:
        result.divergence = str(diverged)
        result.complete = False
        result.last = world.last(diverged.page)
    result.events, result.messages = world.events, world.messages
    return result


class _Diverged(Exception):
    def __init__(self, what: str, page: int | None = None) -> None:
        super().__init__(what)
        self.page = page


class _World:
    """Engines, and messages in flight between them."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        kernels = range(len(traces))
        first = traces[0]
        self._traces = traces
        self._engines = [_engine(first, kernel, kernels) for kernel in kernels]
        self._parts: list[dict[str, Any]] = [
            {
                "": engine,
                "threads": ThreadsEngine(kernel, kernels),
                "waits": FutexEngine(kernel, kernels),
                "forks": ForksEngine(kernel, kernels),
            }
            for kernel, engine in enumerate(self._engines)
        ]
        self._next = [0] * len(traces)
        self._links: defaultdict[tuple[int, int, str], deque[list[Any]]] = defaultdict(deque)
        """By sender, receiver, and forked process if it is about one's threads: what is said to a process that is not
        born there yet waits for that, and others' messages do not."""
        self._hears_of = [trace.deaths for trace in traces]
        self._dead: set[int] = set()
        untraced = [trace.kernel for trace in traces if not trace.kept]
        self._unheard = {(trace.kernel, dead) for trace in traces if trace.kept for dead in untraced}
        """(Kernel, dead kernel without a trace that it has not heard of yet.)"""
        self._told: dict[int, deque[str]] = {}
        self._turn = 0
        self.events = self.messages = 0

    def step(self) -> bool:
        """Let the next kernel go on whose next event can happen now; false when there is none."""
        for _ in self._traces:
            kernel, self._turn = self._turn, (self._turn + 1) % len(self._traces)
            entries, index = self._traces[kernel].entries, self._next[kernel]
            if index < len(entries) and self._may_happen(kernel, entries[index]):
                self._next[kernel] += 1
                self._happen(kernel, entries[index])
                return True
        return False

    def all_happened(self) -> bool:
        """Whether nobody still has events. Whoever has waits for a message that nobody sent, as far as is known."""
        if self._beyond_a_trace():
            return False
        for kernel, (trace, index) in enumerate(zip(self._traces, self._next, strict=True)):
            if index < len(trace.entries):
                entry = trace.entries[index]
                what = f"event {index + 1} of {trace.node}, {_show(entry)}, but nobody had sent that"
                raise _Diverged(what, _page(entry) if entry.what != "receive" else entry.arguments[1][_PAGE])
            assert index == len(trace.entries), f"kernel {kernel} went past its trace"
        return True

    def _beyond_a_trace(self) -> bool:
        """Whether somebody waits for a message of a kernel that went on after its trace was taken."""
        for trace, index in zip(self._traces, self._next, strict=True):
            entry = trace.entries[index] if index < len(trace.entries) else None
            if entry is not None and entry.what == "receive":
                sender = self._traces[entry.arguments[0]]
                if sender.open and self._next[sender.kernel] == len(sender.entries):
                    return True
        return False

    def last(self, page: int | None) -> list[str]:
        """The last events about the page."""
        return list(self._told.get(page, ())) if page is not None else []

    def _may_happen(self, kernel: int, entry: Entry) -> bool:
        if entry.what != "receive":
            return True
        sender, message = entry.arguments
        link = self._link(sender, kernel, entry.part)
        if not self._traces[sender].kept:
            link.append(_without_slot(message))
        if message[_NAME] == MessageName.THREAD_PLACED and self._is_last_word(kernel, sender):
            while link and link[0] != _without_slot(message):
                link.popleft()
        if not link:
            return False
        if link[0] != _without_slot(message):
            what = f"{self._traces[kernel].node} received {_message(message)} from kernel {sender}"
            raise _Diverged(f"{what}, but next on that link was {_message(link[0])}", message[_PAGE])
        return True

    def _is_last_word(self, kernel: int, sender: int) -> bool:
        """Whether the kernel hears only such messages of the sender any more, until it hears of its death."""
        if sender not in self._hears_of[kernel]:
            return False
        for entry in self._traces[kernel].entries[self._next[kernel] :]:
            if entry.what == "peer_down" and entry.arguments[0] == sender:
                return True
            if entry.what != "receive" or entry.arguments[0] != sender:
                continue
            if entry.arguments[1][_NAME] != MessageName.THREAD_PLACED:
                return False
        return False

    def _happen(self, kernel: int, entry: Entry) -> None:
        trace, page = self._traces[kernel], _page(entry)
        if entry.what == "receive":
            self._link(entry.arguments[0], kernel, entry.part).popleft()
        elif entry.what == "peer_down":
            self._dead.add(entry.arguments[0])
            self._unheard.discard((kernel, entry.arguments[0]))
        self.events += 1
        told = self._told.setdefault(page, deque(maxlen=LAST_EVENTS))
        told.append(f"{trace.node}: {_show(entry)}: {_effects(entry.effects)}")
        effects = happen(self._part(kernel, entry.part), entry.what, entry.arguments)
        if effects != entry.effects:
            where = f"event {self._next[kernel]} of {trace.node}, {_show(entry)}"
            raise _Diverged(f"{where}: it did {_effects(entry.effects)}, the engine says {_effects(effects)}", page)
        for effect in effects:
            if effect[0] == "Send":
                self._send(kernel, entry.part, effect[1], effect[2])
        for about in _operated(entry) or [page]:
            self._check(about)

    def _part(self, kernel: int, part: str) -> Any:
        """The engine; that of a forked process begins with its first event."""
        parts = self._parts[kernel]
        if part not in parts:
            parts[part] = ThreadsEngine(kernel, range(len(self._traces)), int(part.rpartition("/")[2]))
        return parts[part]

    def _send(self, kernel: int, part: str, to: int, message: list[Any]) -> None:
        self.messages += 1
        self._link(kernel, to, part).append(_without_slot(message))

    def _link(self, sender: int, to: int, part: str) -> deque[list[Any]]:
        return self._links[sender, to, part if "/" in part else ""]

    def _data_in_flight(self, page: int) -> bool:
        """Whether a living kernel has a copy on its way to another."""
        return any(
            message[_NAME] == MessageName.PAGE_DATA and message[_PAGE] == page
            for (sender, to, _), link in self._links.items()
            if sender not in self._dead and to not in self._dead
            for message in link
        )

    def _check(self, page: int) -> None:
        if self._unheard or not 0 <= page < self._traces[0].pages:
            return
        states = [State.U if k in self._dead else engine.state(page) for k, engine in enumerate(self._engines)]
        writable = [kernel for kernel, state in enumerate(states) if state in (State.N, State.M)]
        if not writable:
            return
        shown = ", ".join(f"{trace.node} {state.name}" for trace, state in zip(self._traces, states, strict=True))
        if sum(state in _READABLE for state in states) > 1:
            raise _Diverged(
                f"invariant 1: page {page} is writable in one kernel and readable in another: {shown}", page
            )
        if states[writable[0]] is State.N and self._data_in_flight(page):
            raise _Diverged(f"invariant 3: page {page} is in N though a copy is on its way: {shown}", page)


def _engine(trace: Trace, kernel: int, kernels: range) -> Engine:
    members = range(len(kernels) if trace.members is None else trace.members)
    pages = PROTOCOLS[trace.protocol](kernel, members if kernel in members else (0,), trace.pages, 0)
    if trace.mapped is None:
        return pages
    return SpaceEngine(pages, kernel, members, AddressSpace.first(trace.mapped, trace.pages), 0)


def _without_slot(message: list[Any]) -> list[Any]:
    """The slot is the ring's: the engine that sends does not know it."""
    return [*message[:-1], 0]


def _page(entry: Entry) -> int:
    """The page that the event is about; -1 for what is about all of them."""
    if entry.what == "receive":
        message = entry.arguments[1]
        return int(message[_PAGE]) if message[_NAME] <= _OF_PAGES else -1
    return int(entry.arguments[0]) if entry.event in ("fault", "abandon") else -1


def _operated(entry: Entry) -> list[int]:
    """The pages of an operation on the address space that this event carries out."""
    if entry.what != "receive" or entry.arguments[1][_NAME] != MessageName.SPACE_OP:
        return []
    operation = operation_of(Message(*entry.arguments[1]))
    return [page for pages in operation.pages() for page in pages]


def _show(entry: Entry) -> str:
    if entry.what == "receive":
        return f"received {_message(entry.arguments[1])} from kernel {entry.arguments[0]}"
    if entry.event == "fault":
        page, write = entry.arguments
        return f"a thread faulted on page {page}, to {'write' if write else 'read'}"
    if entry.event == "operate":
        return f"a thread asked to {Operation.of(*entry.arguments[0])}"
    return f"{entry.event} {', '.join(map(str, entry.arguments))}"


def _message(fields: list[Any]) -> str:
    name, page, request, flags, version = fields[:5]
    if name in _SPACE:
        return f"{MessageName(name).name} {operation_of(Message(*fields))} request {request}"
    if name > _OF_PAGES:
        about = {"thread": "THREAD", "word": "FUTEX", "kernel": "JOIN", "process": "PROCESS"}
        word = next((word for word, start in about.items() if MessageName(name).name.startswith(start)), "for")
        return f"{MessageName(name).name} {word} {page} request {request} flags {flags} version {version}"
    said = "|".join(flag.name or "" for flag in Flag(flags))
    return f"{MessageName(name).name}{f' {said}' if said else ''} page {page} request {request} version {version}"


def _effects(effects: list[list[Any]]) -> str:
    shown = []
    for name, *fields in effects:
        if name == "Send":
            to, message, discard = fields
            shown.append(f"{'discard and ' if discard else ''}send {_message(message)} to kernel {to}")
        else:
            shown.append(" ".join([name.lower(), *map(str, fields)]))
    return "; ".join(shown) or "nothing"
