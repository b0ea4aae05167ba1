"""The first file system of a guest: busybox, our init, and the modules on the way to the root file system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from images.cpio import Writer
from images.root import FILES

DIRECTORIES = ("bin", "dev", "etc", "image", "modules", "overlay", "proc", "root", "sys")
APPLETS = ("cat", "insmod", "mkdir", "mount", "mv", "poweroff", "sh", "switch_root")


def build(busybox: Path, modules: Path, load_order: Sequence[str]) -> bytes:
    """The archive. `load_order` names module files below `modules`.

    It is not compressed: an emulated CPU takes longer to unpack it than QEMU to load the bytes that would be saved.
    """
    archive = Writer()
    for directory in DIRECTORIES:
        archive.directory(directory)
    archive.file("init", (FILES / "initramfs-init").read_bytes(), 0o755)
    archive.file("etc/fstab", (FILES / "initramfs-fstab").read_bytes())
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for file in load_order:
        archive.file(f"modules/{Path(file).name}", (modules / file).read_bytes())
    archive.file("modules/order", "".join(f"{Path(file).name}\n" for file in load_order).encode())
    return archive.bytes()
