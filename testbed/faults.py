"""Faults on request: machines that stand still, die, or start anew, and a virtual Ethernet that delays and loses."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testbed import process, readiness, sockets
from testbed.console import Console
from testbed.deadline import CLOUD_BOOT_S, Deadline
from testbed.errors import Failure, GuestError, HostError
from testbed.machine import Node, Testbed, overlay
from testbed.spec import LinkKind, LinkSpec

RESET_S = 15.0
"""What a machine may take from its reset to SSH under KVM; as from its first start."""
SHELL_S = 30.0


def pause(node: Node) -> None:
    """The machine stands still, its clocks too, with all that it has in flight. Raises GuestError."""
    with node.monitor() as monitor:
        monitor.execute("stop")


def resume(node: Node) -> None:
    """It goes on where it stood. Raises GuestError."""
    with node.monitor() as monitor:
        monitor.execute("cont")


def kill(node: Node) -> None:
    """It is gone from one moment to the next, as in a power failure. Raises HostError when it would not go."""
    node.check()
    assert node.record.qemu is not None
    if process.kill([node.record.qemu]):
        raise HostError(f"node {node.name}: its QEMU could not be killed", "it may hang in the kernel")


def reset(
    node: Node, say: Callable[[str], None], deadline: Deadline | None = None, cancel: threading.Event | None = None
) -> float:
    """The reset button: nothing of the guest's state survives. Returns the seconds until SSH answers again.

    Raises GuestError when the machine has ended or does not come up again, and readiness.Cancelled when `cancel` is
    set: the machine then goes on by itself.
    """
    console = Console.from_now_on(node.console)
    begin = time.monotonic()
    with node.monitor() as monitor:
        # Machines are started so that a reboot is their end: a guest that panics must not come back by itself. But a
        # PC's firmware that finds its memory as it was left reboots once more, so it may until the kernel speaks.
        monitor.execute("set-action", reboot="reset")
        monitor.execute("system_reset")
        if monitor.status != "running":  # it was paused, or had turned itself off
            monitor.execute("cont")
    booted = False

    def at_stage(_stages: dict[str, float]) -> None:
        nonlocal booted
        if not booted:
            _end_at_reboot(node)
            booted = True

    try:
        return readiness.await_ready(
            _boot(node, console, begin), _reset_limit(node, deadline), say, cancel or threading.Event(), at_stage
        )
    except GuestError:
        if not booted:
            with contextlib.suppress(GuestError):  # what went wrong first is told
                _end_at_reboot(node)
        raise


def _end_at_reboot(node: Node) -> None:
    with node.monitor() as monitor:
        monitor.execute("set-action", reboot="shutdown")


def _boot(node: Node, console: Console, begin: float) -> readiness.Boot:
    qemu, port = node.record.qemu, node.record.ssh_port
    assert qemu is not None
    if port is None:
        raise GuestError(f"node {node.name} has no port for SSH: it was not started completely")
    return readiness.Boot(
        node=node.name,
        kind=f"{node.arch}, {node.accelerator}",
        console=console,
        qemu=qemu,
        port=port,
        started=begin,
        command_line=shlex.join(process.arguments_of(qemu.pid)),
        monitor=sockets.monitor(node.directory, node.name),
    )


def _reset_limit(node: Node, deadline: Deadline | None) -> Deadline:
    own_boot = overlay(node.directory, node.name).exists()
    return deadline or Deadline.scaled(CLOUD_BOOT_S if own_boot else RESET_S, node.accelerator)


@dataclass(frozen=True)
class Impairment:
    """What happens to every frame that a node sends on a link; all zero: nothing."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= each < math.inf for each in (self.delay_ms, self.jitter_ms)):
            raise Failure(f"found a delay of {self.delay_ms:g} ± {self.jitter_ms:g} ms, expected none below 0")
        if not 0 <= self.loss_percent <= 100:
            raise Failure(f"found a loss of {self.loss_percent:g} %, expected 0 to 100")
        if self.jitter_ms and not self.delay_ms:
            raise Failure(f"found a jitter of {self.jitter_ms:g} ms without a delay, expected the delay it varies")

    @property
    def words(self) -> list[str]:
        """In the words of tc (man 8 tc-netem)."""
        words = []
        if self.delay_ms:
            words += ["delay", f"{self.delay_ms:g}ms", *([f"{self.jitter_ms:g}ms"] if self.jitter_ms else [])]
        if self.loss_percent:
            words += ["loss", f"{self.loss_percent:g}%"]
        return words


def ethernet_link(testbed: Testbed, node: Node, name: str | None) -> LinkSpec:
    """The node's link of this name, or its only one. Raises Failure."""
    links = testbed.spec.links_of(node.name, LinkKind.ETHERNET)
    for link in links:
        if link.name == name or (name is None and len(links) == 1):
            return link
    if not links:
        raise Failure(
            f"node {node.name}: found no Ethernet link at it, expected one",
            "an experiment file has them as `kind: ethernet`",
        )
    known = ", ".join(link.name for link in links)
    raise Failure(f"node {node.name}: found no Ethernet link {name or 'to choose'}, expected of {known}", "--link NAME")


def impair(testbed: Testbed, node: Node, link: LinkSpec, wanted: Impairment) -> dict[str, Any]:
    """Has the node's kernel do it from now on (netem); returns what the kernel says it does, {} for nothing.

    One direction only, what the node sends: the other one is the other nodes'. Raises GuestError.
    """
    # Names follow the order of the PCI slots: eth0 is the way to the host.
    device = f"eth{testbed.spec.links_of(node.name, LinkKind.ETHERNET).index(link) + 1}"
    shell = node.shell()
    try:

        def run(*words: str) -> bytes:
            done = shell.run(words, deadline=Deadline.scaled(SHELL_S, node.accelerator))
            if done.exit_code:
                said = done.stderr.decode(errors="replace").strip()
                raise GuestError(f"node {node.name}: {shlex.join(words)} ended with {done.exit_code}: {said}")
            return done.stdout

        run("modprobe", "sch_netem")
        # In any case first: `replace` would keep the loss when only a delay is asked for.
        if _netem(run("tc", "-json", "qdisc", "show", "dev", device)):
            run("tc", "qdisc", "del", "dev", device, "root")
        if wanted.words:
            run("tc", "qdisc", "add", "dev", device, "root", "netem", *wanted.words)
        return _netem(run("tc", "-json", "qdisc", "show", "dev", device))
    finally:
        shell.close()


def _netem(shown: bytes) -> dict[str, Any]:
    for each in json.loads(shown or b"[]"):
        if each.get("kind") == "netem":
            options: dict[str, Any] = each["options"]
            return options
    return {}
