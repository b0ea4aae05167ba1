"""What happened in a simulation, one entry an event: the event log's lines, and the last ones before a failure."""

import json
from collections.abc import Sequence
from typing import IO, NamedTuple

from guest.protocol.messages import Message, MessageName
from orchestrator.checker.trace import describe

LAST = 24
"""Events that a failure is shown with."""


class Event(NamedTuple):
    """One event in one kernel."""

    time_ns: int
    kernel: int
    what: str
    """`sends`, `receives`, `faults`, …"""
    page: int = -1
    peer: int = -1
    message: Message | None = None

    def line(self, names: Sequence[str]) -> str:
        """For people."""
        words = [f"{self.time_ns / 1000:12.3f} µs  {names[self.kernel]} {self.what}"]
        if self.message is not None:
            words.append(describe(self.message))
        if self.page >= 0:
            words.append(f"page {self.page}")
        if self.peer >= 0:
            words.append(f"{'to' if self.what == 'sends' else 'from'} {names[self.peer]}")
        return " ".join(words)

    def write(self, names: Sequence[str], log: IO[str]) -> None:
        """As a line of the event log."""
        fields: dict[str, object] = {"time_ns": self.time_ns, "kernel": names[self.kernel], "event": self.what}
        if self.page >= 0:
            fields["page"] = self.page
        if self.peer >= 0:
            fields["peer"] = names[self.peer]
        if self.message is not None:
            fields |= self.message._asdict() | {"name": MessageName(self.message.name).name}
        log.write(json.dumps(fields) + "\n")
