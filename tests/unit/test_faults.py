"""Records of faults: worked out late, but as they happened."""

from ctypes import string_at

from guest.link.segment import PAGE_BYTES, address_of
from guest.memory.faults import FaultsInFlight
from guest.memory.kept_pages import KeptPages
from guest.memory.samples import FAULTS_KEPT, LOCAL_FAULT, REMOTE_READ, REMOTE_WRITE, FaultLog


def test_a_fault_is_of_the_kind_that_its_service_had() -> None:
    counted: list[int] = []
    faults, log = FaultsInFlight(counted.append), FaultLog()
    faults.begun(1, 100, False, log)
    faults.served(1, 130, False)
    faults.begun(2, 200, True, log)
    faults.served(2, 240, False)
    faults.begun(3, 300, True, log)
    faults.served(3, 350, True)
    assert list(log.recent) == []
    faults.settle()
    assert list(log.recent) == [(100, 1, REMOTE_READ, 30), (200, 2, REMOTE_WRITE, 40), (300, 3, LOCAL_FAULT, 50)]
    assert counted == [REMOTE_READ, REMOTE_WRITE, LOCAL_FAULT]
    assert faults.blocked() == 0


def test_two_faults_on_one_page_in_a_row_stay_two() -> None:
    """A read, and the write that follows it before the first was worked out."""
    faults, log = FaultsInFlight(lambda _: None), FaultLog()
    faults.begun(1, 100, False, log)
    faults.served(1, 150, False)
    faults.begun(1, 160, True, log)
    assert faults.blocked() == 1
    assert faults.since() == [(1, 160)]
    faults.served(1, 200, False)
    assert faults.blocked() == 0
    assert [(record[0], record[2]) for record in log.recent] == [(100, REMOTE_READ), (160, REMOTE_WRITE)]


def test_threads_that_wait_for_one_page_are_served_together() -> None:
    faults, first, second = FaultsInFlight(lambda _: None), FaultLog(), FaultLog()
    faults.begun(7, 100, False, first)
    faults.begun(7, 120, False, second)
    assert faults.blocked() == 2
    faults.served(7, 200, False)
    faults.settle()
    assert (first.total_ns[REMOTE_READ], second.total_ns[REMOTE_READ]) == (100, 80)


def test_only_pages_that_nobody_else_waits_for_are_abandoned() -> None:
    faults, dead, alive = FaultsInFlight(lambda _: None), FaultLog(), FaultLog()
    faults.begun(7, 100, False, dead)
    faults.begun(7, 120, False, alive)
    faults.begun(8, 130, True, dead)
    assert faults.abandon(dead) == [8]
    assert faults.blocked() == 1
    assert faults.since() == [(7, 120)]


def test_records_are_bounded_and_aggregates_are_not() -> None:
    log = FaultLog()
    for number in range(FAULTS_KEPT + 5):
        log.add((number, 0, REMOTE_READ, 2))
    assert len(log.recent) == FAULTS_KEPT
    assert log.recent[0][0] == 5
    assert log.counts[REMOTE_READ] == FAULTS_KEPT + 5
    assert log.total_ns[REMOTE_READ] == 2 * (FAULTS_KEPT + 5)


def test_a_kept_page_is_a_copy_and_its_buffer_is_used_again() -> None:
    kept, source = KeptPages(), bytearray(b"a" * PAGE_BYTES)
    address = address_of(memoryview(source))
    kept.keep(3, address)
    source[:] = b"b" * PAGE_BYTES
    kept.keep(4, address)
    first = kept.address(3)
    assert string_at(first, PAGE_BYTES) == b"a" * PAGE_BYTES
    kept.keep(3, address)
    assert kept.address(3) == first
    assert string_at(first, PAGE_BYTES) == b"b" * PAGE_BYTES
    kept.forget(3)
    kept.forget(3)
    kept.keep(9, address)
    assert kept.address(9) == first


def test_who_sent_the_page_is_noted_for_all_who_waited_for_it() -> None:
    faults, first, second = FaultsInFlight(lambda _: None), FaultLog(), FaultLog()
    faults.came(7, 3)  # nobody waits: it says nothing about the fault that follows
    faults.begun(7, 100, True, first)
    faults.served(7, 110, False)
    faults.begun(7, 120, False, first)
    faults.begun(7, 130, True, second)
    faults.came(7, 2)
    faults.begun(8, 140, True, first)
    faults.served(7, 150, False)
    faults.served(8, 160, False)
    faults.begun(9, 170, True, first)
    faults.came(9, 1)
    faults.abandon(first)
    faults.begun(9, 180, True, second)
    faults.served(9, 190, False)
    faults.settle()
    assert (first.pages_from, second.pages_from) == ({2: 1}, {2: 1})
