"""The guest side's code on its way into guests: compiled once, cached, unpacked, and started as an agent."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from images import Image, compile_tree
from images.errors import writing
from orchestrator.stages.agents import AgentProcess
from testbed import Deadline, GuestError
from testbed.channels import reader, writer
from testbed.machine import Node
from testbed.states import Resident

if TYPE_CHECKING:
    from paramiko import Channel

    from testbed.shell import Process, Shell

SOURCES = Path(__file__).parents[2] / "guest"
TARGET = "/opt/testbed"
RESIDENT_PORT = 7
"""On the guest's own loopback, which has nobody else's services."""
LOG = "/run/agent.log"
ENDED = "agent ended: "
"""Begins the last line of it, as in `guest.resident`."""
SAID_BYTES, SAID_S = 65536, 10.0
EXIT_S = 1.0
"""Between the end of an agent's output and its own."""
ENDING_S = 1.0
"""A machine that ends closes its connections a moment before it is gone."""
# One command a node: each costs an emulated guest a process of its shell and another of its SSH server. The archive's
# length is known, so what follows it on standard input is left for the agent. `-S`: there are no site packages.
_START = 'mkdir -p "$2" && cd "$2" && head -c "$1" | tar -x -f - && exec python3 -S -m guest.agent'


def archive(image: Image, say: Callable[[str], None]) -> bytes:
    """A tar of the package `guest`, compiled by the interpreter of the guests; made again when a file of it changes."""
    cached = _cached(image.key)
    try:
        return cached.read_bytes()
    except FileNotFoundError:
        pass
    say("compiling the guest side's code")
    content = compile_tree(image, SOURCES)
    with writing(cached):
        cached.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(cached.parent.glob("*.tar"), key=lambda path: path.stat().st_mtime)[:-8]:
            old.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cached.parent) as folder:
            draft = Path(folder, cached.name)
            draft.write_bytes(content)
            draft.replace(cached)
    return content


def _cached(image: str) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("testbed") / "guest" / f"{image}-{_hash(SOURCES)}.tar"


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def resident(code: bytes) -> Resident:
    """What a guest's state is saved with, so that whoever restores it has agents at once."""
    return Resident(code, TARGET, ("python3", "-S", "-m", "guest.resident", str(RESIDENT_PORT), LOG))


def resident_key(image: str) -> str | None:
    """The key of what guests of this image (its key) would be saved with now; None if that was not compiled yet."""
    try:
        return resident(_cached(image).read_bytes()).key
    except FileNotFoundError:
        return None


class GuestAgent:
    """An agent started on a guest; implements `orchestrator.stages.agents.AgentProcess`."""

    def __init__(self, node: Node, shell: "Shell", process: "Process") -> None:
        self._node, self._shell, self._process = node, shell, process
        self.stdin, self.stdout = process.stdin, process.stdout

    def said(self) -> str:
        return self._process.errors().decode(errors="replace")

    def ended(self) -> str:
        try:
            self._node.check(0.0 if self._shell.connected else ENDING_S)
            code = self._process.wait(Deadline.scaled(EXIT_S, self._node.accelerator))
        except GuestError as error:
            return error.message
        return f"exit code {code}" if code >= 0 else "killed by a signal"

    def close(self) -> None:
        self._process.close()
        self._shell.close()


class ResidentAgent:
    """An agent of the resident program (`guest.resident`); implements `orchestrator.stages.agents.AgentProcess`."""

    def __init__(self, node: Node, shell: "Shell", channel: "Channel") -> None:
        self._node, self._shell, self._channel = node, shell, channel
        self.stdin, self.stdout = writer(channel), reader(channel)

    def said(self) -> str:
        try:
            return self._shell.run(["tail", "-c", str(SAID_BYTES), LOG], deadline=Deadline(SAID_S)).stdout.decode(
                errors="replace"
            )
        except GuestError:
            return ""

    def ended(self) -> str:
        try:
            self._node.check(0.0 if self._shell.connected else ENDING_S)
        except GuestError as error:
            return error.message
        lines = self.said().splitlines()
        return lines[-1].removeprefix(ENDED) if lines and lines[-1].startswith(ENDED) else "it closed its connection"

    def close(self) -> None:
        self._channel.close()
        self._shell.close()


def start_agent(node: Node, code: bytes, deadline: Deadline) -> AgentProcess:
    """Log in to the node, and have an agent: of the resident program, else from the code. Raises GuestError."""
    shell = node.shell(deadline)
    try:
        if node.warm:
            return ResidentAgent(node, shell, shell.connect(RESIDENT_PORT, deadline))
        process = shell.spawn(["sh", "-c", _START, "start", str(len(code)), TARGET], deadline)
        process.stdin.write(code)
    except (OSError, EOFError) as error:
        shell.close()
        raise GuestError(f"node {node.name}: cannot deploy the agent: {error}") from error
    except BaseException:
        shell.close()
        raise
    return GuestAgent(node, shell, process)
