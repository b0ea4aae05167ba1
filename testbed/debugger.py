"""gdb for a machine: QEMU's stub on a unix socket, opened when it is asked for."""

from __future__ import annotations

import platform
import shutil

from testbed import sockets
from testbed.errors import GuestError
from testbed.machine import Node


def command(node: Node) -> list[str]:
    """The command line of the gdb that debugs `node`'s kernel. Raises GuestError when the machine has no monitor.

    QEMU stops the machine when gdb connects, and lets it go on when gdb leaves. Whoever was connected is let go.
    """
    socket = sockets.debugger(node.directory, node.name)
    with node.monitor() as monitor:
        said = monitor.human(f"gdbserver unix:{str(socket).replace(',', ',,')},server=on,wait=off")
    if not socket.is_socket():
        raise GuestError(f"node {node.name}: QEMU opens no gdb stub at {socket}: {said.strip()}")
    sockets.make_private(node.directory)
    # Debian's gdb knows the host's instruction set alone.
    native = node.arch == platform.machine() and (shutil.which("gdb") or not shutil.which("gdb-multiarch"))
    program = "gdb" if native else "gdb-multiarch"
    return [program, "-q", "-ex", f"target remote {socket}"]
