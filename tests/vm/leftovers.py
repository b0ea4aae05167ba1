"""The command `testbed` with a state of its own, and what of it is still on this host afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Cockpit:
    """Runs commands whose testbeds nobody else sees, and looks for what they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.state)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command; its standard error is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, which the time-out of the test brings too."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate()
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def testbeds(self) -> list[dict[str, Any]]:
        """What `testbed ps` knows."""
        done = self.command("ps", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def processes(self, run_directories: list[str]) -> dict[int, str]:
        """Processes that have one of the folders, or this state, in their command line: QEMU and ivshmem servers."""
        places = [os.fsencode(place) for place in (str(self.state), *run_directories)]
        found = {}
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes()
            except OSError:
                continue  # ended meanwhile
            if any(place in line for place in places):
                found[int(entry.parent.name)] = line.replace(b"\0", b" ").decode(errors="replace")[:200]
        return found

    def assert_nothing_left(self, run_directories: list[str]) -> None:
        """No testbed, no process, no file: sockets are files in the run directories."""
        assert self.testbeds() == []
        assert self.processes(run_directories) == {}
        assert [place for place in run_directories if Path(place).exists()] == []
        assert sockets([str(self.state), *run_directories]) == []
        state = self.state / "testbed"
        assert not state.exists() or list(state.iterdir()) == []


def sockets(places: list[str]) -> list[str]:
    """Unix sockets below one of the folders, bound by whomever, whether their file is still there or not."""
    paths = [line.split(maxsplit=7)[7] for line in Path("/proc/net/unix").read_text().splitlines() if " /" in line]
    return [path for path in paths if any(path.startswith(f"{place}/") for place in places)]


def shared_memory_files() -> set[str]:
    """Names in /dev/shm, where a segment must never be."""
    return {path.name for path in Path("/dev/shm").iterdir()}
