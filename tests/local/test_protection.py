"""What one process may do with its memory, decided by another."""

import ctypes
import faulthandler
import mmap
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from guest.memory.protection import Protector, serve_protection
from guest.protocol.address_space import Access

PAGES = 4


class Application:
    """A process with some pages of memory, which stores to or loads from the one it is told; a wrong access ends it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            faulthandler.disable()
            ours.close()
            self._live(theirs)
        theirs.close()
        self.commands = ours
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        self.protector = Protector(socket.socket(fileno=fds[0]))
        self.address = int(ours.recv(32))

    def _live(self, commands: socket.socket) -> None:
        try:
            memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
            with serve_protection() as end:
                socket.send_fds(commands, [b"P"], [end.fileno()])
            commands.send(str(ctypes.addressof(ctypes.c_char.from_buffer(memory))).encode())
            while word := commands.recv(16):
                offset = int(word[1:]) * mmap.PAGESIZE
                if word[:1] == b"W":
                    memory[offset] = 7
                commands.send(b"%d" % memory[offset])
        finally:
            os._exit(0)

    def allow(self, page: int, access: Access) -> bool:
        return self.protector.allow(self.address + page * mmap.PAGESIZE, mmap.PAGESIZE, access)

    def does(self, word: str) -> int:
        """The value it found; or minus the number of the signal that ended it."""
        self.commands.send(word.encode())
        answer = self.commands.recv(16)
        return int(answer) if answer else os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def application() -> Iterator[Application]:
    process = Application()
    yield process
    process.commands.close()
    process.protector.close()


def test_what_is_allowed_can_be_done(application: Application) -> None:
    assert application.does("W1") == 7
    assert application.allow(1, Access.READ)
    assert application.does("R1") == 7
    assert application.allow(1, Access.WRITE)
    assert application.does("W1") == 7


@pytest.mark.parametrize(("access", "word"), [(Access.READ, "W2"), (Access.NONE, "R2"), (Access.NONE, "W2")])
def test_what_is_not_allowed_ends_the_process_and_the_neighbours_are_spared(
    application: Application, access: Access, word: str
) -> None:
    assert application.allow(2, access)
    assert [application.does("W1"), application.does("W3")] == [7, 7]
    assert application.does(word) == -signal.SIGSEGV


def test_a_process_that_is_gone_needs_no_protection(application: Application) -> None:
    application.commands.close()
    os.waitpid(application.pid, 0)
    assert not application.allow(0, Access.NONE)


def test_an_address_that_is_none_is_named() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send((-12).to_bytes(8, "little", signed=True))
        with pytest.raises(Exception, match=r"mprotect\(2\) of 4096 bytes at 0x10000: Cannot allocate memory"):
            Protector(ours).allow(0x10000, 4096, Access.NONE)
