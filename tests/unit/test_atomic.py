"""Atomic accesses in machine code."""

import mmap
import os
import struct

import pytest

from guest.errors import UnsupportedISA
from guest.link.segment import address_of
from guest.memory.atomic import CODES, Atomics, atomics, word_at

TIMES = 20_000


def test_words_are_loaded_added_to_and_exchanged() -> None:
    memory = memoryview(mmap.mmap(-1, 4096))
    atomic = atomics()
    word = word_at(memory, 16)
    assert word == address_of(memory) + 16
    assert atomic.load(word) == 0
    assert atomic.fetch_add(word, 5) == 0
    assert atomic.fetch_add(word, -2) == 5
    assert atomic.load(word) == 3
    assert not atomic.compare_exchange(word, 4, 9)
    assert struct.unpack_from("<3Q", memory, 8) == (0, 3, 0)
    assert atomic.compare_exchange(word, 3, 1 << 63)
    assert atomic.fetch_add(word, 1 << 63) == 1 << 63
    assert atomic.load(word) == 0
    assert atomic.fetch_add(word, -1) == 0
    assert atomic.compare_exchange(word, -1, 7)
    assert struct.unpack_from("<3Q", memory, 8) == (0, 7, 0)


def test_no_addition_of_several_processes_is_lost() -> None:
    memory = memoryview(mmap.mmap(-1, 4096))
    added, exchanged = word_at(memory, 0), word_at(memory, 8)
    atomic = atomics()
    children = [child for _ in range(2) if (child := os.fork()) or _add(atomic, added, exchanged)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert struct.unpack_from("<2Q", memory) == (2 * TIMES, 2 * TIMES)


def _add(atomic: Atomics, added: int, exchanged: int) -> int:
    try:
        for _ in range(TIMES):
            atomic.fetch_add(added, 1)
            while not atomic.compare_exchange(exchanged, found := atomic.load(exchanged), found + 1):
                pass
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("offset", [-8, 4, 4096])
def test_a_word_lies_in_memory_and_is_aligned(offset: int) -> None:
    with pytest.raises(ValueError, match=f"offset {offset}, expected a multiple of 8 below 4096"):
        word_at(memoryview(mmap.mmap(-1, 4096)), offset)


def test_an_isa_without_instructions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CODES, os.uname().machine)
    with pytest.raises(UnsupportedISA, match=f"no atomic addition is known for {os.uname().machine}"):
        atomics()
