"""The image store: a folder of finished images, each named by the hash of all that goes into it.

An image is made in a folder beside its place and renamed when it is complete, so that whatever has its name is whole;
what was damaged later, in a way that a look at names and sizes shows, is as good as not there. Asking for one that is
there reads two small folders of source files and one record; nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from images.errors import Failure
from images.image import RECORD, Image, torn, understood

if TYPE_CHECKING:
    from images.cloud.image import CloudImage

HERE = Path(__file__).parent
DEFINITION = HERE / "default.yaml"
SOURCES = ("*.py", "files/*")
UNFINISHED = ".unfinished-"
PARTIAL = ".partial-"
"""Begins the names of downloads that were interrupted, and can go on."""


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


def images() -> list[Image | CloudImage]:
    """All whole images in the store, whatever they were made from, the newest first."""
    records = sorted(store().glob(f"*/{RECORD}"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [image for record in records if (image := read(record.parent))]


def broken() -> list[Path]:
    """Folders of the store that have an image's name, and are none: somebody has damaged them."""
    folders = (folder for folder in store().glob("*-*") if folder.is_dir() and not folder.name.startswith("."))
    return [folder for folder in sorted(folders) if read(folder) is None]


def read(directory: Path) -> Image | CloudImage | None:
    """The image in `directory`, or None when there is no whole one."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        if torn(directory, record):
            return None
        if record.get("kind") == "cloud-image":
            from images.cloud import image as cloud  # who asks for a built image does not wait for it

            return cloud.understood(directory, record)
        return understood(directory, record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove(image: Image | CloudImage) -> None:
    """Removes an image from the store. A guest that runs from it keeps its files until it ends."""
    discard(image.directory)


def discard(directory: Path) -> None:
    """Removes a folder of the store."""
    import shutil  # brings the compression libraries along, which nobody needs for finding an image

    # Out of its name first: what has an image's name is always whole.
    gone = directory.with_name(f"{UNFINISHED}{directory.name}")
    directory.rename(gone)
    shutil.rmtree(gone)


def present(key: str, arch: str) -> Image | None:
    """The built image of that key and architecture, or None when it is not in the store."""
    image = read(store() / f"{key}-{arch}")
    return image if isinstance(image, Image) else None


def obtain(
    archs: Iterable[str], say: Callable[[str], None], *, offline: bool = False, definition: Path = DEFINITION
) -> dict[str, Image | CloudImage]:
    """As `ensure_all`, from a definition of either kind: of packages, or of a cloud image."""
    if not says_cloud(definition):
        return {**ensure_all(archs, say, offline=offline, definition=definition)}
    from images.cloud.supply import ensure_cloud  # a YAML parser, and what downloads

    return {**ensure_cloud(archs, say, offline=offline, definition=definition)}


def there(arch: str, definition: Path) -> Image | CloudImage | None:
    """The image that `obtain` would give at once, or None. Raises Failure when the definition cannot be understood."""
    if not says_cloud(definition):
        return present(key_of(definition), arch)
    from images.cloud import definition as cloud
    from images.cloud import supply

    source = cloud.load(definition).get(arch)
    return supply.present(source, arch) if source else None


def says_cloud(definition: Path) -> bool:
    """Whether a definition is one of a cloud image, by its line `kind: cloud-image`; no YAML parser is needed."""
    try:
        return re.search(r"^kind: *cloud-image\s*(#.*)?$", definition.read_text(), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False  # told by whoever needs it


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
            raise Failure(
                f"no image for {names} of {definition.name} (key {key}) in {store()}, and nothing may be downloaded",
                "`testbed image build` with a network, or without --offline",
            )
        # Only a build needs this, and what it imports takes longer to import than a present image to find.
        from images.workshop import build_missing

        build_missing(definition, key, missing, say)
        found = {arch: image for arch in wanted if (image := present(key, arch))}
    return {arch: found[arch] for arch in wanted}
