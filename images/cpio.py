"""cpio archives in the `newc` format, the one that the Linux kernel unpacks into its first file system.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

ALIGNMENT = 4
# The kernel skips zeros between two archives; whole words keep the next header aligned.
TRAILER = "TRAILER!!!"


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)


class Writer:
    """Collects entries in the order given; times and owners are zero, so that the same input gives the same bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._entries = 0

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._entries += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._entries, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._parts.append(_padded(header + encoded))
        self._parts.append(_padded(data))

    def directory(self, name: str, mode: int = 0o755) -> None:
        """A directory; its parents must have been written before."""
        self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file; its directory must have been written before."""
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def bytes(self) -> bytes:
        """The whole archive with its trailer."""
        trailer = Writer()
        trailer._entry(TRAILER, 0, b"")
        return b"".join(self._parts + trailer._parts)


def seed_archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """What makes a guest this node: `files` (name → mode, content), which its init finds as /seed/NAME.

    Raises ValueError for a name that is not a plain file name.
    """
    archive = Writer()
    archive.directory("seed", 0o700)
    for name, (mode, content) in sorted(files.items()):
        if not name or "/" in name or name in (".", ".."):
            raise ValueError(f"seed file name {name!r}: expected a plain file name without '/'")
        archive.file(f"seed/{name}", content, mode)
    return archive.bytes()
