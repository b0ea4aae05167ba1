"""The event log of a run: one JSON object a line, only ever appended to: an interrupted run tells how far it came.

Every event has four fields, whatever else it holds:

| field | meaning |
|---|---|
| `sequence` | 0, 1, 2, … without gaps |
| `wall` | UTC time, ISO 8601 with microseconds; for people, may jump |
| `monotonic_s` | CLOCK_MONOTONIC of the host in seconds; for differences |
| `event` | one of `EventName` |

and the fields of its kind, in docs/results.md. Every figure of run.json is computed from these events.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from images.errors import HostError, no_room
from orchestrator.errors import InputError

SCHEMA_VERSION = 2


class EventName(StrEnum):
    """Kinds of events. Their fields are explained in docs/results.md; a test holds that page against a run."""

    RUN_STARTED = "run_started"
    MADE_WITH = "made_with"
    """The file, the command, the versions and the host of the run."""
    SAID = "said"
    """A line that the person in front of it was shown, or could have been."""
    STAGE_STARTED = "stage_started"
    STAGE_FINISHED = "stage_finished"
    NODE_READY = "node_ready"
    """A machine is up and its agent answers."""
    RUN_RESUMED = "run_resumed"
    """The run was interrupted, and goes on."""
    POINT_STARTED = "point_started"
    AGENT_FINISHED = "agent_finished"
    """One node's answer to a point, unabridged."""
    ATTEMPT_FAILED = "attempt_failed"
    """A point did not come to its end, this time."""
    POINT_FINISHED = "point_finished"
    """The point as in run.json. Of a point that has several, as it was run again when the run was resumed, the last."""
    FAILED = "failed"
    """The run ended early, or something was not as expected."""
    RUN_FINISHED = "run_finished"


class EventLog:
    """Appends events to a file; safe to use from several threads. Each line is handed to the kernel at once.

    When there is no room for one, it and all later ones are dropped and `failure` says so: what goes on meanwhile, the
    end of the guests above all, must not fail for it.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """A new log; with `resume`, one that is gone on with. Raises InputError when another process writes it."""
        self.failure: HostError | None = None
        self.torn = ""
        """Of a log that is gone on with: the beginning of a line that was never completed. It is taken out of it."""
        self._path = path
        self._file = path.open("r+" if resume else "x", encoding="utf-8")
        self._sequence = 0
        self._lock = threading.Lock()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            found = "a run that is still going on"
            raise InputError(f"{path.parent}: found {found}, expected one that has ended", "wait for it") from None
        if resume:
            self._go_to_end()

    def _go_to_end(self) -> None:
        content = self._path.read_bytes()
        whole, newline, rest = content.rpartition(b"\n")
        self.torn = rest.decode(errors="replace")
        self._file.truncate(len(whole) + len(newline))
        self._file.seek(0, os.SEEK_END)
        self._sequence = content.count(b"\n")

    def append(self, event: EventName, **fields: Any) -> None:
        """Write one event. After `close` it is dropped: a late thread must not bring the end down."""
        with self._lock:
            if self._file.closed or self.failure is not None:
                return
            common = {
                "sequence": self._sequence,
                "wall": datetime.now(UTC).isoformat(timespec="microseconds"),
                "monotonic_s": round(time.monotonic(), 6),
                "event": event.value,
            }
            try:
                self._file.write(json.dumps(common | fields, separators=(",", ":")) + "\n")
                self._file.flush()
            except OSError as error:
                self.failure = no_room(error, self._path)
                if self.failure is None:
                    raise
                self.failure.hint = (
                    f"make room there (`df -h`); `testbed run --resume {self._path.parent}` goes on after that"
                )
            self._sequence += 1

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # what found no room is still in its buffer
            self._file.close()
