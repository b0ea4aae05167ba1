"""The program that saved guests have in memory, as a process of this host."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.stages.deployment import ENDED

ROOT = Path(__file__).parents[2]
# Guests load vfio's modules for it; this host has no business to.
PROGRAM = "from guest import resident; resident.load_drivers = lambda: None; resident.main()"


class Resident:
    def __init__(self, folder: Path) -> None:
        self.log = folder / "agent.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        argv = [sys.executable, "-S", "-c", PROGRAM, str(self.port), str(self.log)]
        subprocess.run(argv, cwd=ROOT, check=True, timeout=60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def processes(self) -> list[int]:
        """All of its own: they share its command line."""
        wanted = os.fsencode(str(self.log))
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if wanted in entry.read_bytes():
                    found.append(int(entry.parent.name))
            except OSError:
                continue
        return found


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    running = Resident(tmp_path)
    yield running
    for pid in running.processes():
        with contextlib.suppress(ProcessLookupError):  # an agent ends with its connection
            os.kill(pid, signal.SIGKILL)


def ask(connection: socket.socket, operation: str) -> dict[str, object]:
    connection.sendall(json.dumps({"op": operation}).encode() + b"\n")
    answer: dict[str, object] = json.loads(connection.makefile("rb").readline())
    return answer


def await_end(connection: socket.socket) -> None:
    assert connection.recv(1) == b""


def test_it_listens_when_its_first_process_has_ended_and_each_connection_has_an_agent_of_its_own(
    resident: Resident,
) -> None:
    with resident.connect() as one, resident.connect() as two:
        assert ask(one, "hello")["event"] == "hello"
        assert ask(two, "hello")["isa"] == os.uname().machine
        assert ask(one, "exit") == {"event": "exiting", "op": "exit"}
        await_end(one)
        assert ask(two, "hello")["event"] == "hello"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_its_log_says_how_an_agent_ended(resident: Resident) -> None:
    before = set(resident.processes())
    with resident.connect() as connection:
        ask(connection, "hello")
        parents = {pid: parent(pid) for pid in set(resident.processes()) - before}
        # The supervisor is the resident program's child, the agent is the supervisor's; the launcher is the agent's.
        (supervisor,) = (pid for pid, above in parents.items() if above not in parents)
        (agent,) = (pid for pid, above in parents.items() if above == supervisor)
        watched = os.pidfd_open(supervisor)
        os.kill(agent, signal.SIGKILL)
        await_end(connection)
        assert select.select([watched], [], [], 30)[0] == [watched]
        os.close(watched)
    assert resident.log.read_text().splitlines()[-1] == f"{ENDED}killed by SIGKILL"
