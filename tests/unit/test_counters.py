"""Counters out of a segment that nothing can be written to, whatever stands in it."""

import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from guest.link.segment import PAIR_HEAD, format_segment
from guest.protocol.messages import MessageName
from orchestrator.commands import top as commands_top
from orchestrator.commands.counters import Onlooker, Snapshot
from orchestrator.commands.top import _table
from testbed import record
from testbed.errors import HostError
from testbed.machine import Testbed
from testbed.process import ProcessId
from testbed.shared_memory import watch
from testbed.spec import LinkKind, LinkSpec, NodeSpec, TestbedSpec

SIZE = 4 << 20
SPEC = TestbedSpec(
    "mine",
    tuple(NodeSpec(name, "aarch64", 512 << 20) for name in ("a", "alone", "b")),
    (LinkSpec("shm0", LinkKind.IVSHMEM_DOORBELL, SIZE, 1, ("b", "a")),),
)


@pytest.fixture
def descriptor() -> Iterator[int]:
    """The memory, as the ivshmem server has it."""
    descriptor = os.memfd_create("ivshmem")
    os.ftruncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def memory(descriptor: int) -> memoryview:
    """The writable side, as guests have it."""
    return memoryview(mmap.mmap(descriptor, SIZE))


@pytest.fixture
def testbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptor: int) -> Iterator[Testbed]:
    """A testbed whose ivshmem server is a process that has nothing but the memory open."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setattr(record, "RUN_PATH_MAX", 200)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as server:
        journal = record.create(SPEC)
        journal.change(lambda old: replace(old, servers={"shm0": ProcessId.of(server.pid)}))
        yield Testbed(journal.record)
        server.kill()


def look(testbed: Testbed) -> Snapshot | None:
    return Onlooker(testbed, "shm0", memoryview(watch(testbed, "shm0"))).look()


def test_the_memory_is_found_at_its_server_and_cannot_be_written(testbed: Testbed, memory: memoryview) -> None:
    memory[:3] = b"abc"
    seen = watch(testbed, "shm0")
    assert seen[:3] == b"abc"
    with pytest.raises(TypeError):
        seen[0] = 0


def test_a_server_that_has_ended_is_told(testbed: Testbed) -> None:
    gone = ProcessId(os.getpid(), 1, "another boot")
    testbed.record = replace(testbed.record, servers={"shm0": gone})
    with pytest.raises(HostError, match="link shm0: its server has ended"):
        watch(testbed, "shm0")


def test_counts_are_those_of_the_kernels_by_the_nodes_names(testbed: Testbed, memory: memoryview) -> None:
    assert look(testbed) is None
    segment = format_segment(memory, 2)
    segment.nodes[1].count_fault(2)
    segment.nodes[1].count_doorbell()
    segment.words[segment.nodes[0].message_words + MessageName.VOTE] = 7
    segment.words[segment.layout.pair_offset(1, 0) // 8 + PAIR_HEAD] = 3
    found = look(testbed)
    assert found is not None
    a, b = found.kernels
    assert (a.node, b.node) == ("a", "b")
    assert (a.messages, a.queued, b.queued) == ({"VOTE": 7}, 3, 0)
    assert (b.faults["remote_write"], b.doorbells, b.state) == (1, 1, "absent")
    assert "time_s" not in found.as_json()


def test_rates_are_shown_only_between_looks_at_the_same_memory(testbed: Testbed, memory: memoryview) -> None:
    segment = format_segment(memory, 2)
    before = look(testbed)
    for _ in range(5):
        segment.nodes[0].count_sleep()
    assert _column(_table("shm0", before, look(testbed)), "sleeps")[0] != "-"
    format_segment(memory, 2)
    assert _column(_table("shm0", before, look(testbed)), "sleeps") == ["-", "-"]
    console = Console(width=120)
    with console.capture() as captured:
        console.print(_table("shm0", None, None))
    assert captured.get().strip() == "shm0: nothing is formatted there yet, or something has written over it"


def _column(table: object, name: str) -> list[str]:
    (column,) = [each for each in table.columns if each.header == name]  # type: ignore[attr-defined]
    return list(column.cells)


def test_whatever_a_guest_scribbles_is_shown_or_skipped(testbed: Testbed, memory: memoryview, seed: int) -> None:
    segment = format_segment(memory, 2)
    chance = random.Random(seed)
    first = segment.layout.node_offset(0)
    for _ in range(50):
        memory[first : first + 3 * 4096] = chance.randbytes(3 * 4096)
        found = look(testbed)
        assert found is not None
        assert all(0 <= kernel.queued <= segment.layout.ring_slots for kernel in found.kernels)
        assert _table("shm0", found, look(testbed)).row_count == 2
    memory[:4096] = chance.randbytes(4096)
    assert look(testbed) is None


def test_the_live_table_ends_with_the_testbed(
    testbed: Testbed, memory: memoryview, capsys: pytest.CaptureFixture[str]
) -> None:
    format_segment(memory, 2)
    onlooker = Onlooker(testbed, "shm0", memoryview(watch(testbed, "shm0")))
    looks = iter(range(3))
    look_once = onlooker.look

    def look_and_leave() -> Snapshot | None:
        if next(looks) == 2:
            shutil.rmtree(record.directory("mine"))
        return look_once()

    onlooker.look = look_and_leave  # type: ignore[method-assign]
    commands_top._live(testbed, onlooker, "shm0", 0.01)
    said = capsys.readouterr().out
    assert said.endswith("mine is down\n")
    assert "beats" in said
