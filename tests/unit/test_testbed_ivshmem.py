import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import ivshmem_server
from testbed.deadline import Deadline
from testbed.errors import HostError
from testbed.ivshmem_client import HostPeer
from testbed.ivshmem_server import WORD, Server

SIZE = 1 << 20
VECTORS = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shm0.sock"


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    made = Server(ivshmem_server.listen(str(path)), ivshmem_server.create_memory(SIZE), VECTORS)
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.stop()
    thread.join()
    os.close(made.memory)
    made.listener.close()


def rung(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_what_one_peer_writes_the_other_one_reads(server: Server, path: Path) -> None:
    with HostPeer(path, VECTORS) as one, HostPeer(path, VECTORS) as two:
        assert one.size_bytes == two.size_bytes == SIZE
        one.memory[4096:4101] = b"hello"
        assert bytes(two.memory[4096:4101]) == b"hello"
        assert bytes(two.memory[:8]) == bytes(8)


def test_a_doorbell_rings_one_vector_of_one_peer(server: Server, path: Path) -> None:
    with HostPeer(path, VECTORS) as one, HostPeer(path, VECTORS) as two, HostPeer(path, VECTORS) as three:
        three.ring(one.peer, 1)
        three.ring(two.peer)
        assert [rung(bell) for bell in one.own_doorbells] == [False, True, False]
        assert [rung(bell) for bell in two.own_doorbells] == [True, False, False]
        assert [rung(bell) for bell in three.own_doorbells] == [False, False, False]
        with pytest.raises(IndexError):
            three.ring(one.peer, VECTORS)
        with pytest.raises(KeyError):
            three.ring(99)


def test_those_already_there_learn_of_a_newcomer_and_of_its_end(server: Server, path: Path) -> None:
    with HostPeer(path, VECTORS) as one:
        assert one.doorbells == {}
        two = HostPeer(path, VECTORS)
        until(one, lambda: len(one.doorbells.get(two.peer, [])) == VECTORS)
        one.ring(two.peer, 2)
        assert rung(two.own_doorbells[2])
        two.close()
        until(one, lambda: two.peer not in one.doorbells)


def until(peer: HostPeer, condition: object) -> None:
    """Lets `peer` take in what the server says until `condition` holds."""
    assert callable(condition)
    deadline = Deadline(10)
    while not condition():
        assert not deadline.expired
        select.select([peer._socket], [], [], 0.05)  # the server may have spoken before it did what it said
        peer.refresh()


def test_an_id_is_not_given_to_the_next_one_at_once(server: Server, path: Path) -> None:
    with HostPeer(path, VECTORS) as one:
        left = one.peer
    with HostPeer(path, VECTORS) as two:
        assert two.peer != left


def test_ids_stay_within_the_doorbell_register(server: Server, path: Path) -> None:
    server.next_number = ivshmem_server.PEERS_MAX - 1
    with HostPeer(path, VECTORS) as one, HostPeer(path, VECTORS) as two:
        assert (one.peer, two.peer) == (ivshmem_server.PEERS_MAX - 1, 0)


def test_a_peer_that_does_not_read_holds_up_nobody(server: Server, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(path))
        for _ in range(400):  # more than its socket takes: 400 × (3 vectors and an end)
            with HostPeer(path, VECTORS) as peer:
                assert len(peer.own_doorbells) == VECTORS


def test_descriptors_are_given_back(server: Server, path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what other tests have left to the collector is closed now, and not in the middle of this one
    with HostPeer(path, VECTORS):
        pass
    with HostPeer(path, VECTORS) as watcher:
        until(watcher, lambda: watcher.peer in server.peers and len(server.peers) == 1)  # the first has been seen off
        before = count()
        for _ in range(20):
            with HostPeer(path, VECTORS) as peer:
                last = peer.peer
        until(
            watcher, lambda: last not in watcher.doorbells and watcher.peer in server.peers and len(server.peers) == 1
        )
        assert count() == before


def test_the_memory_cannot_be_cut_off_under_the_others(server: Server, path: Path) -> None:
    with HostPeer(path, VECTORS) as one, pytest.raises(PermissionError):
        os.ftruncate(one.memory_fd, 4096)


def test_nobody_else_may_connect(server: Server, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([1], "speaks version 1, expected 0"),
        ([0, 7, 5], "sent 5 without the memory, expected -1 with it"),
        ([0, 7, -1], "sent -1 without the memory"),
        ([0], "closed the connection"),
    ],
)
def test_a_server_that_speaks_something_else_is_refused(path: Path, said: list[int], message: str) -> None:
    with ivshmem_server.listen(str(path)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"".join(WORD.pack(word) for word in said))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(HostError, match=message):
            HostPeer(path, VECTORS)
        thread.join()


def test_a_server_that_hangs_is_told_by_the_deadline(path: Path) -> None:
    with ivshmem_server.listen(str(path)), pytest.raises(HostError, match=r"did not answer in 0\.05 s"):
        HostPeer(path, VECTORS, Deadline(0.05))


def test_no_server_is_a_failure_with_a_hint(path: Path) -> None:
    with pytest.raises(HostError, match="No such file or directory") as caught:
        HostPeer(path, VECTORS)
    assert "testbed ps" in caught.value.hint


def test_the_program_serves_until_it_is_told_to_end_and_removes_its_socket(path: Path) -> None:
    with ivshmem_server.listen(str(path)) as listener:
        argv = [sys.executable, "-I", "-S", ivshmem_server.__file__, "--socket", str(path)]
        argv += ["--size", str(SIZE), "--vectors", str(VECTORS), "--listener", str(listener.fileno())]
        program = subprocess.Popen(argv, pass_fds=[listener.fileno()])
    # Nobody waits for it to be there: the socket listens since before it was started.
    with HostPeer(path, VECTORS) as one, HostPeer(path, VECTORS) as two:
        assert one.peer != two.peer
    program.send_signal(signal.SIGTERM)
    assert program.wait(10) == 0
    assert not path.exists()
