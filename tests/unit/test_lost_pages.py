"""A program lives on without a lost page, and dies of any other SIGBUS. Here a page is lost that its file has not."""

import os
import signal
from collections.abc import Callable
from mmap import PAGESIZE, mmap

from guest.link.segment import address_of
from guest.programs.lost_pages import survive_lost_pages

PAGES = 4


def fate_of(program: Callable[[memoryview, list[int]], bool], watched_pages: int = PAGES) -> int:
    """How a process ends (as in `waitstatus_to_exitcode`) that has the first half of its pages: 0 if all went well."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            file = os.memfd_create("short")
            os.ftruncate(file, PAGES * PAGESIZE)
            memory = memoryview(mmap(file, PAGES * PAGESIZE))
            memory[:] = b"\7" * len(memory)
            os.ftruncate(file, PAGES // 2 * PAGESIZE)
            lost: list[int] = []
            survive_lost_pages(address_of(memory), watched_pages * PAGESIZE, lost.append)
            status = 0 if program(memory, lost) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_load_from_a_lost_page_gives_zeros_and_is_noted_once() -> None:
    def load(memory: memoryview, lost: list[int]) -> bool:
        found = memory.cast("Q")[:: PAGESIZE // 8].tolist()
        again = memory[3 * PAGESIZE]
        return found[2:] == [0, 0] and found[0] == found[1] != 0 and again == 0 and lost == [2, 3]

    assert fate_of(load) == 0


def test_a_store_to_a_lost_page_goes_to_nobody_but_this_process() -> None:
    def store(memory: memoryview, lost: list[int]) -> bool:
        memory[2 * PAGESIZE + 100 : 2 * PAGESIZE + 104] = b"abcd"
        return bytes(memory[2 * PAGESIZE + 99 : 2 * PAGESIZE + 105]) == b"\0abcd\0" and lost == [2]

    assert fate_of(store) == 0


def test_an_access_that_runs_into_a_lost_page_is_one_that_was_not_lost_before() -> None:
    def copy(memory: memoryview, lost: list[int]) -> bool:
        whole = bytes(memory)
        kept, gone = whole[: 2 * PAGESIZE], whole[2 * PAGESIZE :]
        return kept == b"\7" * 2 * PAGESIZE and not any(gone) and sorted(lost) == [2, 3]  # C may copy the end first

    assert fate_of(copy) == 0


def test_a_lost_page_of_somebody_else_still_ends_the_process() -> None:
    assert fate_of(lambda memory, _: memory[3 * PAGESIZE] == 0, watched_pages=3) == -signal.SIGBUS
