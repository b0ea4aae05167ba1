"""A node's serial console on this terminal: what is typed goes in, what the guest writes comes out."""

import contextlib
import fcntl
import os
import select
import socket
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.output import tell
from testbed import sockets
from testbed.console import Console
from testbed.errors import GuestError
from testbed.machine import Node

DETACH = b"\x1d"
"""Ctrl-], as with telnet and virsh."""
SHOWN_BEFORE = 10
"""Lines of the log shown first: a console is silent until something happens."""


def attach(node: Node, typed: int, shown: int) -> None:
    """From the descriptor `typed` to the descriptor `shown`, until the detach key is typed.

    The end of `typed` stops the typing, not the watching. Raises GuestError when the machine ends, InputError when
    somebody else is at this console.
    """
    node.check()
    with _alone(node), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(str(sockets.console(node.directory, node.name)))
        except OSError as error:
            raise GuestError(f"node {node.name}: no console: {error}", "`testbed ps` shows whether it runs") from error
        for said in Console(node.console).tail(SHOWN_BEFORE):
            tell(f"{said}\n")
        tell(f"[console of {node.name}.{node.testbed}; Ctrl-] lets go, Enter may ask for a shell]\n")
        with _raw(typed):
            left = _pump(line, typed, shown)
        tell("\n")
        if not left:
            node.check()
            raise GuestError(f"node {node.name}: its console has closed")


def _pump(line: socket.socket, typed: int, shown: int) -> bool:
    """Whether the person let go; otherwise the machine closed its end."""
    watched: list[int | socket.socket] = [typed, line]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if line in ready:
            try:
                said = line.recv(65536)
            except ConnectionError:
                said = b""
            if not said:
                return False
            while said:
                said = said[os.write(shown, said) :]
        if typed in ready:
            keys = os.read(typed, 4096)
            before, detached, _ = keys.partition(DETACH)
            with contextlib.suppress(OSError):  # it has closed: the next read says so
                line.sendall(before)
            if detached:
                return True
            if not keys:
                watched.remove(typed)


@contextlib.contextmanager
def _alone(node: Node) -> Iterator[None]:
    """QEMU serves one at a time, and would leave a second one waiting without a word."""
    with Path(node.console).open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"found somebody at the console of {node.name} already, expected it free",
                f"`testbed console {node.name} --log` shows what it says",
            ) from None
        yield


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Meanwhile every key goes to the guest, Ctrl-C too."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
