"""Waiting for a guest: it says itself how far it has come, on its console; SSH's banner is the proof."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from testbed.activity import Activity
from testbed.console import READY, Console
from testbed.deadline import Deadline
from testbed.errors import GuestError
from testbed.monitor import HELD, Monitor
from testbed.process import ProcessId

LOOK_S = 0.02
"""Between two looks at the console: adds 10 ms to a boot of seconds, and costs a thousandth of a CPU."""
SAY_S = 3.0
STILL_S = 3.0
"""Without any work in a machine that is to boot, its monitor is asked for the reason."""
HANG_S = 20.0
"""Without any work, nothing will come of it: a guest that is slow works all the time."""
BANNER_S = 3.0
"""QEMU accepts for a guest that does not listen yet, and nothing ever comes on such a connection: try another one."""


class Cancelled(Exception):
    """Another node's start has failed, or the user has interrupted."""


@dataclass
class Boot:
    """A guest on its way up. `started` is on the monotonic clock; `kind` and `command_line` are for messages.

    It is ready when it has reached the stage `awaited` and, if it has a `port`, sshd introduces itself there.
    """

    node: str
    kind: str
    console: Console
    qemu: ProcessId
    port: int | None
    started: float
    command_line: str
    awaited: str = READY
    monitor: Path | None = None
    """Its monitor's socket, which is asked when the machine stands still."""

    @property
    def elapsed_s(self) -> float:
        """Since the machine was started."""
        return time.monotonic() - self.started


def await_ready(
    boot: Boot,
    deadline: Deadline,
    say: Callable[[str], None],
    cancel: threading.Event,
    on_stage: Callable[[dict[str, float]], None],
) -> float:
    """Returns the seconds from the machine's start until it is ready. `on_stage` is told of every stage on the way.

    Raises GuestError as soon as the guest has ended, panicked or said that it cannot go on, or when the deadline has
    passed; Cancelled when `cancel` is set.
    """
    descriptor = boot.qemu.open()
    if descriptor is None:
        _fail_as_it_ended(boot)
    try:
        said = time.monotonic()
        activity = Activity(boot.qemu.pid)
        while boot.awaited not in boot.console.stages or not _answers(boot, deadline):
            if boot.console.update():
                on_stage(dict(boot.console.stages))
            elif _ended(descriptor):
                _fail_as_it_ended(boot)
            _check(boot, deadline, cancel)
            if activity.still_s() >= STILL_S:
                _ask_why_still(boot, activity)
            if time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                say(_awaited(boot, deadline))
    finally:
        os.close(descriptor)
    return boot.elapsed_s


def _ended(descriptor: int) -> bool:
    """Whether the process has ended, looked at for the time between two looks at its console."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(LOOK_S * 1000))


def _awaited(boot: Boot, deadline: Deadline) -> str:
    awaited = "an SSH banner" if boot.awaited in boot.console.stages else f"stage {boot.awaited}"
    return (
        f"{boot.node}: {boot.elapsed_s:.0f} s, stage {boot.console.stage}, waiting for {awaited} "
        f"({deadline.remaining():.0f} s left)"
    )


def _fail_as_it_ended(boot: Boot) -> NoReturn:
    """Of a machine that is gone: it may have said why since the last look, and have switched itself off at once."""
    boot.console.update()
    _fail_if_it_said_why(boot)
    fail(boot, "ended")


def _fail_if_it_said_why(boot: Boot) -> None:
    if boot.console.failure:
        fail(boot, f"cannot go on: {boot.console.failure}")
    if boot.console.panic:
        fail(boot, "panicked")


def _check(boot: Boot, deadline: Deadline, cancel: threading.Event) -> None:
    _fail_if_it_said_why(boot)
    if deadline.expired:
        fail(boot, f"is not ready after {deadline.seconds:g} s")
    if cancel.is_set():
        raise Cancelled


def _answers(boot: Boot, deadline: Deadline) -> bool:
    return boot.port is None or _banner(boot.port, deadline)


def _ask_why_still(boot: Boot, activity: Activity) -> None:
    """A machine that neither works nor waits for the host has stopped, was stopped, or waits for what never comes."""
    status = "running"
    if boot.monitor is not None:
        with contextlib.suppress(GuestError), Monitor(boot.node, boot.monitor) as monitor:
            status = monitor.status
    if status in HELD:
        activity.forget()  # somebody holds it: `testbed fault pause`, or a debugger
    elif status != "running":
        fail(boot, f"has stopped: QEMU calls its state {status}")
    elif (still_s := activity.still_s()) >= HANG_S:
        fail(boot, f"hangs: it has done nothing for {still_s:.0f} s")


def _banner(port: int, deadline: Deadline) -> bool:
    """Whether an SSH server introduces itself at the port within a second."""
    with socket.socket() as connection:
        connection.settimeout(min(BANNER_S, deadline.remaining() + 0.001))
        try:
            connection.connect(("127.0.0.1", port))
            return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def fail(boot: Boot, what: str) -> NoReturn:
    """Raises GuestError with all that is known: what happened, how far it had come, its last words, how it was run."""
    console = boot.console
    panic = f": {console.panic}" if console.panic else ""
    lines = console.tail()
    words = "\n".join(f"    {line}" for line in lines) if lines else "    (nothing)"
    raise GuestError(
        f"node {boot.node} ({boot.kind}) {what}{panic}\n"
        f"  {boot.elapsed_s:.1f} s after its start, last stage: {console.stage}\n"
        f"  last lines of its console {console.path}:\n{words}\n"
        f"  QEMU was: {boot.command_line}",
        _hint(console, what),
    )


def _hint(console: Console, what: str) -> str:
    if console.panic or console.failure:
        return "the guest says why; without `quiet` among the image's kernel arguments the console says more"
    if what.startswith("hangs"):
        return "its kernel waits for something: look at what comes after the last stage; `quiet` hides what it says"
    if what.startswith("has stopped"):
        return "QEMU's log in the folder for evidence may say why; --accel tcg if it is KVM that fails"
    if what == "ended":
        return "QEMU ended by itself or was killed: the host's kernel log knows of one that ran out of memory"
    if not console.stages:
        return "no stage was reached: does the image's kernel fit this machine and accelerator?"
    return "give it more time if the host is busy; else look at the stage after the last one reached"
