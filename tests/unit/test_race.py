"""Races of threads in machine code: what they store and find, when they meet, and the words of the ISA not run here."""

import mmap
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from struct import unpack
from types import SimpleNamespace

import pytest

from guest.errors import UnsupportedISA
from guest.link.segment import address_of
from guest.workloads import race
from guest.workloads.race import ADDRESS, BEGIN, END, ENTRY_WORDS, FOR_EVER, PAUSE, VALUE, Race, at_once, one_by_one
from guest.workloads.race_code import ASSEMBLERS, CODES, Aarch64

Program = list[tuple[str, int, int]]
WIDTH = len(ENTRY_WORDS)
SLOTS = 5
MEETINGS = 2
"""Words at the start of the memory."""
ALONE: Program = [("store", 0, 3), ("fence", 0, 0), ("load", 1, 0), ("load", 0, 0)]

pytestmark = pytest.mark.skipif(os.uname().machine not in ASSEMBLERS, reason="no race is known for this machine")


class Arena:
    """Memory for racing threads: their meeting, and two variables for each slot."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 8 * (MEETINGS + 2 * SLOTS))).cast("Q")
        self.base = address_of(self.words)

    def race(self, program: Program, meeting: list[int], seed: int = 1) -> Race:
        places = [[self.base + 8 * (MEETINGS + 2 * slot + variable) for variable in range(2)] for slot in range(SLOTS)]
        return Race(program, places, [self.base + 8 * word for word in meeting], seed)

    def variables(self) -> list[int]:
        return self.words[MEETINGS:].tolist()


def entries(table: bytes) -> list[list[int]]:
    """By access; an instance has as many as its program."""
    words = array("Q", table).tolist()
    return [words[start : start + WIDTH] for start in range(0, len(words), WIDTH)]


@pytest.mark.parametrize("slowly", [False, True])
def test_a_thread_alone_stores_its_ticket_and_code_and_finds_what_is_there(slowly: bool) -> None:
    arena = Arena()
    arena.words[MEETINGS + 1 :: 2] = array("Q", [70 + slot for slot in range(SLOTS)])
    alone = arena.race(ALONE, [0])
    for first in (1, SLOTS + 1):
        found = entries(alone.run(slowly=slowly))
        stored = [CODES * (first + slot) + 3 for slot in range(SLOTS)]
        assert arena.variables()[::2] == stored
        assert [entry[VALUE] for entry in found] == [
            word for slot in range(SLOTS) for word in (3, 70 + slot, stored[slot])
        ]
        assert arena.words[0] == first + SLOTS - 1  # the last ticket


def test_times_are_of_each_access_or_of_the_whole_and_never_overlap() -> None:
    arena = Arena()
    if not race.counter_is_common():
        pytest.skip("the counter of this machine is not trusted")
    slow = entries(arena.race(ALONE, [0]).run(slowly=True))
    times = [time for entry in slow for time in (entry[BEGIN], entry[END])]
    assert times == sorted(times)
    assert all(0 < time < FOR_EVER for time in times)
    quick = entries(arena.race(ALONE, [1]).run(slowly=False))
    times = [time for first, _, last in zip(*[iter(quick)] * 3, strict=True) for time in (first[BEGIN], last[END])]
    assert times == sorted(times)


def test_a_counter_that_is_not_trusted_leaves_intervals_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "counter_is_common", lambda: False)
    arena = Arena()
    found = entries(arena.race(ALONE, [0]).run(slowly=True))
    assert {(entry[BEGIN], entry[END]) for entry in found} == {(0, FOR_EVER)}


def test_pauses_are_drawn_by_seed_and_of_every_magnitude() -> None:
    def pauses(seed: int) -> list[int]:
        arena = Arena()
        one = arena.race(ALONE, [0], seed)
        return [entry[PAUSE] for _ in range(20) for entry in entries(one.run(slowly=False))]

    assert pauses(1) == pauses(1) != pauses(2)
    drawn = pauses(3)
    assert 0.4 < drawn.count(0) / len(drawn) < 0.8
    assert min(each for each in drawn if each) < 16
    assert 1 << 12 < max(drawn) < 1 << 16


@pytest.mark.parametrize("source", ["hpet", None])
def test_a_counter_is_trusted_if_the_kernel_keeps_time_by_it(
    source: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(race, "_CLOCK_SOURCE", tmp_path / "source")
    if source:
        (tmp_path / "source").write_text(source)
    monkeypatch.setattr(race, "cpu_count", lambda: 2)
    assert not race.counter_is_common()
    (tmp_path / "source").write_text("tsc\n")
    assert race.counter_is_common()
    (tmp_path / "source").write_text("hpet\n")
    monkeypatch.setattr(race, "cpu_count", lambda: 1)
    assert race.counter_is_common()


def in_another_process(act: Callable[[], object]) -> int:
    """The id of a process that does it and ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return pid


