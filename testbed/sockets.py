"""Where the unix sockets of a testbed's run directory are, and that nobody else may use them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def server(directory: Path, link: str) -> Path:
    """The socket of the ivshmem server of a link."""
    return directory / f"{link}.sock"


def console(directory: Path, node: str) -> Path:
    """A node's serial console."""
    return directory / f"{node}.sock"


def monitor(directory: Path, node: str) -> Path:
    """A node's monitor."""
    return directory / f"{node}.qmp"


def debugger(directory: Path, node: str) -> Path:
    """QEMU's gdb stub for a node, once it was asked for."""
    return directory / f"{node}.gdb"


def make_private(directory: Path) -> None:
    """Takes the sockets below `directory` from everybody but their owner.

    libvirt starts QEMU with a umask that leaves them open to the group. Until now the directory, 0700 itself, has kept
    others out; those that belong to another user (the system's driver) are that one's affair.
    """
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError, PermissionError):
                mode = path.lstat().st_mode
                if stat.S_ISSOCK(mode) and mode & 0o077:
                    path.chmod(0o600)
