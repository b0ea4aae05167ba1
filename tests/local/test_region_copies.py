"""A region of several address spaces, and copies of one into another."""

import signal
from collections.abc import Iterator

import pytest

from guest.memory.region import Region
from guest.protocol.address_space import Access
from tests.local.region_process import RegionProcess
from tests.local.test_region import CONTENTS, PAGES, exclusive, shared


@pytest.fixture
def two_spaces() -> Iterator[Region]:
    region = Region(PAGES, span=PAGES // 2)
    yield region
    region.close()


def test_processes_of_two_address_spaces_have_pages_of_their_own_at_the_same_address(two_spaces: Region) -> None:
    with RegionProcess(two_spaces) as one, RegionProcess(two_spaces, space=1) as other:
        one.start_load(1)
        other.start_store(1, 9)
        assert (one.fault(), other.fault()) == ((1, False), (5, True))
        shared(two_spaces, 1)
        exclusive(two_spaces, 5)
        assert (one.result(), other.result()) == (CONTENTS[0], 9)
        assert one.load(1) == CONTENTS[0]
        two_spaces.discard(5)
        two_spaces.allow(4, 4, Access.NONE)
        one.load(1)
        other.start_load(1)
        assert other.exit_status() == -signal.SIGSEGV


def test_a_copy_is_of_one_moment_and_stores_go_on_behind_it(two_spaces: Region) -> None:
    with RegionProcess(two_spaces) as one, RegionProcess(two_spaces) as second:
        exclusive(two_spaces, 0)
        shared(two_spaces, 1)
        two_spaces.allow(1, 1, Access.READ)
        one.store(0, 1)
        two_spaces.freeze(0, 4)
        assert one.load(0) == 1
        one.start_store(0, 2)
        assert one.fault() == (0, True)
        two_spaces.zero(2, writable=True)  # a page that comes meanwhile waits too
        second.start_store(2, 2)
        assert second.fault() == (2, True)
        two_spaces.duplicate(0, 4, to=4)
        two_spaces.wake(0)
        two_spaces.wake(2)
        assert one.result() == second.result() == 2
        one.store(2, 3)
        one.store(0, 4)
        with RegionProcess(two_spaces, space=1) as other:
            assert (other.load(0), other.load(1, offset=5), other.load(2)) == (1, CONTENTS[5], 0)
            other.store(0, 7)
            assert one.load(0) == 4
            other.start_load(3)
            assert other.fault() == (7, False)
        one.start_store(1, 1)
        assert one.exit_status() == -signal.SIGSEGV


def test_a_process_that_was_suspended_meanwhile_is_as_free_as_the_others(two_spaces: Region) -> None:
    with RegionProcess(two_spaces) as one, RegionProcess(two_spaces) as other:
        exclusive(two_spaces, 0)
        one.store(0, 1)
        other.store(0, 2)
        two_spaces.freeze(0, 4)
        one.suspend()
        other.suspend()
        other.serve()
        other.start_store(0, 3)
        assert other.fault() == (0, True)
        two_spaces.duplicate(0, 4, to=4)
        two_spaces.wake(0)
        assert other.result() == 3
        one.serve()
        one.store(0, 4)
