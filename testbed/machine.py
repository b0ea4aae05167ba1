"""A running testbed: its nodes, ways into them, its shared memory, and its end."""

from __future__ import annotations

import contextlib
import functools
import importlib
import shlex
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from testbed import record, sockets, ssh_config, teardown
from testbed.console import Console
from testbed.deadline import Deadline
from testbed.errors import Failure, GuestError, NoTestbed
from testbed.ivshmem_client import HostPeer
from testbed.monitor import HELD, Monitor
from testbed.process import arguments_of
from testbed.record import NodeRecord, Record
from testbed.spec import SHARED, Accelerator, NodeSpec, TestbedSpec

if TYPE_CHECKING:
    from testbed.shell import Shell


def console_log(directory: Path, node: str) -> Path:
    """Where a node's console is logged to."""
    return directory / f"{node}.console"


def domain_file(directory: Path, node: str) -> Path:
    """Where a node's domain XML is kept."""
    return directory / f"{node}.xml"


def overlay(directory: Path, node: str) -> Path:
    """The disk of a node that boots from a cloud image: what it has written."""
    return directory / f"{node}.qcow2"


STATUS_S = 0.5
"""A question on the way to something else must not wait for a monitor that somebody uses."""


@dataclass(frozen=True)
class Node:
    """One machine that has been started."""

    testbed: str
    spec: NodeSpec
    record: NodeRecord
    directory: Path

    @property
    def name(self) -> str:
        """Its name, which is its host name too."""
        return self.spec.name

    @property
    def arch(self) -> str:
        """Its instruction set, as in `uname -m`."""
        return self.spec.arch

    @property
    def accelerator(self) -> Accelerator:
        """What runs its instructions: KVM or TCG."""
        return self.record.accelerator or self.spec.accelerator

    @property
    def accelerator_reason(self) -> str:
        """Why it is that one."""
        return self.record.accelerator_reason

    @property
    def warm(self) -> bool:
        """Whether it was started from a saved state, and so has the resident program of that in it."""
        return self.record.warm

    @property
    def warm_reason(self) -> str:
        """Which state it was, or why none."""
        return self.record.warm_reason

    @property
    def boot_s(self) -> float | None:
        """Seconds from the machine's start to its SSH banner; None when it did not come that far."""
        return self.record.boot_s

    @property
    def stages(self) -> Mapping[str, float]:
        """The stages of its boot, each with the guest's own uptime in seconds."""
        return self.record.stages

    @property
    def console(self) -> Path:
        """The log of its serial console."""
        return console_log(self.directory, self.name)

    @property
    def domain_xml(self) -> str:
        """What libvirt was given; "" when it did not come that far."""
        file = domain_file(self.directory, self.name)
        try:
            return file.read_text()
        except FileNotFoundError:  # or no longer there: another process may be taking the testbed down
            return ""

    @property
    def command_line(self) -> str:
        """QEMU's command line while it runs, else ""."""
        return shlex.join(arguments_of(self.record.qemu.pid)) if self.alive and self.record.qemu else ""

    @property
    def alive(self) -> bool:
        """Whether its QEMU process runs."""
        return self.record.qemu is not None and self.record.qemu.alive()

    def check(self, wait_s: float = 0.0) -> None:
        """Raises GuestError with its last words when the machine has ended or its kernel has panicked. One that may be
        about to end is given `wait_s` for that."""
        if wait_s and self.record.qemu is not None:
            self.record.qemu.await_end(wait_s)
        alive = self.alive  # before its console: nothing is said any more behind what is read of one that has ended
        console = Console(self.console)
        console.update()
        if alive and not console.panic:
            return
        what = f"panicked: {console.panic}" if console.panic else "has ended"
        tail = "\n".join(f"    {line}" for line in console.tail())
        raise GuestError(
            f"node {self.name} ({self.arch}, {self.accelerator}) {what}\n  last lines of its console:\n{tail}",
            f"`testbed down {self.testbed}` removes what is left of the testbed",
        )

    @staticmethod
    def prepare_shell() -> None:
        """Loads what `shell` needs in the background: a good use of the time that a guest takes to come up."""
        threading.Thread(target=importlib.import_module, args=("testbed.shell",), name="shell", daemon=True).start()

    def shell(self, deadline: Deadline | None = None) -> Shell:
        """A new SSH connection for programs. Raises GuestError when the guest is gone or does not let us in."""
        # Imported here: paramiko takes half a second, and most commands never open a shell.
        from testbed.shell import Shell

        return Shell(self.name, self._port(), self.directory, deadline)

    def ssh_command(self, line: str = "") -> list[str]:
        """The command line of the real ssh into this node, whose shell runs `line`; it is interactive without one."""
        self._port()
        self._check_awake()
        return ssh_config.command(record.directory(self.testbed), f"{self.name}.{self.testbed}", line)

    def monitor(self, deadline: Deadline | None = None) -> Monitor:
        """A connection to the machine's monitor. Raises GuestError when it has ended or does not answer."""
        self.check()
        return Monitor(self.name, sockets.monitor(self.directory, self.name), deadline)

    def _check_awake(self) -> None:
        """Raises GuestError when somebody holds the machine: whoever logs in would wait without a word."""
        try:
            with self.monitor(Deadline(STATUS_S)) as monitor:
                status = monitor.status
        except GuestError:
            return  # the monitor is taken: then ssh has to find out
        if status in HELD:
            raise GuestError(
                f"node {self.name} is {status}",
                f"`testbed fault resume {self.name}.{self.testbed}`, or let gdb go of it",
            )

    def _port(self) -> int:
        self.check()
        if self.record.ssh_port is None:
            raise GuestError(
                f"node {self.name} was not started completely",
                f"`testbed down {self.testbed}` removes what is left of it",
            )
        return self.record.ssh_port


