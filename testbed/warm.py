"""Starting from saved states: which nodes can, and making the states that are missing.

A guest is saved before it is anybody (see images/files/await-identity) and before it is on any link: QEMU refuses to
save a machine with shared memory. What is restored from the state has the devices of its links from the start of its
QEMU, and finds them by looking at its PCI bus again.
"""

from __future__ import annotations

import shlex
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from images import Image, boot_archive, seed_archive
from testbed import keys, network, process, readiness, states
from testbed.console import Console
from testbed.deadline import BOOT_S, Deadline
from testbed.domain import Domain, render
from testbed.driver import process_of
from testbed.errors import GuestError
from testbed.host import build_of
from testbed.identity import WAITING
from testbed.launcher import Launcher, Order, Save
from testbed.states import Resident, State


class Mode(StrEnum):
    """What is asked for: to boot, to go on from saved states where there are some, or to make them if need be."""

    COLD = "cold"
    AUTO = "auto"
    WARM = "warm"

    @classmethod
    def wanted(cls, warm: bool | None) -> Mode:
        """By an option with two words: neither of them is AUTO."""
        return cls.AUTO if warm is None else cls.WARM if warm else cls.COLD


@dataclass(frozen=True)
class Way:
    """How a node starts: from `state`, or by booting if there is none; and the reason, fit to be shown."""

    state: State | None
    reason: str

    @property
    def warm(self) -> bool:
        """Whether it starts from a saved state."""
        return self.state is not None


def resumed(domain: Domain, socket: Path) -> Domain:
    """The machine of `domain`, to go on from a state."""
    return replace(domain, arguments=(*domain.arguments, "-incoming", f"unix:{socket}"))


@dataclass(frozen=True)
class Template:
    """A machine whose state is to be saved, for a node called `node` and all others that are like it."""

    node: str
    domain: Domain
    key: str
    image: Image
    resident: Resident | None

    @classmethod
    def of(cls, node: str, domain: Domain, directory: Path, image: Image, resident: Resident | None) -> Template:
        """The node's machine without its links."""
        alone = replace(
            domain,
            name=f"{domain.name}-state",
            uuid=str(uuid.uuid4()),
            initramfs=directory / f"{node}.state.initramfs",
            console_log=directory / f"{node}.state.console",
            console_socket=directory / f"{node}.state.sock",
            shared_memory=(),
            placeholders=tuple(memory.slot for memory in domain.shared_memory),
            arguments=network.user_network().arguments,
        )
        return cls(node, alone, states.key_of(alone, image, resident), image, resident)

    def way(self) -> Way:
        """From the state, if there is one."""
        state = states.find(self.key)
        if state is None:
            return Way(None, "no saved state of such a machine; `testbed up --warm` makes one")
        state.touch()
        return Way(state, f"from saved state {self.key}")

    def make(self, launcher: Launcher, directory: Path, say: Callable[[str], None], cancel: threading.Event) -> None:
        """Boots the machine, saves it when it waits for an identity, and ends it. Raises GuestError or HostError."""
        domain = self.domain
        say(f"{self.node}: booting a guest to save its state")
        line = network.user_network().seed_line
        seed = {"nobody": (0o644, b""), "network": (0o644, f"{line}\n".encode())}
        seed |= self.resident.seed() if self.resident else {}
        assert domain.initramfs is not None, "only machines that start by kernel and initramfs have a template"
        keys.write_private(domain.initramfs, boot_archive(self.image, seed_archive(seed)))
        begin = time.monotonic()
        launcher.start(Order(f"{self.node}.state", domain.name, render(domain)))
        qemu = process_of(domain.uuid)
        if qemu is None:
            raise GuestError(f"the guest to be saved for node {self.node}: QEMU ended at once")
        try:
            boot = readiness.Boot(
                node=f"{self.node}'s template",
                kind=f"{domain.arch}, {domain.accelerator}",
                console=Console(domain.console_log),
                qemu=qemu,
                port=None,
                started=begin,
                command_line=shlex.join(process.arguments_of(qemu.pid)),
                awaited=WAITING,
            )
            readiness.await_ready(boot, Deadline.scaled(BOOT_S, domain.accelerator), say, cancel, lambda _stages: None)
            state = self._description()
            with states.draft(state) as draft:
                outgoing = str(directory / f"{self.node}.out")
                launcher.save(Save(f"{self.node}.save", domain.name, str(draft), outgoing))
            say(f"{self.node}: state {self.key} saved, {state.size_bytes >> 20} MiB, {boot.elapsed_s:.1f} s")
        finally:
            process.end([qemu], 0.0)

    def _description(self) -> State:
        domain = self.domain
        return State(
            key=self.key,
            arch=domain.arch,
            accelerator=domain.accelerator,
            memory_bytes=domain.memory_bytes,
            cpus=domain.cpus,
            image=self.image.key,
            emulator=build_of(domain.emulator),
            created=time.time(),
            resident=self.resident.key if self.resident else "",
        )


def missing(templates: Mapping[str, Template]) -> list[Template]:
    """Those without a state, each kind of machine once."""
    by_key = {template.key: template for template in templates.values()}
    return [template for key, template in by_key.items() if states.find(key) is None]
