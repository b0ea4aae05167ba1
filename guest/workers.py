"""The processes of the operating system that run threads of a distributed process: served while they have one."""

import os
from collections.abc import Callable
from socket import socket

from guest import application
from guest.applications import Application, Applications
from guest.protection import Protector
from guest.region import Held


class Worker(Application):
    """A process of the operating system that runs threads."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.thread: int | None = None
        """The thread that it has, or whose placeholder it is; None in the pool."""
        self.faults_fd: int | None = None
        self.protection: socket | None = None
        self.held: Held | None = None
        """What it held to when its faults were served last."""


class Workers(Applications[Worker]):
    """Those whose faults are served only when they have a thread."""

    ready: Callable[[Worker], None]

    def registers(self, each: Worker, userfaultfd: int, protection: socket | None) -> None:
        """It waits in the pool from now on."""
        each.faults_fd, each.protection = userfaultfd, protection
        self.ready(each)

    def serve(self, each: Worker) -> None:
        """Serve its faults from now on."""
        if each.userfaultfd is not None:
            return
        assert each.faults_fd is not None
        assert each.protection is not None
        each.userfaultfd = os.dup(each.faults_fd)
        protector = Protector(each.protection.dup())
        self._daemon.attach(each.userfaultfd, each.faults, protector, each.held)
        if each.held is None:
            self.tell(each, application.REGISTERED)

    def suspend(self, each: Worker) -> None:
        """Serve them no more: it has no thread."""
        if each.userfaultfd is not None:
            each.held = self._daemon.detach(each.userfaultfd, each.faults)
            each.userfaultfd = None

    def close(self) -> None:
        """End all of them."""
        everyone = self.all
        super().close()
        for each in everyone:
            if each.faults_fd is not None:
                os.close(each.faults_fd)
            if each.protection is not None:
                each.protection.close()
