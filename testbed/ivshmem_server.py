"""The server of an ivshmem link: hands the memory and everybody's doorbells to each machine that connects.

    python -m testbed.ivshmem_server --socket PATH --size BYTES --vectors N [--listener FD] [--memory FD]

Machines on a plain link do not connect: they open the memory that it holds (man 5 proc, /proc/PID/fd).

Protocol (QEMU, docs/specs/ivshmem-spec.txt, "Client-Server protocol"): a unix stream socket, words of 8 bytes, signed,
little endian, some with a descriptor. A new peer gets the protocol version 0, its id, -1 with the memory; then for
every other peer that peer's id once for each of its vectors, each time with the eventfd that rings it; then its own
vectors likewise. The others are told of the newcomer's vectors, and of its end by its id without a descriptor.

Standard library only and nothing of ours: it starts in the time of a bare interpreter, and lives with the testbed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from types import FrameType

VERSION = 0
MEMORY = -1
WORD = struct.Struct("<q")
PEERS_MAX = 65536
"""Ids are 16 bits wide in the doorbell register."""


class Peer:
    """One connected machine. What it has not taken yet waits here: no peer can hold up another one."""

    def __init__(self, number: int, connection: socket.socket, vectors: int) -> None:
        self.number = number
        self.connection = connection
        self.doorbells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(vectors)]
        self.waiting: collections.deque[tuple[int, int | None]] = collections.deque()

    def flush(self) -> None:
        """Sends what the socket takes. Raises OSError when the peer is gone."""
        while self.waiting:
            word, descriptor = self.waiting[0]
            try:
                if descriptor is None:
                    self.connection.send(WORD.pack(word))
                else:
                    socket.send_fds(self.connection, [WORD.pack(word)], [descriptor])
            except BlockingIOError:
                return
            self.waiting.popleft()

    def close(self) -> None:
        """Gives its descriptors back; peers that were sent one have a copy of their own."""
        self.connection.close()
        for doorbell in self.doorbells:
            os.close(doorbell)


class Server:
    """Serves `listener` until `stop`. `memory` is a descriptor."""

    def __init__(self, listener: socket.socket, memory: int, vectors: int) -> None:
        self.listener = listener
        self.vectors = vectors
        self.peers: dict[int, Peer] = {}
        self.next_number = 0
        self.memory = memory
        self.selector = selectors.DefaultSelector()
        self.running = True
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, None)
        # A signal must end `select` even when it arrives just before it.
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.wake_read, selectors.EVENT_READ, self.wake_read)

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Makes `serve` return; may be called from a signal handler."""
        self.running = False
        os.write(self.wake_write, b"\0")

    def serve(self) -> None:
        """Returns after `stop`."""
        while self.running:
            for key, events in self.selector.select():
                if key.data is None:
                    self._accept()
                elif isinstance(key.data, Peer) and key.data.number in self.peers:
                    self._attend(key.data, events)
        for peer in self.peers.values():
            peer.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self._join(connection)

    def _free_number(self) -> int:
        # Ids count up, so that a late doorbell for one that left does not ring its successor.
        while self.next_number in self.peers:
            self.next_number = (self.next_number + 1) % PEERS_MAX
        number = self.next_number
        self.next_number = (number + 1) % PEERS_MAX
        return number

    def _join(self, connection: socket.socket) -> None:
        others = list(self.peers.values())
        peer = Peer(self._free_number(), connection, self.vectors)
        self.peers[peer.number] = peer
        self.selector.register(connection, selectors.EVENT_READ, peer)
        peer.waiting.extend([(VERSION, None), (peer.number, None), (MEMORY, self.memory)])
        for other in others:
            peer.waiting.extend((other.number, doorbell) for doorbell in other.doorbells)
            other.waiting.extend((peer.number, doorbell) for doorbell in peer.doorbells)
        # Its own come last: by them it knows that it has heard of everybody.
        peer.waiting.extend((peer.number, doorbell) for doorbell in peer.doorbells)
        for each in (*others, peer):
            self._flush(each)

    def _attend(self, peer: Peer, events: int) -> None:
        if events & selectors.EVENT_READ:
            # Peers have nothing to say: something readable is the end of the connection.
            try:
                gone = not peer.connection.recv(WORD.size)
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            if gone:
                self._leave(peer)
                return
        self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        if peer.number not in self.peers:
            return
        try:
            peer.flush()
        except OSError:
            self._leave(peer)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.waiting else 0)
        self.selector.modify(peer.connection, events, peer)

    def _leave(self, peer: Peer) -> None:
        del self.peers[peer.number]
        self.selector.unregister(peer.connection)
        others = list(self.peers.values())
        for other in others:
            # What was not sent yet must not refer to descriptors that are closed now.
            unsent = [message for message in other.waiting if message[1] is None or message[1] not in peer.doorbells]
            other.waiting = collections.deque([*unsent, (peer.number, None)])
        peer.close()
        for other in others:
            self._flush(other)


def create_memory(size_bytes: int) -> int:
    """The descriptor of a memfd: nothing of it can stay behind in a file system. Raises OSError."""
    memory = os.memfd_create("ivshmem", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, size_bytes)
    # Nobody can cut the memory off under the others, who would die of it.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return memory


def listen(path: str) -> socket.socket:
    """A listening socket at `path` that this user alone can connect to. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(64)
    return listener


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.ivshmem_server", description="server of an ivshmem link")
    parser.add_argument("--socket", required=True, help="path of the unix socket; it is removed at the end")
    parser.add_argument("--size", required=True, type=int, help="bytes of shared memory")
    parser.add_argument("--vectors", required=True, type=int, help="doorbell interrupts of each peer")
    parser.add_argument("--listener", type=int, help="descriptor that listens at the path already")
    parser.add_argument("--memory", type=int, help="descriptor of the memory, if there is one already")
    options = parser.parse_args()
    # Descriptors under way count against this limit too: peers × vectors of them when many machines start at once.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = listen(options.socket) if options.listener is None else socket.socket(fileno=options.listener)
    memory = create_memory(options.size) if options.memory is None else options.memory
    server = Server(listener, memory, options.vectors)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    server.serve()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(options.socket)  # noqa: PTH108 -- pathlib costs a third of its start
    return 0


if __name__ == "__main__":
    sys.exit(main())
