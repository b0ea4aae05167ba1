"""The event log of a run: one JSON object a line, only ever appended to: an interrupted run tells how far it came.

Every event has four fields, whatever else it holds:

| field | meaning |
|---|---|
| `sequence` | 0, 1, 2, … without gaps |
| `wall` | UTC time, ISO 8601 with microseconds; for people, may jump |
| `monotonic_s` | CLOCK_MONOTONIC of the host in seconds; for differences |
| `event` | one of `EventName` |

and the fields its `EventName` documents. Every figure of run.json is computed from these events.
"""

import contextlib
import json
import threading
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from images.errors import HostError, no_room

SCHEMA_VERSION = 1


class EventName(StrEnum):
    """Kinds of events, and the fields each has beside the common ones."""

    RUN_STARTED = "run_started"
    """`schema`, `run_id`, `experiment`, `stage`, `points` (their number), `versions`."""
    SAID = "said"
    """`text`: what the tool told the person in front of it."""
    STAGE_STARTED = "stage_started"
    """`name`: provision, deploy, run, collect or teardown."""
    STAGE_FINISHED = "stage_finished"
    """`name`, `duration_s`, `ok`."""
    NODE_READY = "node_ready"
    """`name`, `arch`, `accelerator`, `accelerator_reason`, `boot_s`, `boot_stages_s`, `facts` (kernel, Python …)."""
    POINT_STARTED = "point_started"
    """`index`, `parameters`, `repetition`, `seed`."""
    AGENT_FINISHED = "agent_finished"
    """`index` of the point, `node`, `answer`: what its agent counted and measured, unabridged."""
    POINT_FINISHED = "point_finished"
    """`index`, `result`: the point as in run.json."""
    FAILED = "failed"
    """`kind`, `message`, `hint`: why the run ended early."""
    RUN_FINISHED = "run_finished"
    """`outcome`, `duration_s`."""


class EventLog:
    """Appends events to a file; safe to use from several threads. Each line is handed to the kernel at once.

    When there is no room for one, it and all later ones are dropped and `failure` says so: what goes on meanwhile, the
    end of the guests above all, must not fail for it.
    """

    def __init__(self, path: Path) -> None:
        self.failure: HostError | None = None
        self._path = path
        self._file = path.open("x", encoding="utf-8")
        self._sequence = 0
        self._lock = threading.Lock()

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
            self._sequence += 1

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # what found no room is still in its buffer
            self._file.close()
