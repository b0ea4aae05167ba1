"""What an image is: a kernel, an initramfs and a root file system of one instruction set, ready to be booted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "image.json"


@dataclass(frozen=True)
class Image:
    """A complete, read-only image in the store.

    `key` is the hash of all that went into it; `kernel`, `initramfs` and `root` (erofs) are the files to boot;
    `command_line` holds the kernel arguments that it needs; `digests` are the SHA-256 of its files by name.
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
    digests: Mapping[str, str] = field(default_factory=dict)
    definition: str = ""
    """The file that it was built from."""

    @property
    def size_bytes(self) -> int:
        """Of the files that guests boot."""
        return sum(file.stat().st_size for file in (self.kernel, self.initramfs, self.root))

    @property
    def packages(self) -> list[dict[str, str]]:
        """What it was unpacked from: name and version of each package."""
        packages: list[dict[str, str]] = json.loads((self.directory / RECORD).read_bytes()).get("packages", [])
        return packages

    def damage(self) -> list[str]:
        """What is not as it was when the image was built, in words; empty if all is. Reads every byte of it."""
        return damage_of(self.directory, self.digests)

    @property
    def host_python(self) -> Path:
        """Folder with this image's own interpreter for programs of the host; only the host's ISA has one."""
        return self.directory / "python"


def damage_of(directory: Path, digests: Mapping[str, str]) -> list[str]:
    """Which files of an image are not as `digests` (SHA-256 by name) says, in words. Reads all of them."""
    if not digests:
        return [f"{directory / RECORD}: knows no digests; it was written by an older version"]
    found = []
    for name, digest in digests.items():
        file = directory / name
        if not file.is_file():
            found.append(f"{file}: is not there")
        elif (now := digest_of(file)) != digest:
            found.append(f"{file}: SHA-256 {now}, expected {digest}")
    return found


def digest_of(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    """Of the files in a folder that is to be an image, but for its record."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file.name != RECORD)
    return {str(file.relative_to(directory)): digest_of(file) for file in files}


def sizes_of(directory: Path) -> dict[str, int]:
    """Bytes of each file that guests boot, of a folder that is to be an image."""
    files = sorted(file for file in directory.iterdir() if file.is_file() and RECORD not in file.name)
    return {file.name: file.stat().st_size for file in files}


def torn(directory: Path, record: Mapping[str, Any]) -> list[str]:
    """Files that guests boot which are not there, or not as long as the record says. `damage` looks closer."""
    found = []
    for name, size_bytes in record.get("sizes", {}).items():
        try:
            if (directory / name).stat().st_size != size_bytes:
                found.append(name)
        except FileNotFoundError:
            found.append(name)
    return found


def understood(directory: Path, record: Mapping[str, Any]) -> Image:
    """The image in `directory` that `record` describes. Raises KeyError when it lacks something."""
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
        digests=record.get("digests", {}),
        definition=record.get("definition", ""),
    )
