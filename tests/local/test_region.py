"""Pages of a region under real processes: what each state lets them do, and that no process slips through."""

import gc
import os
import re
import signal
from collections.abc import Iterator

import pytest

from guest.errors import RegionError
from guest.link.segment import address_of
from guest.memory.region import BASE, Region, map_shared
from guest.memory.userfaultfd import PAGE_BYTES
from guest.protocol.address_space import Access
from tests.local.region_process import NOBODY, RegionProcess

PAGES = 8
CONTENTS = bytes(range(7, 7 + 64)) * (PAGE_BYTES // 64)


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region(PAGES)
    yield region
    region.close()


@pytest.fixture
def first(region: Region) -> Iterator[RegionProcess]:
    with RegionProcess(region) as process:
        yield process


@pytest.fixture
def second(region: Region) -> Iterator[RegionProcess]:
    with RegionProcess(region) as process:
        yield process


class Source:
    """4096 bytes at a fixed address, as a page slot is."""

    def __init__(self, contents: bytes = CONTENTS) -> None:
        self.memory = bytearray(contents)
        self.address = address_of(memoryview(self.memory))


def shared(region: Region, page: int, wake: bool = True) -> None:
    source = Source()
    region.install(page, source.address, writable=False, wake=wake)


def exclusive(region: Region, page: int) -> None:
    source = Source()
    region.install(page, source.address, writable=True, wake=True)


def read_out(region: Region, page: int) -> bytes:
    into = bytearray(PAGE_BYTES)
    region.read_out(page, memoryview(into))
    return bytes(into)


def test_an_absent_page_faults_in_every_process_and_is_served_to_all_at_once(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    first.start_load(3, offset=5)
    second.start_load(3, offset=6)
    assert first.fault() == second.fault() == (3, False)
    shared(region, 3)
    assert (first.result(), second.result()) == (CONTENTS[5], CONTENTS[6])


def test_a_store_to_an_absent_page_is_told_from_a_load(region: Region, first: RegionProcess) -> None:
    first.start_store(0, 200)
    assert first.fault() == (0, True)
    exclusive(region, 0)
    assert first.result() == 200


def test_a_shared_page_is_read_freely_and_a_store_faults_in_every_process(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    shared(region, 2)
    for process in (first, second):
        assert process.load(2) == CONTENTS[0]
        process.start_store(2, 99)
        assert process.fault() == (2, True)
    region.grant(2)
    assert first.result() == second.result() == 99
    first.store(2, 100)
    assert second.load(2) == 100


def test_the_first_access_of_a_second_process_to_a_shared_page_may_be_the_store_that_faults(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    # The page is in the memfd, put there through the first process; the second has no mapping of it yet.
    shared(region, 1)
    second.start_store(1, 99)
    assert second.fault() == (1, True)
    assert read_out(region, 1) == CONTENTS
    region.grant(1)
    assert second.result() == 99


def test_a_process_that_comes_late_is_bound_by_what_holds_already(region: Region, first: RegionProcess) -> None:
    shared(region, 1)
    shared(region, 2)
    exclusive(region, 3)
    with RegionProcess(region) as late:
        late.store(3, 33)
        assert late.load(2) == CONTENTS[0]
        late.start_store(1, 11)
        assert late.fault() == (1, True)
        region.grant(1)
        assert late.result() == 11
        late.start_load(4)
        assert late.fault() == (4, False)


def test_an_exclusive_page_faults_in_no_process(region: Region, first: RegionProcess, second: RegionProcess) -> None:
    exclusive(region, 5)
    second.store(5, 1)
    first.store(5, 2)
    assert second.load(5) == 2


def test_a_page_that_was_shared_and_discarded_comes_back_writable_in_every_process(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    # The kernel keeps a page's protection over its discard, in each process.
    shared(region, 5)
    for process in (first, second):
        process.load(5)
    region.discard(5)
    exclusive(region, 5)
    second.store(5, 1)
    first.store(5, 2)


def test_a_discarded_page_faults_in_every_process(region: Region, first: RegionProcess, second: RegionProcess) -> None:
    exclusive(region, 6)
    first.store(6, 77)
    assert second.load(6) == 77
    region.discard(6)
    first.start_load(6)
    second.start_store(6, 78)
    assert first.fault() == (6, False)
    assert second.fault() == (6, True)
    exclusive(region, 6)
    assert first.result() in (CONTENTS[0], 78)
    assert second.result() == 78


def test_a_page_is_dropped_from_memory_and_the_others_stay(region: Region, first: RegionProcess) -> None:
    for page in range(PAGES):
        exclusive(region, page)
    full = os.fstat(region.memory_fd).st_blocks
    region.discard(4)
    assert os.fstat(region.memory_fd).st_blocks == full - PAGE_BYTES // 512
    assert [first.load(page) for page in (3, 5)] == [CONTENTS[0]] * 2
    region.discard(4)


def test_a_protected_page_holds_still_in_every_process_while_it_is_read_out(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    exclusive(region, 2)
    first.store(2, 1, offset=0)
    second.store(2, 2, offset=1)
    region.protect(2)
    for process in (first, second):
        process.start_store(2, 99)
        assert process.fault() == (2, True)
    assert read_out(region, 2) == b"\x01\x02" + CONTENTS[2:]


@pytest.mark.parametrize("writable", [False, True])
def test_a_zero_page_is_zero_also_where_something_else_was(
    region: Region, first: RegionProcess, second: RegionProcess, writable: bool
) -> None:
    exclusive(region, 7)
    first.load(7)
    region.discard(7)
    for process in (first, second):
        process.start_load(7)
        assert process.fault() == (7, False)
    region.zero(7, writable)
    assert first.result() == second.result() == 0
    assert read_out(region, 7) == bytes(PAGE_BYTES)
    for process in (first, second):
        process.start_store(7, 1)
        if not writable:
            assert process.fault() == (7, True)
            region.grant(7)
        assert process.result() == 1
        if not writable:
            region.protect(7)


def test_a_waiter_sleeps_on_until_it_is_woken(region: Region, first: RegionProcess, second: RegionProcess) -> None:
    for process in (first, second):
        process.start_store(1, 9)
        assert process.fault() == (1, True)
    shared(region, 1, wake=False)
    for process in (first, second):
        assert region.faults(process.userfaultfd) == []
    region.grant(1)
    assert first.result() == second.result() == 9


def test_a_waiter_that_is_woken_for_nothing_faults_again(region: Region, first: RegionProcess) -> None:
    first.start_load(1)
    assert first.fault() == (1, False)
    region.wake(1)
    assert first.fault() == (1, False)
    shared(region, 1)
    assert first.result() == CONTENTS[0]


def test_installing_over_a_page_replaces_it(region: Region, first: RegionProcess) -> None:
    exclusive(region, 1)
    first.store(1, 99)
    shared(region, 1)
    assert first.load(1) == CONTENTS[0]
    region.zero(1, writable=True)
    assert first.load(1) == 0


def test_whoever_touches_a_poisoned_page_gets_sigbus_waiting_or_not(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    shared(region, 2)
    first.load(2)
    region.discard(2)
    first.start_load(2)
    first.fault()
    region.poison(2)
    second.start_store(2, 1)
    assert first.exit_status() == second.exit_status() == -signal.SIGBUS
    with RegionProcess(region) as late:
        late.start_load(2)
        assert late.exit_status() == -signal.SIGBUS


def test_a_process_that_lives_on_without_a_page_is_served_as_before(region: Region, first: RegionProcess) -> None:
    with RegionProcess(region, survives=True) as surviving:
        surviving.start_load(2)
        surviving.fault()
        region.poison(2)
        assert surviving.result() == 0
        surviving.store(2, 9)  # on a page of its own
        first.start_load(2)
        region.poison(2)  # the engine says so for every fault that it is told of
        assert first.exit_status() == -signal.SIGBUS
        surviving.start_load(0)
        assert surviving.fault() == (0, False)
        exclusive(region, 0)
        assert surviving.result() == CONTENTS[0]


def test_a_process_that_lives_on_without_a_page_hears_of_all_that_changes_while_it_is_suspended(region: Region) -> None:
    exclusive(region, 0)
    with RegionProcess(region, survives=True) as surviving:
        surviving.start_load(2)
        surviving.fault()
        region.poison(2)
        assert surviving.result() == 0
        surviving.store(0, 5)
        surviving.suspend()
        region.protect(0)
        region.poison(1)
        region.poison(3)
        surviving.serve()
        assert surviving.load(1) == surviving.load(3) == 0  # on pages of its own
        surviving.start_store(0, 6)
        assert surviving.fault() == (0, True)


def test_a_process_that_dies_leaves_the_pages_to_the_others(region: Region, second: RegionProcess) -> None:
    with RegionProcess(region) as dying:
        exclusive(region, 0)
        dying.store(0, 55)
        dying.start_load(1)
        dying.fault()
        second.start_load(1)
        second.fault()
        dying.kill()
        shared(region, 1)
        assert second.result() == CONTENTS[0]
        assert second.load(0) == 55
        second.start_store(1, 1)
        assert second.fault() == (1, True)


def test_pages_of_a_region_without_processes_are_there_for_the_next(region: Region) -> None:
    with RegionProcess(region) as dying:
        dying.kill()
        shared(region, 0)
        region.zero(1, writable=True)
        region.poison(2)
        region.protect(1)
        region.grant(1)
    assert read_out(region, 0) == CONTENTS
    with RegionProcess(region) as late:
        assert late.load(0) == CONTENTS[0]
        late.store(1, 1)
        late.start_store(0, 1)
        assert late.fault() == (0, True)


def test_a_process_that_leaves_is_served_no_more(region: Region, first: RegionProcess) -> None:
    with RegionProcess(region) as leaving:
        assert list(region.descriptors) == [first.userfaultfd, leaving.userfaultfd]
    assert list(region.descriptors) == [first.userfaultfd]
    exclusive(region, 1)
    first.store(1, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_needs_no_privilege(region: Region) -> None:
    with RegionProcess(region, user=NOBODY) as process:
        process.start_load(0)
        assert process.fault() == (0, False)
        shared(region, 0)
        assert process.result() == CONTENTS[0]
        process.start_store(0, 4)
        assert process.fault() == (0, True)
        region.grant(0)
        assert process.result() == 4


def test_what_the_memory_cannot_do_is_refused_with_the_page_and_the_reason(region: Region) -> None:
    with pytest.raises(RegionError, match="page 3 was to be granted for writing, but is absent"):
        region.grant(3)
    with pytest.raises(RegionError, match="page 3 was to be write-protected, but is absent"):
        region.protect(3)
    with pytest.raises(RegionError, match="page 3 was to be read out, but is absent"):
        read_out(region, 3)
    shared(region, 3)
    with pytest.raises(RegionError, match=re.escape("page 3 gave 100 bytes, expected 4096")):
        region.read_out(3, memoryview(bytearray(100)))
    with pytest.raises(RegionError, match="region of 0 pages"):
        Region(0)


def test_a_page_that_somebody_else_put_there_is_noticed(region: Region, first: RegionProcess) -> None:
    os.pwrite(region.memory_fd, b"x", 0)
    with pytest.raises(RegionError, match="page 0 is present although it was never installed"):
        shared(region, 0)


def test_an_address_that_is_taken_is_refused(region: Region) -> None:
    if (child := os.fork()) == 0:
        code = 1
        try:
            map_shared(region.memory_fd, region.size_bytes)
            with pytest.raises(RegionError, match=rf"cannot be mapped at {BASE:#x}: File exists"):
                map_shared(region.memory_fd, region.size_bytes)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_unmapped_page_is_gone_for_every_process_and_a_page_of_its_own_when_mapped_again(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    exclusive(region, 2)
    region.allow(2, 1, Access.NONE)
    first.start_load(2)
    assert first.exit_status() == -signal.SIGSEGV
    region.allow(2, 1, Access.WRITE)
    second.start_load(2)
    assert second.fault() == (2, False)
    region.zero(2, writable=True)
    assert second.result() == 0


def test_a_page_that_may_only_be_read_ends_who_stores_to_it_whatever_state_it_is_in(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    exclusive(region, 2)
    region.allow(2, 1, Access.READ)
    assert second.load(2, 5) == CONTENTS[5]
    first.start_store(2, 1)
    assert first.exit_status() == -signal.SIGSEGV
    region.allow(2, 1, Access.WRITE)
    second.store(2, 9)


def test_a_thread_whose_page_is_unmapped_while_it_waits_for_it_ends(region: Region, first: RegionProcess) -> None:
    first.start_store(3, 1)
    assert first.fault() == (3, True)
    region.allow(3, 1, Access.NONE)
    region.wake(3)
    assert first.exit_status() == -signal.SIGSEGV


def test_moved_pages_take_along_what_they_hold_and_what_their_states_let_processes_do(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    exclusive(region, 0)
    shared(region, 1)
    first.store(0, 77)
    region.allow(4, 2, Access.NONE)
    region.relocate(0, 2, 4)
    second.store(4, 78, offset=1)
    assert (first.load(4), first.load(4, 1), first.load(5, 9)) == (77, 78, CONTENTS[9])
    second.start_store(5, 1)
    assert second.fault() == (5, True)
    first.start_load(0)
    assert first.exit_status() == -signal.SIGSEGV


def test_a_newcomer_may_do_what_the_others_may(region: Region, first: RegionProcess) -> None:
    exclusive(region, 2)
    region.allow(2, 1, Access.READ)
    with RegionProcess(region) as newcomer:
        assert newcomer.load(2, 5) == CONTENTS[5]
        newcomer.start_store(2, 1)
        assert newcomer.exit_status() == -signal.SIGSEGV


def test_poison_goes_with_the_page_that_is_unmapped(region: Region, first: RegionProcess) -> None:
    region.poison(1)
    region.allow(1, 1, Access.NONE)
    region.allow(1, 1, Access.WRITE)
    first.start_load(1)
    assert first.fault() == (1, False)
    region.zero(1, writable=True)
    assert first.result() == 0


def test_into_a_process_that_was_away_only_what_has_changed_is_put(region: Region, first: RegionProcess) -> None:
    for page in (0, 2):
        shared(region, page)
    for page in (1, 3):
        exclusive(region, page)
    assert all(first.load(page) == CONTENTS[0] for page in range(4))
    first.suspend()
    region.grant(0)
    region.protect(1)
    first.serve()
    first.store(0, 7)
    first.store(3, 9)
    for page in (1, 2):
        first.start_store(page, 8)
        assert first.fault() == (page, True)
        region.grant(page)
        assert first.result() == 8


def test_a_process_that_was_away_finds_what_holds_now(region: Region, first: RegionProcess) -> None:
    """As a placeholder whose thread returns: nothing of what held before binds it, and all that holds now does."""
    shared(region, 0)
    exclusive(region, 1)
    region.poison(2)
    region.allow(3, 1, Access.NONE)
    shared(region, 4)
    assert first.load(0) == first.load(1) == first.load(4) == CONTENTS[0]
    first.suspend()
    region.grant(0)
    region.protect(1)
    region.allow(2, 1, Access.NONE)
    region.allow(2, 2, Access.WRITE)
    region.discard(4)
    first.serve()
    first.store(0, 7)
    first.start_store(1, 8)
    assert first.fault() == (1, True)
    region.grant(1)
    assert first.result() == 8
    for page in (2, 3, 4):
        first.start_load(page)
        assert first.fault() == (page, False)
        shared(region, page)
        assert first.result() == CONTENTS[0]


def test_a_process_that_ended_while_it_was_away_is_noticed_and_the_others_go_on(
    region: Region, first: RegionProcess, second: RegionProcess
) -> None:
    shared(region, 0)
    second.suspend()
    region.grant(0)
    second.kill()
    second.serve()
    shared(region, 1)
    assert first.load(1) == CONTENTS[0]


def test_a_process_that_is_away_is_given_up_with_all_that_belongs_to_it(region: Region) -> None:
    gc.collect()  # what earlier tests have left would go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with RegionProcess(region) as process:
        process.suspend()
    assert len(os.listdir("/proc/self/fd")) == before
