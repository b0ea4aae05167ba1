"""The host's own place on an ivshmem link: a peer like the guests, which has the memory and everybody's doorbells."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.deadline import Deadline
from testbed.errors import HostError
from testbed.ivshmem_server import MEMORY, VERSION, WORD

ANSWER_S = 10.0
"""The server answers in a millisecond; later than this it hangs."""


class HostPeer:
    """Joins the link's server at `path`. Raises HostError when it does not answer as the protocol says.

    `memory_fd` is the shared memory and `memory` its mapping; `peer` is the host's own id on the link, `doorbells` maps
    the ids of the other peers to the eventfds of their vectors (see `refresh`), `own_doorbells` are rung by the others.
    """

    def __init__(self, path: Path, vectors: int, deadline: Deadline | None = None) -> None:
        self.path = path
        self.doorbells: dict[int, list[int]] = {}
        self.own_doorbells: list[int] = []
        self.memory_fd = -1
        self._mapping: mmap.mmap | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._join(vectors, deadline or Deadline(ANSWER_S))
        except BaseException:
            self.close()
            raise

    def _join(self, vectors: int, deadline: Deadline) -> None:
        try:
            self._socket.connect(str(self.path))
        except OSError as error:
            raise HostError(
                f"ivshmem server at {self.path}: {error}", "is the testbed still up? `testbed ps` shows it"
            ) from error
        version, _ = self._receive(deadline)
        if version != VERSION:
            raise HostError(f"ivshmem server at {self.path} speaks version {version}, expected {VERSION}")
        self.peer, _ = self._receive(deadline)
        word, memory = self._receive(deadline)
        if word != MEMORY or memory is None:
            raise HostError(f"ivshmem server at {self.path} sent {word} without the memory, expected {MEMORY} with it")
        self.memory_fd = memory
        while len(self.own_doorbells) < vectors:
            self._take(*self._receive(deadline))

    def _receive(self, deadline: Deadline) -> tuple[int, int | None]:
        data, descriptors = b"", []
        while len(data) < WORD.size:
            self._socket.settimeout(max(deadline.remaining(), 0.001))
            try:
                part, received, _, _ = socket.recv_fds(self._socket, WORD.size - len(data), 1)
            except TimeoutError:
                raise HostError(f"ivshmem server at {self.path} did not answer in {deadline.seconds:g} s") from None
            descriptors += received
            if not part:
                raise HostError(f"ivshmem server at {self.path} closed the connection")
            data += part
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return WORD.unpack(data)[0], descriptors[0] if descriptors else None

    def _take(self, peer: int, descriptor: int | None) -> None:
        if descriptor is None:
            for left in self.doorbells.pop(peer, []):
                os.close(left)
        elif peer == self.peer:
            self.own_doorbells.append(descriptor)
        else:
            self.doorbells.setdefault(peer, []).append(descriptor)

    def refresh(self) -> None:
        """Takes note of peers that came and left since. Never blocks for longer than a message takes to arrive."""
        while select.select([self._socket], [], [], 0)[0]:
            self._take(*self._receive(Deadline(ANSWER_S)))

    @property
    def size_bytes(self) -> int:
        """Size of the memory."""
        return os.fstat(self.memory_fd).st_size

    @property
    def memory(self) -> memoryview:
        """The shared memory, writable, mapped when first asked for."""
        if self._mapping is None:
            self._mapping = mmap.mmap(self.memory_fd, self.size_bytes)
        return memoryview(self._mapping)

    def ring(self, peer: int, vector: int = 0) -> None:
        """Rings a doorbell of a peer. Raises KeyError when there is no such peer, IndexError when no such vector."""
        with contextlib.suppress(BlockingIOError):  # the counter is full: it has been rung
            os.eventfd_write(self.doorbells[peer][vector], 1)

    def close(self) -> None:
        """Leaves the link. Views of the memory keep the mapping alive, and nothing else."""
        self._socket.close()
        for descriptor in [*self.own_doorbells, *(fd for fds in self.doorbells.values() for fd in fds)]:
            os.close(descriptor)
        self.own_doorbells, self.doorbells = [], {}
        if self._mapping is not None:
            with contextlib.suppress(BufferError):
                self._mapping.close()
            self._mapping = None
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
