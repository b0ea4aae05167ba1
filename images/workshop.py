"""Where images are made: beside the store's images, under a lock, and renamed when they are complete."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from images import build
from images.bytecode import interpreter_of, native
from images.definition import load
from images.errors import HostError
from images.store import PARTIAL, UNFINISHED, discard, present, store


def build_missing(path: Path, key: str, archs: list[str], say: Callable[[str], None]) -> None:
    """Builds the images of `archs`, and that of the host's own ISA when it is not there. Raises as `ensure` does."""
    definition = load(path)
    for arch in archs:
        build.architecture(definition, arch)
    with locked(say):
        own = present(key, native())
        interpreter = interpreter_of(own) if own else None
        # Someone else may have built them while we waited; the host's own is needed to compile Python for the others.
        absent = [arch for arch in dict.fromkeys([*archs, native()]) if not present(key, arch)]
        if not absent:
            return
        with workshop() as shop:
            targets = {}
            for arch in absent:
                build.architecture(definition, arch)
                (shop / arch).mkdir()
                targets[arch] = build.Target(arch, key, shop / arch, shop / f"root-{arch}", path.absolute())
            build.build(definition, targets, interpreter, say)
            for target in targets.values():
                put(target.directory, store() / f"{key}-{target.arch}")


def put(made: Path, place: Path) -> None:
    """Gives a complete image its name. What has it already is no whole image: somebody has damaged it."""
    if place.exists():
        discard(place)
    made.rename(place)


def remove_leftovers(say: Callable[[str], None]) -> None:
    """Removes what killed builds and downloads have left, when none is at work. Raises HostError."""
    if not store().exists():
        return
    with locked(say):
        _sweep()
        for left in store().glob(f"{PARTIAL}*"):
            left.unlink()


@contextlib.contextmanager
def locked(say: Callable[[str], None]) -> Iterator[None]:
    """One build at a time; says so when another one is waited for. The kernel frees the lock of a killed build."""
    try:
        store().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{store()}: cannot be made: {error}", "XDG_CACHE_HOME says where caches are") from error
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


def _sweep() -> None:
    for left in store().glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder beside the images that is gone afterwards, as are those that killed builds left. Needs the lock."""
    _sweep()
    try:
        shop = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=store()))
    except OSError as error:
        raise HostError(f"{store()}: cannot make a folder: {error}", "check its owner and the free space") from error
    try:
        yield shop
    finally:
        shutil.rmtree(shop, ignore_errors=True)
