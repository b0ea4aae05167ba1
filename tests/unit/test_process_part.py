"""One kernel's part of a process, between an engine and processes of the operating system that are told here only."""

from collections.abc import Callable
from typing import Any, cast

from guest.programs import worker
from guest.protocol.address_space import Refusal
from guest.protocol.messages import Message, MessageName
from guest.protocol.thread_effects import Placement
from guest.runs.process_part import Note, ProcessPart
from guest.runs.workers import Worker
from guest.workloads.placement import Load

STATE = b"its state"


class Surroundings:
    """Daemon, workers and run of kernel 1 of two; `full` is whether the ring to kernel 0 is."""

    kernel, kernels = 1, (0, 1)

    def __init__(self) -> None:
        self.full = False
        self.sent: list[Message] = []
        self.told: list[bytes] = []
        self.waiting: list[Callable[[], object]] = []
        self.over: list[ProcessPart] = []
        self.notes: list[Note] = []
        self.part: ProcessPart | None = None
        self.loads: list[tuple[int, int]] = []
        """What the other kernels were told: how many messages had been sent then, and how many threads are here."""

    def traced(self, _: str, engine: Any) -> Any:
        return engine

    def join(self, done: Callable[[Refusal], object]) -> None:
        done(Refusal.NONE)

    def send(self, _: int, message: Message, __: bytes = b"") -> None:
        self.sent.append(message)

    def unsent(self, _: int) -> bool:
        return self.full

    def when_sent(self, _: int, then: Callable[[], object]) -> None:
        self.waiting.append(then)

    def tell(self, _: Worker, packet: bytes) -> None:
        self.told.append(packet)

    def tell_load(self) -> None:
        assert self.part is not None
        self.loads.append((len(self.sent), self.part.here))

    def part_is_over(self, part: ProcessPart) -> None:
        self.over.append(part)

    def __getattr__(self, _: str) -> Callable[..., object]:
        return lambda *_: None


def surrounded(home: int) -> tuple[Surroundings, ProcessPart]:
    """Nothing has happened yet."""
    around = Surroundings()
    any_of = cast(Any, around)
    around.part = part = ProcessPart((0, 0, home), any_of, any_of, Load(), any_of)
    return around, part


def arrived(full: bool) -> tuple[Surroundings, ProcessPart]:
    """A thread of kernel 0 has been placed here."""
    around, part = surrounded(home=0)
    around.full = full
    part.to_pool(Worker(0, part))
    part.receive(0, Message(MessageName.THREAD_MIGRATE, 7, copyset=1), STATE)
    assert around.sent == [Message(MessageName.THREAD_PLACED, 7, flags=Placement.CREATED)]
    return around, part


RUN = worker.RUN + worker.NUMBER.pack(7) + STATE


def test_a_thread_runs_at_once_where_its_source_can_read_so() -> None:
    around, _ = arrived(full=False)
    assert around.told == [RUN]


def test_a_thread_does_not_run_before_its_source_can_read_so() -> None:
    around, _ = arrived(full=True)
    assert around.told == []
    (then,) = around.waiting
    then()
    assert around.told == [RUN]


def test_a_thread_that_ends_with_its_group_before_its_source_can_read_that_it_runs_never_runs() -> None:
    around, part = arrived(full=True)
    part.receive(0, Message(MessageName.GROUP_EXIT), b"")
    (then,) = around.waiting
    then()
    assert around.told == []
    assert around.over == [part]


def test_a_thread_counts_here_before_its_source_can_read_that_it_is_not_on_its_way_any_more() -> None:
    around, part = arrived(full=False)
    assert around.loads == [(0, 1)]
    part.receive(0, Message(MessageName.GROUP_EXIT), b"")
    assert part.here == 0


def test_a_thread_that_stays_after_all_counts_here_again() -> None:
    around, part = arrived(full=False)
    (each,) = part._by_thread.values()
    part.heard(each, worker.MIGRATE, worker.NUMBER.pack(0) + STATE)
    assert part.here == 0
    part.receive(0, Message(MessageName.THREAD_PLACED, 7, flags=Placement.REFUSED), b"")
    assert around.told[-1][:1] == worker.STAY
    assert part.here == 1


def test_a_thread_that_has_ended_does_not_count_here() -> None:
    _, part = arrived(full=False)
    (each,) = part._by_thread.values()
    part.heard(each, worker.EXITED, b"")
    assert (part.over, part.here) == (False, 0)


def test_a_thread_that_is_lost_before_it_has_a_worker_does_not_count_here() -> None:
    _, part = surrounded(home=1)
    part.to_pool(Worker(0, part))
    part.begin_thread(1, 1, STATE)
    part.receive(0, Message(MessageName.THREAD_MIGRATE, 7, copyset=1), STATE)
    assert part.here == 2
    part.peer_down(0)
    assert (part.lost, part.here) == ([7], 1)
