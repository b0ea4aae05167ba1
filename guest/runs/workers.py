"""The processes of the operating system that run threads of a distributed process: served while they have one."""

import os
from socket import socket
from typing import TYPE_CHECKING

from guest.memory.protection import Protector
from guest.programs import application
from guest.runs.applications import Application, Applications

if TYPE_CHECKING:
    from guest.runs.process_part import ProcessPart


class Worker(Application):
    """A process of the operating system that runs threads."""

    def __init__(self, number: int, part: "ProcessPart") -> None:
        super().__init__(number)
        self.part = part
        """Its process."""
        self.space = part.space
        self.thread: int | None = None
        """The thread that it has, or whose placeholder it is; None in the pool."""
        self.served = False
        """Whether its faults are served."""
        self.newcomer: tuple[int, Protector] | None = None
        """Its userfaultfd and protector, until it is served for the first time."""

    @property
    def label(self) -> str:
        """The thread, as the program knows it."""
        of = f" of process {self.part.number}" if self.part.number else ""
        return f"{self.thread}{of}"

    @property
    def called(self) -> str:
        """See `Application.called`."""
        return super().called if self.thread is not None else "a process that waits for a thread"


class Workers(Applications[Worker]):
    """Those whose faults are served only when they have a thread."""

    def registers(self, each: Worker, userfaultfd: int, protection: socket | None) -> None:
        """It touches no memory before it has a thread: so it need not wait until it is served."""
        assert protection is not None
        each.newcomer = userfaultfd, Protector(protection)
        self.tell(each, application.REGISTERED)

    def serve(self, each: Worker) -> None:
        """Serve its faults from now on."""
        if each.served:
            return
        if each.newcomer is not None:
            (each.userfaultfd, protector), each.newcomer = each.newcomer, None
            self._daemon.attach(each.userfaultfd, each.faults, protector, each.space)
        elif each.userfaultfd is not None:
            self._daemon.resume(each.userfaultfd)
        each.served = True

    def suspend(self, each: Worker) -> None:
        """Serve them no more: it has no thread."""
        if each.served and each.userfaultfd is not None:
            self._daemon.suspend(each.userfaultfd, each.faults)
            each.served = False

    def dismiss(self, part: "ProcessPart") -> None:
        """End those of a process that is over; what was measured of them is kept."""
        ending = [each for each in self.all if each.part is part]
        self._launcher.end([each.number for each in ending])
        for each in ending:
            self.let_go(each)
            each.served = False
            self._close_newcomer(each)

    def close(self) -> None:
        """End all of them."""
        everyone = self.all
        super().close()
        for each in everyone:
            self._close_newcomer(each)

    def _close_newcomer(self, each: Worker) -> None:
        if each.newcomer is not None:
            (userfaultfd, protector), each.newcomer = each.newcomer, None
            os.close(userfaultfd)
            protector.close()
