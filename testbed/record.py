"""What is written down about a testbed, so that whatever dies, the next command finds all of it and can remove it.

A folder STATE/NAME exists from before the first process is started until after the last one is gone; `record.json` in
it says the rest. Every change replaces that file as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from testbed.errors import Failure, HostError, NoTestbed
from testbed.process import ProcessId
from testbed.spec import Accelerator, LinkSpec, NodeSpec, TestbedSpec

VERSION = 1
RUN_PATH_MAX = 52
"""A unix socket's path has 107 bytes; libvirt's monitor sockets take up to 53 of them below its root, `RUN/l`."""


_ENDING = "ending"
"""A file in a testbed's folder: somebody takes it down."""


class State(StrEnum):
    """How far `up` has come."""

    STARTING = "starting"
    RUNNING = "running"


@dataclass(frozen=True)
class NodeRecord:
    """What is known of a node; None for what is not known yet. `stages` are seconds of guest time.

    `warm` says that it was started from a saved state, `warm_reason` why or why not.
    """

    accelerator: Accelerator | None = None
    accelerator_reason: str = ""
    qemu: ProcessId | None = None
    ssh_port: int | None = None
    warm: bool = False
    warm_reason: str = ""
    boot_s: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """All of one testbed. `owner` is the command that started it, `servers` are ivshmem servers by link.

    One that is not `kept` ends with its owner: it is a run's. Whoever finds it without its owner finds a left-over.
    """

    spec: TestbedSpec
    state: State
    run_directory: Path
    created: datetime
    owner: ProcessId
    nodes: Mapping[str, NodeRecord]
    kept: bool = True
    servers: Mapping[str, ProcessId] = field(default_factory=dict)

    @property
    def processes(self) -> list[ProcessId]:
        """Every process that was written down."""
        return [*self.servers.values(), *(node.qemu for node in self.nodes.values() if node.qemu)]

    def to_json(self) -> str:
        """The text of record.json."""
        plain = asdict(self)
        plain |= {"version": VERSION, "run_directory": str(self.run_directory), "created": self.created.isoformat()}
        return json.dumps(plain, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Raises ValueError, KeyError or TypeError when it is no record of this version."""
        plain = json.loads(text)
        if plain["version"] != VERSION:
            raise ValueError(f"version {plain['version']}, expected {VERSION}")
        spec = plain["spec"]
        return cls(
            spec=TestbedSpec(
                name=spec["name"],
                nodes=tuple(NodeSpec(**node) for node in spec["nodes"]),
                links=tuple(LinkSpec(**link) for link in spec["links"]),
                driver=spec["driver"],
            ),
            state=State(plain["state"]),
            run_directory=Path(plain["run_directory"]),
            created=datetime.fromisoformat(plain["created"]),
            owner=ProcessId(**plain["owner"]),
            nodes={name: _node_record(node) for name, node in plain["nodes"].items()},
            kept=plain.get("kept", True),
            servers={name: ProcessId(**server) for name, server in plain["servers"].items()},
        )


def _node_record(plain: dict[str, Any]) -> NodeRecord:
    plain["accelerator"] = plain["accelerator"] and Accelerator(plain["accelerator"])
    plain["qemu"] = plain["qemu"] and ProcessId(**plain["qemu"])
    return NodeRecord(**plain)


def state_directory() -> Path:
    """The folder with one folder for each testbed of this user."""
    from platformdirs import user_state_path

    return user_state_path("testbed")


def directory(name: str) -> Path:
    """The folder of one testbed, whether it exists or not."""
    return state_directory() / name


def _run_directory(name: str) -> Path:
    """Where sockets and files of the running testbed go: its own folder, unless that makes socket paths too long.

    Or unless its path has blanks, commas or quotes in it, which libvirt's settings and QEMU's arguments give a meaning.
    """
    inside = directory(name) / "run"
    if len(os.fsencode(inside)) <= RUN_PATH_MAX and re.fullmatch(r"[\w./+@-]+", str(inside), re.ASCII):
        return inside
    short = Path(tempfile.gettempdir()) / f"testbed-{secrets.token_hex(6)}"
    if len(os.fsencode(short)) <= RUN_PATH_MAX:
        return short
    return Path("/tmp") / short.name


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """One change of the set of testbeds at a time. The folder itself is the lock: no file of it stays behind."""
    root = state_directory()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield root
    finally:
        os.close(descriptor)


def create(spec: TestbedSpec, *, kept: bool = True) -> Journal:
    """Writes down that this testbed is about to be started. Raises Failure when there is one of that name already."""
    record = Record(
        spec=spec,
        state=State.STARTING,
        run_directory=_run_directory(spec.name),
        created=datetime.now(UTC),
        owner=ProcessId.of(os.getpid()),
        nodes={node.name: NodeRecord() for node in spec.nodes},
        kept=kept,
    )
    try:
        with locked() as root:
            (root / spec.name).mkdir(mode=0o700)
            try:
                write(record)
                record.run_directory.mkdir(mode=0o700)
            except BaseException:
                shutil.rmtree(root / spec.name)
                raise
    except FileExistsError:
        raise Failure(
            f"there is a testbed {spec.name} already, in {directory(spec.name)}",
            f"`testbed ps` shows it, `testbed down {spec.name}` removes it",
        ) from None
    except OSError as error:
        raise HostError(
            f"{state_directory()}: cannot be written: {error}", "check its owner and the free space"
        ) from error
    return Journal(record)


def write(record: Record) -> None:
    """Replaces the record as a whole; a reader sees the old one or the new one."""
    target = directory(record.spec.name) / "record.json"
    draft = target.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(record.to_json())
    draft.replace(target)


def read(name: str) -> Record | None:
    """The record of a testbed; None when its folder holds none that can be understood (`up` died while writing it).

    Raises NoTestbed when there is no such testbed.
    """
    place = directory(name)
    if not place.is_dir():
        known = ", ".join(names()) or "none"
        raise NoTestbed(f"no testbed {name!r}; there are: {known}", "`testbed up FILE` starts one")
    try:
        return Record.from_json((place / "record.json").read_text())
    except (OSError, ValueError, KeyError, TypeError, Failure):
        return None


def read_all() -> dict[str, Record | None]:
    """The records of all testbeds of this user, by name, as `read` gives them. One that another command creates or
    removes meanwhile is there as a whole, or not at all."""
    if not names():
        return {}
    with locked():
        return {name: read(name) for name in names()}


def note_end(name: str) -> None:
    """Writes down that this testbed is being taken down, before anything of it ends."""
    with contextlib.suppress(OSError):  # it goes all the same: on a full disk, too
        (directory(name) / _ENDING).touch()


def is_ending(name: str) -> bool:
    """Whether it is being taken down, or has been."""
    place = directory(name)
    return not place.is_dir() or (place / _ENDING).exists()


def names() -> list[str]:
    """All testbeds of this user, by name."""
    try:
        return sorted(entry.name for entry in state_directory().iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


class Journal:
    """The record of a testbed that is being started, changed by the threads that start it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._lock = threading.Lock()

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replaces the record by what `make` gives for it, on disk too."""
        with self._lock:
            self.record = make(self.record)
            # `down` from another command may have removed it meanwhile: it must not come back.
            with contextlib.suppress(FileNotFoundError):
                write(self.record)

    def change_node(self, name: str, **changes: Any) -> None:
        """Replaces fields of one node's record."""

        def make(record: Record) -> Record:
            return replace(record, nodes={**record.nodes, name: replace(record.nodes[name], **changes)})

        self.change(make)
