"""Accesses and faults joined: what counts as a sample of which kind."""

import os

from guest.memory.samples import (
    ACCESSES_KEPT,
    LOCAL_FAULT,
    REMOTE_READ,
    REMOTE_WRITE,
    Access,
    AccessLog,
    Samples,
    read_accesses,
)


def access(begin_ns: int, duration_ns: int) -> Access:
    return Access(begin_ns, duration_ns, 0, False)


def test_an_access_with_one_fault_is_a_sample_of_its_kind() -> None:
    samples = Samples()
    accesses = [access(100, 50), access(200, 60), access(300, 70), access(400, 5)]
    samples.join(4, accesses, [(110, 0, REMOTE_READ, 20), (260, 0, REMOTE_WRITE, 9), (300, 0, LOCAL_FAULT, 1)])
    assert samples.by_kind[REMOTE_READ] == [50]
    assert samples.by_kind[REMOTE_WRITE] == [60]
    assert samples.by_kind[LOCAL_FAULT] == [70]
    assert (samples.hits, samples.several, samples.stray_faults) == (1, 0, 0)


def test_an_access_with_several_faults_belongs_to_no_kind() -> None:
    samples = Samples()
    samples.join(1, [access(100, 50)], [(110, 0, REMOTE_READ, 5), (120, 0, REMOTE_WRITE, 5)])
    assert samples.several == 1
    assert samples.by_kind == ([], [], [])


def test_faults_outside_every_access_are_counted() -> None:
    samples = Samples()
    faults = [(time_ns, 0, REMOTE_READ, 5) for time_ns in (50, 160, 170, 300, 310)]
    samples.join(2, [access(100, 50), access(200, 50)], faults)
    assert (samples.hits, samples.stray_faults) == (2, 5)


def test_a_log_gives_back_what_was_recorded() -> None:
    log = AccessLog()
    log.record(1000, 1500, 7, True)
    log.record(2000, 2001, 8, False)
    assert read_accesses(log.fd) == (2, [Access(1000, 500, 7, True), Access(2000, 1, 8, False)])
    os.close(log.fd)


def test_a_full_log_keeps_the_newest_in_order() -> None:
    log = AccessLog()
    for number in range(ACCESSES_KEPT + 3):
        log.record(number, number + 1, number, False)
    count, kept = read_accesses(log.fd)
    os.close(log.fd)
    assert count == ACCESSES_KEPT + 3
    assert [a.page for a in kept] == list(range(3, ACCESSES_KEPT + 3))
    samples = Samples()
    samples.join(count, kept, [])
    assert samples.dropped == 3
