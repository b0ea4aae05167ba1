"""A process that has a region mapped and touches it when told to, for the tests."""

import faulthandler
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from guest.memory.protection import Protector, serve_protection
from guest.memory.region import BASE, Region, map_shared
from guest.memory.userfaultfd import PAGE_BYTES, Userfaultfd
from guest.programs.lost_pages import survive_lost_pages

DEADLINE_S = 10.0
NOBODY = 65534

_COMMAND = struct.Struct("<cQB")


class RegionProcess:
    """A forked process, registered with `region`. It loads and stores single bytes; a fault stops it until served."""

    def __init__(self, region: Region, user: int | None = None, survives: bool = False, space: int = 0) -> None:
        """`user`: the id it runs as. `survives`: it puts pages of zeros in the place of lost ones. `space`: the number
        of its address space."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            size_bytes = region.span * PAGE_BYTES
            memory = lambda: map_shared(region.memory_fd, size_bytes, offset=space * size_bytes)  # noqa: E731
            self._live(theirs, memory, user, survives)
        theirs.close()
        self._region = region
        self._exit: int | None = None
        _, fds, _, _ = socket.recv_fds(self._socket, 16, 2)
        assert fds, f"the process could not register: {self.exit_status()}"
        self._kept, self._protection = fds[0], socket.socket(fileno=fds[1])
        self.userfaultfd = os.dup(self._kept)
        region.register(self.userfaultfd, Protector(self._protection.dup()), space)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self.userfaultfd in self._region.descriptors:
            self._region.unregister(self.userfaultfd)
        os.close(self._kept)
        self._protection.close()
        self._socket.close()

    def serve(self) -> None:
        """Have it served again, after `suspend`."""
        self._region.resume(self.userfaultfd)

    def suspend(self) -> None:
        """Have it served no more, though it lives; it touches nothing until `serve`."""
        self._region.suspend(self.userfaultfd)

    def start_load(self, page: int, offset: int = 0) -> None:
        self._socket.send(_COMMAND.pack(b"L", page * PAGE_BYTES + offset, 0))

    def start_store(self, page: int, value: int, offset: int = 0) -> None:
        self._socket.send(_COMMAND.pack(b"S", page * PAGE_BYTES + offset, value))

    def result(self) -> int:
        """What the access started last has read; or what lies there after it has written."""
        assert select.select([self._socket], [], [], DEADLINE_S)[0], "the access did not end"
        answer = self._socket.recv(1)
        assert answer, f"the process has ended: {self.exit_status()}"
        return answer[0]

    def load(self, page: int, offset: int = 0) -> int:
        """A load that must not fault."""
        self.start_load(page, offset)
        return self._result_without_fault()

    def store(self, page: int, value: int, offset: int = 0) -> None:
        """A store that must not fault."""
        self.start_store(page, value, offset)
        assert self._result_without_fault() == value

    def fault(self) -> tuple[int, bool]:
        """The fault that the access started last takes: page, and whether it is a write."""
        assert select.select([self.userfaultfd], [], [], DEADLINE_S)[0], "no fault came"
        (fault,) = self._region.faults(self.userfaultfd)
        assert not select.select([self._socket], [], [], 0)[0], "the access ended although it faulted"
        return fault

    def kill(self) -> None:
        if self._exit is None:
            os.kill(self.pid, signal.SIGKILL)
            self.exit_status()

    def exit_status(self) -> int:
        """The exit code, or minus the number of the signal that killed it. Waits for the end."""
        if self._exit is None:
            self._exit = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._exit

    def _result_without_fault(self) -> int:
        ready = select.select([self._socket.fileno(), self.userfaultfd], [], [], DEADLINE_S)[0]
        assert self.userfaultfd not in ready, f"unexpected fault {self._region.faults(self.userfaultfd)}"
        return self.result()

    @staticmethod
    def _live(commands: socket.socket, mapped: Callable[[], memoryview], user: int | None, survives: bool) -> None:
        status = 1
        faulthandler.disable()  # the test runner's, which would report every SIGBUS that is meant to come
        try:
            if user is not None:
                os.setuid(user)
            memory = mapped()
            size_bytes = memory.nbytes
            faults = Userfaultfd()
            faults.register(BASE, size_bytes)
            with serve_protection() as protection:
                socket.send_fds(commands, [b"faults"], [faults.fd, protection.fileno()])
            if survives:
                survive_lost_pages(BASE, size_bytes, lambda _page: None)
            while packet := commands.recv(_COMMAND.size):
                kind, offset, value = _COMMAND.unpack(packet)
                if kind == b"S":
                    memory[offset] = value
                commands.send(bytes([memory[offset]]))
            status = 0
        finally:
            os._exit(status)
