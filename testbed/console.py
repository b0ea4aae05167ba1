"""A guest's serial console as the host has logged it: stage marks, and the signs of a bad end."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

MARK = re.compile(r"testbed: stage=(?P<name>[a-z]+)(?: t=(?P<t>[0-9.]+))?(?: reason=(?P<reason>.*))?")
PANIC = re.compile(r"Kernel panic - not syncing.*|---\[ end Kernel panic.*")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Za-z0-9]|[\x00-\x08\x0b-\x1f\x7f]")
READY = "sshd"
FAILED = "failed"
LINE_MAX = 4096


@dataclass
class Console:
    """Reads the log at `path` as it grows; `stages` maps the names of stages reached to seconds of guest time.

    `failure` is the guest's own words for why it cannot go on, "" while there are none.
    """

    path: Path
    stages: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    panic: str = ""
    _offset: int = 0
    _rest: str = ""

    @classmethod
    def from_now_on(cls, path: Path) -> Console:
        """Of a machine that starts anew: what is in the log already belongs to its life before."""
        return cls(path, _offset=path.stat().st_size if path.exists() else 0)

    def update(self) -> list[str]:
        """Reads what is new; returns the names of stages that were reached since the last time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(new)
        *lines, self._rest = (self._rest + new.decode("utf-8", "replace")).split("\n")
        # A guest that never ends a line must not fill our memory.
        self._rest = self._rest[-LINE_MAX:]
        return [stage for line in lines if (stage := self._read_line(line))]

    def _read_line(self, line: str) -> str:
        if found := PANIC.search(line):
            self.panic = self.panic or clean(found.group())
        mark = MARK.search(line)
        if not mark:
            return ""
        name = mark["name"]
        if name == FAILED:
            self.failure = clean(mark["reason"] or "") or "no reason given"
        elif mark["t"]:
            self.stages[name] = float(mark["t"])
        return name

    @property
    def stage(self) -> str:
        """The last stage reached, "none" before the first."""
        return next(reversed(self.stages), "none")

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines that say something, fit for a terminal."""
        try:
            text = self.path.read_bytes()[-lines * 1000 :].decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return [cleaned for line in text.splitlines() if (cleaned := clean(line))][-lines:]


def clean(line: str) -> str:
    """`line` without what would move a terminal's cursor or change its colours."""
    return CONTROL.sub("", line).rstrip()