class Testbed:
    """What `up` has started or `find` has found. As a context manager it is taken down at the end."""

    __test__ = False  # not a test, whatever its name begins with

    def __init__(self, record: Record) -> None:
        self.record = record

    @property
    def name(self) -> str:
        """Unique among this user's testbeds."""
        return self.record.spec.name

    @property
    def spec(self) -> TestbedSpec:
        """What it was to be."""
        return self.record.spec

    @property
    def run_directory(self) -> Path:
        """Its sockets, keys, consoles; gone after `down`."""
        return self.record.run_directory

    @functools.cached_property
    def nodes(self) -> dict[str, Node]:
        """By name, in the order of the specification."""
        record = self.record
        return {
            node.name: Node(self.name, node, record.nodes[node.name], record.run_directory)
            for node in record.spec.nodes
        }

    @property
    def ssh_config(self) -> Path:
        """A file for `ssh -F`, or for an Include in one's own configuration: nodes are called NODE.TESTBED in it."""
        return record.directory(self.name) / ssh_config.CONFIG

    @property
    def is_ending(self) -> bool:
        """Whether somebody takes it down, or has: its machines do not end by themselves."""
        return record.is_ending(self.name)

    def segment(self, link_name: str) -> HostPeer:
        """Joins a link's shared memory as a peer of the guests. Raises Failure for other links, or HostError."""
        link = next((link for link in self.spec.links if link.name == link_name), None)
        if link is None or link.kind not in SHARED:
            shared = [link.name for link in self.spec.links if link.kind in SHARED]
            raise Failure(
                f"testbed {self.name}: no shared memory {link_name!r}, expected of {', '.join(shared) or 'none'}"
            )
        return HostPeer(sockets.server(self.run_directory, link_name), link.vectors)

    def collect(self, target: Path) -> None:
        """Copies what tells what happened into `target`: consoles, domain XML, logs with the command lines."""
        target.mkdir(parents=True, exist_ok=True)
        found = [file for pattern in ("*.console", "*.xml", "*.log") for file in self.run_directory.glob(pattern)]
        for file in (*found, *self.run_directory.glob("l/log/qemu/*.log")):
            shutil.copyfile(file, target / file.name)

    def keep(self) -> None:
        """From now on it is meant to outlive the process that started it."""
        self.record = replace(self.record, kept=True)
        with contextlib.suppress(FileNotFoundError):  # `testbed down` of another command came first
            record.write(self.record)

    def down(self, say: Callable[[str], None] = lambda _line: None) -> None:
        """Ends all of its processes and removes all of its files, unless another command has. Raises HostError when
        something would not go."""
        with contextlib.suppress(NoTestbed):
            teardown.down(self.name, say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
