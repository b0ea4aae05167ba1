"""The image store: a folder of finished images, each named by the hash of all that goes into it.

An image is made in a folder beside its place and renamed when it is complete, so that whatever has its name is whole.
Asking for one that is there reads two small folders of source files and one record; nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from images.errors import Failure
from images.image import RECORD, Image, read

HERE = Path(__file__).parent
DEFINITION = HERE / "default.yaml"
SOURCES = ("*.py", "files/*")
UNFINISHED = ".unfinished-"


def store() -> Path:
    """The folder with all images of this user."""
    from platformdirs import user_cache_path

    return user_cache_path("testbed") / "images"


def key_of(definition: Path) -> str:
    """The key of the images that `definition` describes: a hash over it and over every source file of this package."""
    digest = hashlib.sha256()
    sources = sorted(file for pattern in SOURCES for file in HERE.glob(pattern) if file.is_file())
    parts = [definition]
    if extends := re.search(r"^extends: *(\S+)$", definition.read_text(), re.MULTILINE):  # a YAML parser is too heavy
        parts.append(definition.parent / extends[1])
    for file in (*parts, *sources):
        name = "definition" if file in parts else str(file.relative_to(HERE))
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def definitions() -> dict[str, Path]:
    """The definitions that come with the project, by name."""
    return {file.stem: file for file in sorted(HERE.glob("*.yaml"))}


def images() -> list[Image]:
    """All images in the store, whatever they were built from, the newest first."""
    records = sorted(store().glob(f"*/{RECORD}"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [read(record.parent) for record in records]


def remove(image: Image) -> None:
    """Removes an image from the store. A guest that runs from it keeps its files until it ends."""
    import shutil  # brings the compression libraries along, which nobody needs for finding an image

    # Out of its name first: what has an image's name is always whole.
    gone = image.directory.with_name(f"{UNFINISHED}{image.directory.name}")
    image.directory.rename(gone)
    shutil.rmtree(gone)


def present(key: str, arch: str) -> Image | None:
    """The image of that key and architecture, or None when it is not in the store."""
    try:
        return read(store() / f"{key}-{arch}")
    except FileNotFoundError:
        return None


def ensure(arch: str, say: Callable[[str], None], *, offline: bool = False, definition: Path = DEFINITION) -> Image:
    """The image of `arch`, built when it is not there yet. Raises Failure or HostError when it cannot be."""
    return ensure_all([arch], say, offline=offline, definition=definition)[arch]


def ensure_all(
    archs: Iterable[str], say: Callable[[str], None], *, offline: bool = False, definition: Path = DEFINITION
) -> dict[str, Image]:
    """The images of `archs`; those that are not there are built side by side.

    `say` is told what is done. With `offline` nothing may be downloaded, so a missing image is an error. Raises Failure
    or HostError when an image cannot be had.
    """
    wanted = list(dict.fromkeys(archs))
    key = key_of(definition)
    found = {arch: image for arch in wanted if (image := present(key, arch))}
    if len(found) < len(wanted):
        missing = [arch for arch in wanted if arch not in found]
        if offline:
            names = ", ".join(missing)
            raise Failure(f"no image for {names} in {store()}, and offline", "run once with a network")
        # Only a build needs this, and what it imports takes longer to import than a present image to find.
        from images.workshop import build_missing

        build_missing(definition, key, missing, say)
        found = {arch: read(store() / f"{key}-{arch}") for arch in wanted}
    return {arch: found[arch] for arch in wanted}
