"""userfaultfd on this kernel: what the bindings report, and what they say when the kernel refuses."""

import ctypes
import mmap
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from guest.errors import UnsupportedISA, UserfaultfdError
from guest.link.segment import address_of
from guest.memory import userfaultfd
from guest.memory.region import BASE, Region, map_shared
from guest.memory.userfaultfd import FAULT_WRITE, FAULT_WRITE_PROTECT, PAGE_BYTES, ProcessGone, Userfaultfd
from tests.local.region_process import DEADLINE_S, RegionProcess

THREADS = 40
"""More than one read of the descriptor gives."""


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region(THREADS)
    yield region
    region.close()


def mapped(memory: mmap.mmap) -> int:
    return address_of(memoryview(memory))


def store_from_threads(memory_fd: int, size_bytes: int, daemon: socket.socket) -> None:
    """Every thread stores to a page of its own, all at once: through ctypes, which lets go of the interpreter lock."""
    map_shared(memory_fd, size_bytes)
    faults = Userfaultfd()
    faults.register(BASE, size_bytes)
    socket.send_fds(daemon, [b"faults"], [faults.fd])
    store = ctypes.CDLL(None).memset
    store.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    threads = [
        threading.Thread(target=store, args=(BASE + number * PAGE_BYTES, number + 1, 1)) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_faults_of_many_threads_are_all_reported_and_each_is_served(region: Region) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            store_from_threads(region.memory_fd, region.size_bytes, theirs)
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        _, (fd,), _, _ = socket.recv_fds(ours, 16, 1)
        region.register(fd)
        waiting: set[int] = set()
        while len(waiting) < THREADS:
            assert select.select([fd], [], [], DEADLINE_S)[0], f"only {len(waiting)} faults came"
            for page, write in region.faults(fd):
                assert write
                waiting.add(page)
        assert region.faults(fd) == []
        for page in waiting:
            region.zero(page, writable=True)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    contents = os.pread(region.memory_fd, region.size_bytes, 0)
    assert [contents[page * PAGE_BYTES] for page in range(THREADS)] == [page + 1 for page in range(THREADS)]


def test_flags_tell_missing_from_protected_and_load_from_store(region: Region) -> None:
    with RegionProcess(region) as process:
        faults = Userfaultfd(os.dup(process.userfaultfd))
        seen = []
        for start in (process.start_load, lambda page: process.start_store(page, 1)):
            start(0)
            assert select.select([faults], [], [], DEADLINE_S)[0]
            ((address, flags),) = faults.read()
            assert address // PAGE_BYTES == BASE // PAGE_BYTES
            seen.append(flags)
            if len(seen) == 1:
                region.zero(0, writable=False)
                process.result()
        region.grant(0)
        process.result()
        process.start_store(1, 1)
        assert select.select([faults], [], [], DEADLINE_S)[0]
        seen.append(faults.read()[0][1])
        faults.close()
    assert seen == [0, FAULT_WRITE | FAULT_WRITE_PROTECT, FAULT_WRITE]


def test_reading_without_a_fault_is_empty_and_does_not_block(region: Region) -> None:
    with RegionProcess(region) as process:
        assert Userfaultfd(process.userfaultfd).read() == []


def test_a_page_that_is_there_is_not_copied_over(region: Region) -> None:
    with RegionProcess(region) as process:
        faults = Userfaultfd(process.userfaultfd)
        source = mmap.mmap(-1, PAGE_BYTES)
        source[:1] = b"a"
        assert faults.copy(BASE, mapped(source), protect=False, wake=True)
        source[:1] = b"b"
        assert not faults.copy(BASE, mapped(source), protect=False, wake=True)
        assert not faults.zero(BASE)
        assert process.load(0) == ord("a")


def test_a_process_that_ended_is_told_from_a_mistake(region: Region) -> None:
    with RegionProcess(region) as process:
        faults = Userfaultfd(process.userfaultfd)
        source = mmap.mmap(-1, PAGE_BYTES)
        with pytest.raises(UserfaultfdError, match=r"UFFDIO_COPY at 0x100000000001: Invalid argument") as mistake:
            faults.copy(BASE + 1, mapped(source), protect=False, wake=True)
        assert not isinstance(mistake.value, ProcessGone)
        os.kill(process.pid, signal.SIGKILL)
        process.exit_status()
        operations: list[Callable[[], object]] = [
            lambda: faults.copy(BASE, mapped(source), protect=True, wake=True),
            lambda: faults.zero(BASE),
            lambda: faults.write_protect(BASE),
            lambda: faults.write_unprotect(BASE, wake=True),
            lambda: faults.write_protect_range(BASE, 2 * PAGE_BYTES),
            lambda: faults.poison(BASE),
        ]
        for operation in operations:
            with pytest.raises(ProcessGone, match="No such process"):
                operation()
        faults.wake(BASE)  # waking nobody is no error


def test_memory_that_is_not_mapped_cannot_be_registered() -> None:
    faults = Userfaultfd()
    with pytest.raises(UserfaultfdError, match="UFFDIO_REGISTER at 0x100000000000"):
        faults.register(BASE, PAGE_BYTES)
    faults.close()


def test_a_kernel_without_a_feature_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(userfaultfd.FEATURES_NEEDED, "TELEPATHY", 1 << 60)
    open_before = os.listdir("/proc/self/fd")
    with pytest.raises(UserfaultfdError, match=r"(?s)lacks TELEPATHY \(features 0x.*Linux 5.19 is") as refused:
        Userfaultfd()
    assert refused.value.kind == "userfaultfd"
    assert os.listdir("/proc/self/fd") == open_before


def test_an_instruction_set_without_a_number_for_the_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfaultfd, "_SYSCALL", {})
    with pytest.raises(UnsupportedISA, match="userfaultfd system call is not known for"):
        Userfaultfd()
