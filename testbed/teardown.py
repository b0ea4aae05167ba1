"""The end of a testbed, whatever is left of it: its processes, then its files, its record last.

Machines are ended by signal, also those that libvirt started: they hold nothing that would have to be saved, the
embedded driver keeps nothing outside the run directory, and it works when libvirt does not.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from testbed import process, record
from testbed.errors import HostError
from testbed.process import ProcessId
from testbed.record import Record

ROUNDS = 20
"""Of ending what is there and looking again: a command that is just starting the testbed may have begun another one."""


def down(name: str, say: Callable[[str], None]) -> None:
    """Removes all of a testbed. Raises NoTestbed when there is none, HostError when something would not go."""
    known = record.read(name)
    place = record.directory(name)
    record.note_end(name)
    folders = {place / "run", *([known.run_directory] if known else [])}
    ended = 0
    for _ in range(ROUNDS):
        remaining = _processes(known, folders)
        if remaining:
            say(f"{name}: ending {len(remaining)} process{'es' if len(remaining) != 1 else ''}")
            stuck = process.end(remaining)
            if stuck:
                _complain(name, stuck)
            ended += len(remaining)
        # Gone before the next look: a machine whose start is on its way finds neither its files nor room for sockets.
        for folder in folders:
            _remove(folder)
        if not _processes(known, folders) and not any(folder.exists() for folder in folders):
            break
    else:
        raise HostError(f"testbed {name}: its processes keep coming back", "is another command starting it just now?")
    with record.locked():
        _remove(place)
    say(f"{name}: down, {ended} process{'es' if ended != 1 else ''} ended")


def _processes(known: Record | None, folders: set[Path]) -> list[ProcessId]:
    """Those written down, and those that were started by a command killed before it could write them down."""
    found = [each for each in known.processes if each.alive()] if known else []
    for folder in folders:
        found += process.naming(f"{folder}/")
    return list(dict.fromkeys(found))


def _remove(folder: Path) -> None:
    for again in reversed(range(ROUNDS)):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if not folder.exists():
                break
            if not again or error.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # another command works in it, too
                raise HostError(f"{folder} cannot be removed: {error}", f"as its owner: rm -r {folder}") from error
        else:
            break


def _complain(name: str, stuck: list[ProcessId]) -> None:
    listed = ", ".join(f"{each.pid} ({' '.join(process.arguments_of(each.pid))[:60]})" for each in stuck)
    raise HostError(
        f"testbed {name}: could not end {listed}",
        "they may belong to another user, or hang in the kernel"
        if os.geteuid()
        else "they hang in the kernel: `ps -o pid,stat,wchan` says where",
    )
