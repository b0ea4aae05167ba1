"""Programs of the user's on their way to the nodes: scripts as they are, C sources compiled for each ISA.

Everything is compiled before anything is started, so that what does not compile is wrong input like any other. Each
agent is sent each file once, in pieces, and keeps it in memory.
"""

import hashlib
import platform
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.errors import InputError
from orchestrator.experiments.experiment import Experiment
from orchestrator.experiments.plan import Plan
from orchestrator.experiments.workloads import Command, Native, Process, Script
from orchestrator.stages.agents import Agents
from orchestrator.stages.compilers import CompilerSaysNo, compiled
from testbed.deadline import Deadline

HEADERS = Path(__file__).parents[2] / "guest" / "native"
FLAGS = ("-std=gnu17", "-D_GNU_SOURCE", "-static", "-Wall", f"-I{HEADERS}")
"""Static: it runs in any image, with the C library that it was compiled against."""
PIECE_BYTES = 1 << 19
"""Of a file in one command: a line of an agent has a megabyte at most."""


class Programs:
    """All programs of a plan, ready for the nodes' ISAs."""

    def __init__(self, plan: Plan, stage: str) -> None:
        """Compiles what has to be. Raises InputError for what does not compile, HostError without a compiler."""
        self._files = plan.files
        self._stage = stage
        self._binaries: dict[tuple[str, str], bytes] = {}
        self._delivered: dict[tuple[Agents, str], set[str]] = {}
        for point in plan.points:
            if isinstance(point.experiment.workload, Native):
                for node in point.experiment.testbed.nodes:
                    self._compile(point.experiment, point.experiment.workload, self._arch(point.experiment, node))

    def deliver(self, experiment: Experiment, nodes: list[str], agents: Agents, deadline: Deadline) -> dict[str, str]:
        """Send each node its program, if it has not got it. Returns the name by which each agent knows it, or ""."""
        workload = experiment.workload
        if not isinstance(workload, Script | Native | Process):
            return dict.fromkeys(nodes, "")
        names = {}
        files = {}
        for node in nodes:
            arch = self._arch(experiment, node)
            if isinstance(workload, Native):
                stem, content = PurePosixPath(workload.source).stem, self._binaries[_key(workload), arch]
            else:
                stem, content = PurePosixPath(workload.file).name, self._files[workload.file]
            names[node] = _name(stem, content)
            files[node] = names[node], content
        self._deliver(agents, files, deadline)
        return names

    def send(self, command: Command, node: str, agents: Agents, deadline: Deadline) -> dict[str, str]:
        """Send the node the files of its commands. Returns the names by which its agent knows them, by their own."""
        names = {}
        for path in command.send.get(node, ()):
            own, content = PurePosixPath(path).name, self._files[path]
            names[own] = _name(own, content)
            self._deliver(agents, {node: (names[own], content)}, deadline)
        return names

    def _deliver(self, agents: Agents, files: Mapping[str, tuple[str, bytes]], deadline: Deadline) -> None:
        """To each node its file (name and content), unless its agent has it."""
        known = {node: self._delivered.setdefault((agents, node), set()) for node in files}
        new = {node: (name, content) for node, (name, content) in files.items() if name not in known[node]}
        _send(agents, new, deadline)
        for node, (name, _) in new.items():
            known[node].add(name)

    def _arch(self, experiment: Experiment, node: str) -> str:
        return platform.machine() if self._stage == "local" else experiment.testbed.nodes[node].arch.value

    def _compile(self, experiment: Experiment, workload: Native, arch: str) -> None:
        key = _key(workload)
        if (key, arch) in self._binaries:
            return
        name = PurePosixPath(workload.source).name
        with tempfile.TemporaryDirectory(prefix="testbed-source-") as folder:
            source = Path(folder) / name
            source.write_bytes(self._files[workload.source])
            try:
                self._binaries[key, arch] = compiled(source, arch, [*FLAGS, *workload.flags], workload.libraries)
            except CompilerSaysNo as error:
                said = str(error).replace(f"{source}", name)
                raise InputError(
                    f"{experiment.name}: found a program that does not compile for {arch}:\n{said}"
                ) from None


def _key(workload: Native) -> str:
    return "\0".join([workload.source, *workload.flags, "-l", *workload.libraries])


def _name(stem: str, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:16]}/{stem}"


def _send(agents: Agents, files: Mapping[str, tuple[str, bytes]], deadline: Deadline) -> None:
    """All nodes at once: an emulated guest needs a while to take a file in."""
    for offset in range(0, max((len(content) or 1 for _, content in files.values()), default=0), PIECE_BYTES):
        pieces: dict[str, dict[str, Any]] = {
            node: {"op": "put", "name": name, "offset": offset, "data": _piece(content, offset)}
            for node, (name, content) in files.items()
            if offset < (len(content) or 1)
        }
        agents.ask(pieces, deadline)


def _piece(content: bytes, offset: int) -> str:
    return b64encode(content[offset : offset + PIECE_BYTES]).decode()
