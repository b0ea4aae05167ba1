"""Commands and files in a guest over SSH (paramiko), with the testbed's own key and the node's pinned host key."""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from testbed.channels import reader, writer
from testbed.deadline import Deadline
from testbed.errors import GuestError
from testbed.keys import CLIENT_KEY, KNOWN_HOSTS

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it says, our errors say better

USER = "root"
CONNECT_S = 60.0
"""An emulated guest takes about a second for key exchange and log-in; many at once on a busy host take longer."""
RUN_S = 600.0
ERRORS_KEPT_BYTES = 65536


@dataclass(frozen=True)
class Completed:
    """How a command ended, and what it wrote (of standard error the last 64 KiB)."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Process:
    """A command that runs in the guest: `stdin` and `stdout` are binary files. Closing `stdin` is its end of file.

    What it writes to standard error is taken off its hands all the time; `errors()` gives the end of it.
    """

    def __init__(self, node: str, argv: Sequence[str], channel: paramiko.Channel) -> None:
        self.node = node
        self.argv = tuple(argv)
        self._channel = channel
        self.stdin = writer(channel)
        self.stdout = reader(channel)
        self._errors = bytearray()
        self._drain = threading.Thread(target=self._read_errors, name=f"stderr of {argv[0]} on {node}", daemon=True)
        self._drain.start()

    def _read_errors(self) -> None:
        # Unread output would stop the command once the channel's window is full.
        while data := self._channel.recv_stderr(32768):
            self._errors += data
            del self._errors[:-ERRORS_KEPT_BYTES]

    def errors(self) -> bytes:
        """The last 64 KiB of standard error so far; all of it once the command has ended."""
        if self._channel.exit_status_ready():
            self._drain.join(1.0)
        return bytes(self._errors)

    def wait(self, deadline: Deadline | None = None) -> int:
        """The exit code, -1 when a signal ended it. Raises GuestError when the deadline passes or the guest is gone."""
        limit = deadline or Deadline(RUN_S)
        if not self._channel.status_event.wait(limit.remaining()):
            raise GuestError(f"node {self.node}: {shlex.join(self.argv)} did not end in {limit.seconds:g} s")
        # paramiko has no word for the signal that ended a command: no status over a connection that stands is that.
        if self._channel.exit_status == -1 and not self._channel.get_transport().is_active():
            raise GuestError(
                f"node {self.node}: the connection ended before {shlex.join(self.argv)} did",
                "the node's console may say why",
            )
        return int(self._channel.exit_status)

    def close(self) -> None:
        """Ends the connection to it; a command that reads its standard input sees the end of it."""
        self._channel.close()


class Shell:
    """One SSH connection to a node; commands share it. Raises GuestError when the node does not let us in."""

    def __init__(self, node: str, port: int, directory: Path, deadline: Deadline | None = None) -> None:
        self.node = node
        limit = deadline or Deadline(CONNECT_S)
        expected = _pinned_key(directory / KNOWN_HOSTS, node)
        try:
            connection = socket.create_connection(("127.0.0.1", port), max(limit.remaining(), 0.001))
            # Small messages go back and forth; none of them should wait for another one's acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._transport = paramiko.Transport(connection)
        except (OSError, paramiko.SSHException) as error:
            raise GuestError(f"node {node}: no connection to 127.0.0.1:{port}: {error}") from error
        try:
            self._log_in(expected, directory / CLIENT_KEY, limit)
        except BaseException:
            self._transport.close()
            raise

    def _log_in(self, expected: str, key: Path, deadline: Deadline) -> None:
        transport = self._transport
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = deadline.remaining()
        transport.get_security_options().key_types = ("ssh-ed25519",)
        try:
            transport.start_client(timeout=max(deadline.remaining(), 0.001))
            found = transport.get_remote_server_key()
            if f"{found.get_name()} {found.get_base64()}" != expected:
                raise GuestError(
                    f"node {self.node}: the host key is {found.get_base64()}, expected {expected.split()[1]}",
                    "something other than this node answers at its port; take the testbed down and up again",
                )
            transport.auth_publickey(USER, paramiko.Ed25519Key.from_private_key_file(str(key)))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise GuestError(f"node {self.node}: SSH log-in failed: {_words(error)}") from error

    def spawn(self, argv: Sequence[str], deadline: Deadline | None = None) -> Process:
        """Starts a command. Each word reaches it as it is: the guest's shell sees them quoted."""
        limit = deadline or Deadline(CONNECT_S)
        try:
            channel = self._transport.open_session(timeout=max(limit.remaining(), 0.001))
            channel.settimeout(None)
            channel.exec_command(shlex.join(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise GuestError(f"node {self.node}: cannot run {shlex.join(argv)}: {_words(error)}") from error
        return Process(self.node, argv, channel)

    def connect(self, port: int, deadline: Deadline | None = None) -> paramiko.Channel:
        """A connection to a port of the guest's own loopback. Raises GuestError when nobody listens there."""
        limit = deadline or Deadline(CONNECT_S)
        try:
            channel = self._transport.open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=max(limit.remaining(), 0.001)
            )
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise GuestError(f"node {self.node}: no connection to port {port}: {_words(error)}") from error
        channel.settimeout(None)
        return channel

    def run(self, argv: Sequence[str], input: bytes | None = None, deadline: Deadline | None = None) -> Completed:  # noqa: A002
        """Runs a command to its end. Raises GuestError when the deadline passes; looking at the exit code is yours."""
        limit = deadline or Deadline(RUN_S)
        process = self.spawn(argv, limit)
        try:
            return self._communicate(process, input or b"", limit)
        finally:
            process.close()

    def _communicate(self, process: Process, data: bytes, deadline: Deadline) -> Completed:
        channel = process._channel
        errors = bytearray()

        def feed() -> None:
            # A command may end without reading all of its input.
            with contextlib.suppress(OSError):
                channel.sendall(data)
                channel.shutdown_write()

        feeder = threading.Thread(target=feed, name=f"stdin of {process.argv[0]} on {self.node}", daemon=True)
        feeder.start()
        output = bytearray()
        channel.settimeout(max(deadline.remaining(), 0.001))
        try:
            while part := channel.recv(65536):
                output += part
                channel.settimeout(max(deadline.remaining(), 0.001))
        except TimeoutError:
            raise GuestError(
                f"node {self.node}: {shlex.join(process.argv)} did not end in {deadline.seconds:g} s; "
                f"it wrote {bytes(output[-500:]).decode(errors='replace')!r}"
            ) from None
        code = process.wait(deadline)
        errors += process.errors()
        return Completed(code, bytes(output), bytes(errors))

    def put(self, content: bytes, path: str, mode: int = 0o644, deadline: Deadline | None = None) -> None:
        """Writes a file in the guest, as a whole or not at all; its folder is made. Raises GuestError."""
        # One process and one round trip; SFTP would start a server and ask four times.
        script = 'mkdir -p "${1%/*}" && cat >"$1.part" && chmod "$2" "$1.part" && mv -f "$1.part" "$1"'
        done = self.run(["sh", "-c", script, "put", path, f"{mode:o}"], content, deadline)
        if done.exit_code:
            said = done.stderr.decode(errors="replace").strip()
            raise GuestError(f"node {self.node}: cannot write {path} ({len(content)} bytes): {said}")

    def get(self, path: str, deadline: Deadline | None = None) -> bytes:
        """Reads a file of the guest. Raises GuestError."""
        done = self.run(["cat", "--", path], None, deadline)
        if done.exit_code:
            raise GuestError(f"node {self.node}: cannot read {path}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    @property
    def connected(self) -> bool:
        """Whether the connection still stands."""
        return self._transport.is_active()

    def close(self) -> None:
        """Ends the connection and with it all that runs over it."""
        self._transport.close()


def _pinned_key(file: Path, node: str) -> str:
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise GuestError(f"node {node}: no known host keys: {error}", "is the testbed still up?") from error
    for line in lines:
        name, _, key = line.partition(" ")
        if name == node:
            return key
    raise GuestError(f"node {node}: {file} holds no host key of it")


def _words(error: Exception) -> str:
    # EOFError, which paramiko raises for a connection that is cut, says nothing by itself.
    return str(error) or type(error).__name__
