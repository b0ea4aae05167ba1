"""A cloud image in the store: one qcow2 file, read-only, from which machines boot by the image's own boot loader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.image import RECORD, damage_of, sizes_of

DISK = "disk.qcow2"


@dataclass(frozen=True)
class CloudImage:
    """A complete, read-only image. `definitions` are the files that have asked for it; `source` is where it came from.

    `virtual_bytes` is the size of the disk that guests see; `digests` are the SHA-256 of its files by name.
    """

    arch: str
    key: str
    directory: Path
    source: str
    checked: str
    """The digest that its definition demanded: `ALGORITHM:DIGITS`."""
    definitions: tuple[str, ...]
    virtual_bytes: int
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def disk(self) -> Path:
        """The qcow2 file, which nobody writes to."""
        return self.directory / DISK

    @property
    def size_bytes(self) -> int:
        """Of its file."""
        return self.disk.stat().st_size

    def damage(self) -> list[str]:
        """What is not as it was when the image came, in words; empty if all is. Reads every byte of it."""
        return damage_of(self.directory, self.digests)


def understood(directory: Path, record: Mapping[str, Any]) -> CloudImage:
    """The image that `record` describes. Raises KeyError when it lacks something."""
    return CloudImage(
        arch=record["arch"],
        key=record["key"],
        directory=directory,
        source=record["source"],
        checked=record["checked"],
        definitions=tuple(record["definitions"]),
        virtual_bytes=record["virtual_bytes"],
        digests=record["digests"],
    )


def write_record(image: CloudImage) -> None:
    """Writes its record in one step."""
    record = {
        "kind": "cloud-image",
        "arch": image.arch,
        "key": image.key,
        "source": image.source,
        "checked": image.checked,
        "definitions": list(image.definitions),
        "virtual_bytes": image.virtual_bytes,
        "digests": dict(image.digests),
        "sizes": sizes_of(image.directory),
    }
    draft = image.directory / f".{RECORD}"
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.replace(image.directory / RECORD)
