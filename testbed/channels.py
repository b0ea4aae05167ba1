"""An SSH channel as the standard library's files.

paramiko's own files cannot be left to the garbage collector: collected in a cycle (the frames of an exception are one),
the buffer of such a file may be closed before the file that flushes it, and Python prints a traceback nobody asked for.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    import paramiko
    from _typeshed import ReadableBuffer, WriteableBuffer


class _Output(io.RawIOBase):
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._channel.recv(len(view))
        view[: len(data)] = data
        return len(data)


class _Input(io.RawIOBase):
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        if self.closed:
            raise ValueError("write to a closed file")
        self._channel.sendall(bytes(data))
        return memoryview(data).nbytes

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError, EOFError):  # whoever reads is gone already
                self._channel.shutdown_write()
        super().close()


def reader(channel: paramiko.Channel) -> BinaryIO:
    """What the other end writes, buffered; it ends where the channel does."""
    return io.BufferedReader(_Output(channel))


def writer(channel: paramiko.Channel) -> BinaryIO:
    """What the other end reads, unbuffered: a write has been sent as a whole. Closing it is its end of file."""
    return cast(BinaryIO, _Input(channel))