def test_nobody_goes_on_before_all_have_come() -> None:
    """The late one stores to a variable before it comes; who has met it must find that."""
    arena = Arena()
    late: Program = [("store", 0, 1)]
    early: Program = [("load", 0, 0), ("load", 1, 0)]

    def come_late() -> None:
        racer = arena.race(late, [1, 0])
        arena.words[MEETINGS + 1 :: 2] = array("Q", [77] * SLOTS)
        for _ in range(100):
            racer.run(slowly=False)

    pid = in_another_process(come_late)
    racer = arena.race(early, [0, 1])
    loads = [entry[VALUE] for _ in range(100) for entry in entries(racer.run(slowly=True))]
    assert os.waitpid(pid, 0)[1] == 0
    assert set(loads[1::2]) == {77}
    for instance, value in enumerate(loads[::2]):
        # Of the same slot: what this instance stores, or what the one of the round before has.
        tickets = (instance + 1, instance + 1 - SLOTS)
        assert value in [CODES * ticket + 1 if ticket > 0 else 0 for ticket in tickets], instance


def test_who_waits_in_vain_waits_outside_of_the_code_and_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise Enough

    monkeypatch.setattr(race, "sleep", nap)
    arena = Arena()
    with pytest.raises(Enough):
        arena.race(ALONE, [0, 1]).run(slowly=False)
    assert arena.variables() == [0] * 2 * SLOTS
    assert arena.words[0] == 1  # it has said that it is here


def test_programs_differ_only_in_what_stands_between_their_accesses() -> None:
    kinds = [[each.kind for each in make(ALONE, clock=True)] for make in (at_once, one_by_one)]
    assert kinds[0] == ["pause", "clock", "store", "fence", "load", "load", "clock"]
    timed = ["pause", "clock"]
    assert kinds[1] == [*timed, "store", "clock", "fence", *timed, "load", "clock", *timed, "load", "clock"]
    assert "clock" not in [each.kind for each in at_once(ALONE, clock=False)]


def test_the_words_of_aarch64_are_those_of_its_manual() -> None:
    """As an assembler makes them of the instructions beside them; they run in the guests of tests/vm."""
    code = Aarch64().race(1, at_once([("store", 0, 1), ("load", 1, 0)], clock=False), 80)
    expected = [
        0xF9400089,  # ldr x9, [x4]
        0xF9000122,  # str x2, [x9]
        0xAA0303EA,  # mov x10, x3
        0xF9400489,  # ldr x9, [x4, #8]
        0xF940012B,  # ldr x11, [x9]
        0xEB02017F,  # cmp x11, x2
        0x54000082,  # b.hs .+16
        0xF100054A,  # subs x10, x10, #1
        0x54FFFF81,  # b.ne .-16
        0x1400000F,  # b .+60
        0xF940080A,  # ldr x10, [x0, #16]
        0xF100054A,  # subs x10, x10, #1
        0x54FFFFE5,  # b.pl .-4
        0xF9400009,  # ldr x9, [x0]
        0xF940040A,  # ldr x10, [x0, #8]
        0x8B020D4A,  # add x10, x10, x2, lsl #3
        0xF900012A,  # str x10, [x9]
        0xF9401409,  # ldr x9, [x0, #40]
        0xF9400129,  # ldr x9, [x9]
        0xF9001809,  # str x9, [x0, #48]
        0x91014000,  # add x0, x0, #80
        0x91000442,  # add x2, x2, #1
        0xEB01001F,  # cmp x0, x1
        0x54FFFD23,  # b.lo .-92
        0xD65F03C0,  # ret
    ]
    assert [hex(word) for word in unpack(f"<{len(code) // 4}I", code)] == [hex(word) for word in expected]
    assert 8 * (WIDTH + ADDRESS) == 40


def test_an_isa_without_a_race_is_named_with_those_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="sparc64"))
    with pytest.raises(UnsupportedISA, match=r"no race is known for sparc64; known: aarch64, x86_64"):
        Arena().race(ALONE, [0])
