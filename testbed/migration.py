"""QEMU's migration, used to save a machine and to start another one from what was saved.

Both go by a unix socket: libvirt runs QEMU in a sandbox in which it cannot start the programs of other transports.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from testbed import states
from testbed.deadline import Deadline

LOOK_S = 0.005
CONNECT_S = 10.0
RUNNING_S = 60.0
"""It takes a tenth of a second; on a host whose disk has to read the state first, seconds."""
BANDWIDTH_MAX = 1 << 40
"""Bytes a second: no limit. QEMU's default is for networks that others use too."""


class MigrationError(Exception):
    """QEMU cannot save or restore a state, in its own words."""


class Ask(Protocol):
    """A command for QEMU's monitor (QMP). Raises MigrationError when it refuses."""

    def __call__(self, command: str, **arguments: Any) -> Any: ...


def save(ask: Ask, draft: Path, outgoing: Path) -> None:
    """Appends the machine's state to `draft`. It must be running, so that what is restored from it runs too."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(outgoing))
        try:
            outgoing.chmod(0o600)
            listener.listen(1)
            listener.settimeout(CONNECT_S)
            ask("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH_MAX})
            ask("migrate", uri=f"unix:{outgoing}")
            connection, _ = listener.accept()
        finally:
            outgoing.unlink()
    with connection:
        connection.settimeout(None)
        states.take(connection, draft)
    outcome = ask("query-migrate")
    while outcome["status"] in ("setup", "active", "device", "pre-switchover"):
        time.sleep(LOOK_S)
        outcome = ask("query-migrate")
    if outcome["status"] != "completed":
        raise MigrationError(f"migration {outcome['status']}: {outcome.get('error-desc', 'no reason given')}")


@contextlib.contextmanager
def feeding(state: Path | None, incoming: Path | None) -> Iterator[None]:
    """In this block a QEMU is started that waits at `incoming`: it gets the state as soon as it listens.

    Raises OSError when it does not take all of it. Without a state nothing is done.
    """
    if state is None or incoming is None:
        yield
        return
    given_up = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="state") as pool:
        fed = pool.submit(_feed, state, incoming, given_up)
        try:
            yield
        except BaseException:
            given_up.set()
            raise
        fed.result()


def _feed(state: Path, incoming: Path, given_up: threading.Event) -> None:
    while not given_up.is_set():
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(incoming))
            except OSError:
                given_up.wait(LOOK_S)
                continue
            incoming.unlink(missing_ok=True)
            states.feed(state, connection)
            return


def await_running(ask: Ask) -> None:
    """Returns when a machine that was fed with a state goes on from it. Raises MigrationError when it does not."""
    deadline = Deadline(RUNNING_S)
    while (status := ask("query-status")["status"]) != "running":
        if deadline.expired:
            raise MigrationError(f"it is still in state {status!r} {RUNNING_S:g} s after it was given its memory")
        time.sleep(LOOK_S)
