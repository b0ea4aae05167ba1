"""The image store: a folder of finished images, each named by the hash of all that goes into it.

An image is made in a folder beside its place and renamed when it is complete, so that whatever has its name is whole.
Asking for one that is there reads two small folders of source files and one record; nothing heavy is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from images.errors import Failure, HostError
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
    for file in (definition, *sources):
        name = "definition" if file == definition else str(file.relative_to(HERE))
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def images() -> list[Image]:
    """All images in the store, whatever they were built from, the newest first."""
    records = sorted(store().glob(f"*/{RECORD}"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [read(record.parent) for record in records]


def remove(image: Image) -> None:
    """Removes an image from the store. A guest that runs from it keeps its files until it ends."""
    # Out of its name first: what has an image's name is always whole.
    gone = image.directory.with_name(f"{UNFINISHED}{image.directory.name}")
    image.directory.rename(gone)
    shutil.rmtree(gone)


def _present(key: str, arch: str) -> Image | None:
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
    found = {arch: image for arch in wanted if (image := _present(key, arch))}
    if len(found) < len(wanted):
        missing = [arch for arch in wanted if arch not in found]
        if offline:
            names = ", ".join(missing)
            raise Failure(f"no image for {names} in {store()}, and offline", "run once with a network")
        _build_missing(definition, key, missing, say)
        found = {arch: read(store() / f"{key}-{arch}") for arch in wanted}
    return {arch: found[arch] for arch in wanted}


def _build_missing(path: Path, key: str, archs: list[str], say: Callable[[str], None]) -> None:
    # Only a build needs these, and they take longer to import than a present image to find.
    from images import build
    from images.bytecode import interpreter_of, native
    from images.definition import load

    definition = load(path)
    for arch in archs:
        build.architecture(definition, arch)
    with _locked(say):
        own = _present(key, native())
        interpreter = interpreter_of(own) if own else None
        # Someone else may have built them while we waited; the host's own is needed to compile Python for the others.
        absent = [arch for arch in dict.fromkeys([*archs, native()]) if not _present(key, arch)]
        if not absent:
            return
        with _workshop() as shop:
            targets = {}
            for arch in absent:
                build.architecture(definition, arch)
                (shop / arch).mkdir()
                targets[arch] = build.Target(arch, key, shop / arch, shop / f"root-{arch}")
            build.build(definition, targets, interpreter, say)
            for target in targets.values():
                target.directory.rename(store() / f"{key}-{target.arch}")


@contextlib.contextmanager
def _locked(say: Callable[[str], None]) -> Iterator[None]:
    """One build at a time; says so when another one is waited for. The kernel frees the lock of a killed build."""
    # Only a build waits for others.
    from filelock import FileLock, Timeout

    store().mkdir(parents=True, exist_ok=True)
    lock = FileLock(store() / "build.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process builds these images, waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _workshop() -> Iterator[Path]:
    """A folder beside the images that is gone afterwards, as are those that killed builds left. Needs the lock."""
    for left in store().glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        shop = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=store()))
    except OSError as error:
        raise HostError(f"{store()}: cannot make a folder: {error}", "check its owner and the free space") from error
    try:
        yield shop
    finally:
        shutil.rmtree(shop, ignore_errors=True)
