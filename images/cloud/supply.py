"""From the definition of a cloud image to the image in the store: fetched once, compared, looked at, then named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from images.cloud.definition import Source, load
from images.cloud.fetch import fetch
from images.cloud.image import DISK, CloudImage, write_record
from images.errors import Failure
from images.image import digests_of
from images.program import run
from images.store import DEFINITION, PARTIAL, read, store
from images.workshop import locked, put, workshop

MAGIC = b"QFI\xfb"
"""Begins every qcow2 file (QEMU: docs/interop/qcow2.txt)."""
Say = Callable[[str], None]


def ensure_cloud(
    archs: Iterable[str], say: Say, *, offline: bool = False, definition: Path = DEFINITION
) -> dict[str, CloudImage]:
    """The cloud images of `archs`, fetched when they are not there yet. Raises Failure or HostError.

    With `offline` a URL is not asked; a file on this host still is.
    """
    sources = load(definition)
    wanted = list(dict.fromkeys(archs))
    for arch in wanted:
        if arch not in sources:
            known = ", ".join(sources)
            raise Failure(f"{definition}: no image for {arch}, there are: {known}", "add it under `architectures`")
    missing = [arch for arch in wanted if present(sources[arch], arch) is None]
    absent = [f"{arch} ({sources[arch].location})" for arch in missing if sources[arch].remote]
    if offline and absent:
        raise Failure(
            f"{definition}: no image for {', '.join(absent)} in {store()}, and nothing may be downloaded",
            f"`testbed image build --definition {definition}` with a network, or without --offline",
        )
    if missing:
        with locked(say):
            for arch in missing:
                if present(sources[arch], arch) is None:  # nobody else has fetched it while we waited
                    _take_in(definition, arch, sources[arch], say)
    return {arch: _noted(definition, sources[arch], arch) for arch in wanted}


def present(source: Source, arch: str) -> CloudImage | None:
    """The image of that source, if it is in the store."""
    image = read(store() / f"{source.key}-{arch}")
    return image if isinstance(image, CloudImage) else None


def of_use(image: CloudImage) -> bool:
    """Whether a definition that asked for it still does."""
    for path in image.definitions:
        try:
            sources = load(Path(path))
        except Failure:
            continue
        if image.arch in sources and sources[image.arch].key == image.key:
            return True
    return False


def _noted(definition: Path, source: Source, arch: str) -> CloudImage:
    """The image, which from now on knows of this definition: whoever tidies up keeps what some definition asks for."""
    image = present(source, arch)
    assert image is not None, "it has just been taken in"
    if str(definition.absolute()) not in image.definitions:
        image = replace(image, definitions=(*image.definitions, str(definition.absolute())))
        write_record(image)
    return image


def _take_in(definition: Path, arch: str, source: Source, say: Say) -> None:
    partial = store() / f"{PARTIAL}{source.key}-{arch}"
    say(f"{arch}: fetching {source.location}")
    fetch(source, partial, say)
    with workshop() as shop:
        made = shop / arch
        made.mkdir()
        disk = made / DISK
        partial.rename(disk)
        disk.chmod(0o400)
        virtual_bytes = _looked_at(disk, source)
        image = CloudImage(
            arch=arch,
            key=source.key,
            directory=made,
            source=source.location,
            checked=f"{source.algorithm}:{source.digest}",
            definitions=(str(definition.absolute()),),
            virtual_bytes=virtual_bytes,
            digests=digests_of(made),
        )
        write_record(image)
        put(made, store() / f"{source.key}-{arch}")
    say(f"{arch}: {source.algorithm} is the one expected, {disk_size(source, arch) >> 20} MiB")


def disk_size(source: Source, arch: str) -> int:
    """Bytes of the file in the store."""
    image = present(source, arch)
    return image.size_bytes if image else 0


def _looked_at(disk: Path, source: Source) -> int:
    """The size of its disk. Raises Failure when it is no qcow2 file, or one that needs other files of this host."""
    with disk.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        raise Failure(
            f"{source.location}: begins with {begins!r}, expected a qcow2 file ({MAGIC!r})",
            "`qemu-img convert -O qcow2` makes one of other formats; its digest is another one then",
        )
    told: dict[str, Any] = json.loads(run(["qemu-img", "info", "--output=json", "-f", "qcow2", disk]))
    special = told.get("format-specific", {}).get("data", {})
    for name, value in (
        ("backing file", told.get("backing-filename")),
        ("data file", special.get("data-file")),
        ("encryption", told.get("encrypted")),
    ):
        if value:
            raise Failure(
                f"{source.location}: found a qcow2 file with {name} ({value}), expected one that stands alone",
                "`qemu-img convert -O qcow2` makes one",
            )
    return int(told["virtual-size"])
