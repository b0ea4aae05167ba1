"""What a thread and its daemon say to each other about a wait."""

from collections.abc import Callable, Iterator
from ctypes import addressof, c_uint64
from socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair
from unittest.mock import patch

import pytest

from guest.link.segment import PAGE_BYTES
from guest.memory.region import BASE
from guest.programs import surroundings
from guest.programs.surroundings import CoherentSurroundings, Detached
from guest.synchronization import Counter, Event, Mutex, WaitBroken, surround


class Daemon:
    """Answers that are ready before anybody asks."""

    def __init__(self) -> None:
        self.own, self.thread = socketpair(AF_UNIX, SOCK_SEQPACKET)
        self.words = (c_uint64 * 4)()
        self.address = addressof(self.words)

    def will_say(self, *packets: bytes) -> None:
        for packet in packets:
            self.own.send(packet)

    def heard(self) -> list[bytes]:
        self.own.setblocking(False)
        packets = []
        while True:
            try:
                packets.append(self.own.recv(64))
            except BlockingIOError:
                return packets


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    surround(CoherentSurroundings(daemon.thread, ()))
    yield daemon
    surround(None)
    daemon.own.close()
    daemon.thread.close()


def test_a_thread_that_waits_is_queued_and_looks_again_when_it_is_woken(daemon: Daemon) -> None:
    daemon.will_say(surroundings.QUEUED, surroundings.WOKEN, surroundings.QUEUED, surroundings.LOST + b"3")
    with pytest.raises(WaitBroken, match="kernel 3 died, and what this thread waits for may have died with it"):
        Event(daemon.address).wait()
    asked = surroundings.WAIT + b"%d 1" % daemon.address
    assert daemon.heard() == [asked, asked]


@pytest.mark.parametrize(
    "use",
    [Event.is_set, Event.set, Event.wait, lambda event: Counter(event.address).add()],
    ids=["looks", "sets", "waits", "adds"],
)
def test_a_word_whose_page_was_lost_is_nothing_to_synchronise_with(
    daemon: Daemon, use: Callable[[Event], object]
) -> None:
    """There are zeros in its place, which say that a mutex is free."""
    page = (daemon.address - BASE) // PAGE_BYTES
    surround(CoherentSurroundings(daemon.thread, {page + 1}))
    use(Event(daemon.address)) if use is not Event.wait else None
    surround(CoherentSurroundings(daemon.thread, {page}))
    with pytest.raises(WaitBroken, match=f"a kernel died with the only valid copy of page {page}"):
        use(Event(daemon.address))


def test_a_wait_is_refused_at_once_when_a_kernel_has_died(daemon: Daemon) -> None:
    daemon.will_say(surroundings.LOST + b"0")
    with pytest.raises(WaitBroken, match="kernel 0 died"):
        Event(daemon.address).wait()


@pytest.mark.parametrize("last", [surroundings.WOKEN, surroundings.LOST + b"1"])
def test_who_need_not_wait_says_so_and_leaves_no_word_behind(daemon: Daemon, last: bytes) -> None:
    daemon.will_say(surroundings.QUEUED, last)
    here = CoherentSurroundings(daemon.thread, ())
    looks = iter([0, 1])
    surround(here)
    with patch.object(here, "load", lambda _: next(looks)):
        Event(daemon.address).wait()
    assert daemon.heard()[1:] == [surroundings.CANCEL]
    daemon.thread.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.thread.recv(1)


def test_who_releases_wakes_only_somebody_who_waits(daemon: Daemon) -> None:
    mutex = Mutex(daemon.address)
    with mutex:
        pass
    assert daemon.heard() == []
    mutex.acquire()
    Mutex(daemon.address).enqueue()
    mutex.release()
    assert daemon.heard() == [surroundings.WAKE + b"%d 2" % (daemon.address + 8)]


def test_a_daemon_that_is_gone_ends_the_thread(daemon: Daemon) -> None:
    daemon.own.close()
    daemon.own = socket(AF_UNIX)
    with pytest.raises((Detached, ConnectionError)):
        Event(daemon.address).wait()
