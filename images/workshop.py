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
from images.store import UNFINISHED, present, store


def build_missing(path: Path, key: str, archs: list[str], say: Callable[[str], None]) -> None:
    """Builds the images of `archs`, and that of the host's own ISA when it is not there. Raises as `ensure` does."""
    definition = load(path)
    for arch in archs:
        build.architecture(definition, arch)
    with _locked(say):
        own = present(key, native())
        interpreter = interpreter_of(own) if own else None
        # Someone else may have built them while we waited; the host's own is needed to compile Python for the others.
        absent = [arch for arch in dict.fromkeys([*archs, native()]) if not present(key, arch)]
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


def remove_leftovers(say: Callable[[str], None]) -> None:
    """Removes what killed builds have left, when no build is at work. Raises HostError."""
    if not store().exists():
        return
    with _locked(say):
        _sweep()


@contextlib.contextmanager
def _locked(say: Callable[[str], None]) -> Iterator[None]:
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
def _workshop() -> Iterator[Path]:
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
