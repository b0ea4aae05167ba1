"""What an image is: a kernel, an initramfs and a root file system of one instruction set, ready to be booted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

RECORD = "image.json"


@dataclass(frozen=True)
class Image:
    """A complete, read-only image in the store.

    `key` is the hash of all that went into it; `kernel`, `initramfs` and `root` (erofs) are the files to boot;
    `command_line` holds the kernel arguments that it needs.
    """

    arch: str
    key: str
    directory: Path
    kernel: Path
    initramfs: Path
    root: Path
    kernel_release: str
    python_version: str
    command_line: tuple[str, ...]

    @property
    def host_python(self) -> Path:
        """Folder with this image's own interpreter for programs of the host; only the host's ISA has one."""
        return self.directory / "python"


def read(directory: Path) -> Image:
    """The image in `directory`. Raises OSError when there is none, ValueError when its record cannot be understood."""
    record = json.loads((directory / RECORD).read_bytes())
    return Image(
        arch=record["arch"],
        key=record["key"],
        directory=directory,
        kernel=directory / "kernel",
        initramfs=directory / "initramfs",
        root=directory / "root.erofs",
        kernel_release=record["kernel_release"],
        python_version=record["python_version"],
        command_line=tuple(record["command_line"]),
    )
