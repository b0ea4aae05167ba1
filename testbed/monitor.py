"""A machine's monitor: QMP, QEMU's control protocol, on a unix socket of its own beside libvirt's.

Lines of JSON (QEMU, docs/interop/qmp-spec.txt): a greeting, then an answer to each command, with events in between.
The socket serves one client at a time; the next one waits for its greeting until the first has left.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.deadline import Deadline
from testbed.errors import GuestError

ANSWER_S = 5.0
"""QEMU answers in a millisecond, and on a busy host within a second."""
HELD = ("paused", "debug", "prelaunch", "inmigrate")
"""States of a machine that stands still because somebody wants it to, or is about to go on."""
LINE_MAX_BYTES = 64 << 20


class Refused(GuestError):
    """QEMU does not carry out a command; the machine is as it was."""


class Monitor:
    """A connection to the monitor at `path` of `node`. Raises GuestError when it does not answer."""

    def __init__(self, node: str, path: Path, deadline: Deadline | None = None) -> None:
        self.node = node
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        limit = deadline or Deadline(ANSWER_S)
        try:
            self._socket.connect(str(path))
            self._receive(limit)
            self.execute("qmp_capabilities", limit)
        except OSError as error:
            self.close()
            raise GuestError(
                f"node {node}: no monitor at {path}: {error}", "`testbed ps` shows whether the machine runs"
            ) from error
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """What QEMU returns for a QMP command. Raises Refused with its words, GuestError when no answer comes."""
        limit = deadline or Deadline(ANSWER_S)
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._socket.settimeout(max(limit.remaining(), 0.001))
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"node {self.node}: its monitor has gone: {error}", "has the machine ended?") from error
        while True:
            answer = self._receive(limit)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Refused(f"node {self.node}: QEMU refuses {command!r}: {answer['error'].get('desc', '')}")

    @property
    def status(self) -> str:
        """QEMU's word for what the machine does: "running", "paused", "shutdown", "internal-error" …"""
        return str(self.execute("query-status")["status"])

    def human(self, line: str) -> str:
        """What the monitor for people (HMP) prints for `line`; what it does not understand, it says in its answer."""
        said = self.execute("human-monitor-command", None, **{"command-line": line})
        return str(said).replace("\r\n", "\n")

    def _receive(self, deadline: Deadline) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._socket.settimeout(max(deadline.remaining(), 0.001))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise GuestError(
                    f"node {self.node}: its monitor does not answer in {deadline.seconds:g} s",
                    "it serves one at a time: is a `testbed monitor` open somewhere?",
                ) from None
            except ConnectionError:
                data = b""
            if not data:
                raise GuestError(f"node {self.node}: its monitor has gone", "has the machine ended?")
            self._rest += data
            if len(self._rest) > LINE_MAX_BYTES:
                raise GuestError(f"node {self.node}: its monitor sends a line of more than {LINE_MAX_BYTES >> 20} MiB")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise GuestError(f"node {self.node}: its monitor says {line[:80]!r}, expected an object of JSON")
        return answer

    def close(self) -> None:
        """Lets the next client in."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def arguments(path: Path) -> tuple[str, ...]:
    """QEMU's arguments that open a monitor at `path`."""
    name = "testbed-monitor"
    escaped = str(path).replace(",", ",,")
    return ("-chardev", f"socket,id={name},path={escaped},server=on,wait=off", "-mon", f"chardev={name},mode=control")
