"""Saved states of guests that are ready to become a node, each in a file named by the hash of all that went into it.

A file begins with a line of JSON (the fields of `State`); the stream follows that QEMU writes when it migrates a
machine. It gets its name when it is whole. None holds a key of a testbed: it was saved before the guest had one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from images import Image
from images.errors import writing
from testbed.domain import Domain, render
from testbed.host import build_of, processor
from testbed.spec import Accelerator

KEPT_MAX = 8
"""States beyond these are removed when another one is made, those first that were not used for longest."""
SUFFIX = ".state"


@dataclass(frozen=True)
class Resident:
    """A program that runs in every guest restored from a state: unpacked from `archive` (tar) into `directory`.

    `argv` is run there once, before the state is saved; it ends when the program is ready, and leaves it behind.
    """

    archive: bytes
    directory: str
    argv: tuple[str, ...]

    def seed(self) -> dict[str, tuple[int, bytes]]:
        """The files by which init learns of it."""
        order = json.dumps({"directory": self.directory, "argv": self.argv}).encode()
        return {"resident.json": (0o644, order), "resident.tar": (0o644, self.archive)}

    @property
    def key(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps([self.directory, self.argv]).encode() + self.archive).hexdigest()[:16]


@dataclass(frozen=True)
class State:
    """One saved state. `created` is in seconds since 1970; `image` and `emulator` say what it needs, and
    `resident`, a key, what runs in it."""

    key: str
    arch: str
    accelerator: str
    memory_bytes: int
    cpus: int
    image: str
    emulator: str
    created: float
    resident: str = ""

    @property
    def file(self) -> Path:
        """Where it is."""
        return store() / f"{self.key}{SUFFIX}"

    @property
    def size_bytes(self) -> int:
        """Of its file; 0 when that is gone."""
        return _status(self.file)[0]

    @property
    def used(self) -> float:
        """When it was made or used last, in seconds since 1970; 0 when it is gone."""
        return _status(self.file)[1]

    def touch(self) -> None:
        """It is being used now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.file)

    def remove(self) -> None:
        """Also while a guest is being restored from it."""
        self.file.unlink(missing_ok=True)


def _status(file: Path) -> tuple[int, float]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def store() -> Path:
    """The folder of all states of this user."""
    from platformdirs import user_cache_path

    return user_cache_path("testbed") / "states"


def key_of(domain: Domain, image: Image, resident: Resident | None) -> str:
    """A hash over all that a guest's memory depends on: its machine, image, QEMU, and what runs in it.

    `domain` is the machine that would be saved, whatever its name and its files are called, and whoever runs it.
    """
    nowhere = Path("/")
    unnamed = replace(domain, name="", uuid="", initramfs=nowhere, console_log=nowhere, console_socket=nowhere)
    unnamed = replace(unnamed, owner=None, unconfined=())
    facts = [
        render(unnamed),
        image.arch,
        image.key,
        build_of(domain.emulator),
        resident.key if resident else "",
        # Under KVM guests see the host's own processor.
        [platform.release(), processor()] if domain.accelerator is Accelerator.KVM else [],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def find(key: str) -> State | None:
    """The state of this key, if there is one."""
    return _read(store() / f"{key}{SUFFIX}")


def _read(file: Path) -> State | None:
    try:
        with file.open("rb") as content:
            state = State(**json.loads(content.readline()))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.file == file else None


def states() -> list[State]:
    """All there are, the last used first."""
    found = [state for file in store().glob(f"*{SUFFIX}") if (state := _read(file))]
    return sorted(found, key=lambda state: state.used, reverse=True)


def feed(file: Path, connection: socket.socket) -> None:
    """Sends the stream of the state in `file` to a QEMU that waits for it. Raises OSError when it does not take it."""
    with file.open("rb") as content:
        content.readline()
        connection.sendfile(content, content.tell())


def take(connection: socket.socket, file: Path) -> None:
    """Appends the stream that a QEMU sends to a draft."""
    with file.open("ab") as content, connection.makefile("rb", 0) as stream:
        shutil.copyfileobj(stream, content, 1 << 20)


@contextlib.contextmanager
def draft(state: State) -> Iterator[Path]:
    """A file to save the state to: afterwards it is in its place, or gone if this block was left by an exception.

    It is locked meanwhile; drafts that killed commands have left are not, and are removed.
    """
    folder = store()
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep()
        path = folder / f".{state.key}.{os.getpid()}"
        descriptor = _locked(path)
        try:
            os.write(descriptor, json.dumps(asdict(state)).encode() + b"\n")
            yield path
            path.replace(state.file)
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)
    for old in states()[KEPT_MAX:]:
        old.remove()


def _locked(path: Path) -> int:
    """An empty file there, which is locked by the descriptor that is returned."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another command has swept it away before it was locked
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _sweep() -> None:
    for left in store().glob(".*"):
        with contextlib.suppress(OSError):  # another command has it locked, or has just removed it
            descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)
