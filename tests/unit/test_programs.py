"""Programs on their way to the nodes: once, to all nodes at a time, and again after a failure."""

from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.plan import Plan, load
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.record import Record
from orchestrator.run import run
from orchestrator.stages.agents import Agents
from orchestrator.stages.programs import PIECE_BYTES, Programs
from testbed.deadline import Deadline
from testbed.errors import GuestError

SCRIPT = """\
name: own
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}}
coherency: {link: shm0, region: 1MiB}
workload: {kind: script, file: own.py, threads: {x86: a, arm: b}}
matrix: {workload.iterations: [1, 2]}
"""


class Taking(Agents):
    """Agents that take in what they are sent, or not."""

    def __init__(self) -> None:
        self.asked: deque[Mapping[str, dict[str, Any]]] = deque()
        self.silent = False

    def ask(self, commands: Mapping[str, dict[str, Any]], deadline: Deadline) -> dict[str, dict[str, Any]]:
        self.asked.append(commands)
        if self.silent and any(command["op"] == "put" for command in commands.values()):
            raise GuestError("nobody answers")
        return {}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "own.py").write_text("# " + "x" * PIECE_BYTES)
    (tmp_path / "own.yaml").write_text(SCRIPT)
    return load(tmp_path / "own.yaml")


def test_all_nodes_take_a_program_at_a_time_and_once(plan: Plan) -> None:
    agents, programs = Taking(), Programs(plan, "vm")
    names = [programs.deliver(point.experiment, ["x86", "arm"], agents, Deadline(1)) for point in plan.points]
    assert names[0] == names[1]
    assert [set(commands) for commands in agents.asked] == [{"x86", "arm"}] * 2
    pieces = [commands["arm"] for commands in agents.asked]
    assert {piece["name"] for piece in pieces} == {names[0]["arm"]}
    assert [piece["offset"] for piece in pieces] == [0, PIECE_BYTES]
    (content,) = plan.files.values()
    assert b"".join(b64decode(piece["data"]) for piece in pieces) == content


def test_what_did_not_arrive_is_sent_again_and_new_agents_have_nothing(plan: Plan) -> None:
    agents, programs = Taking(), Programs(plan, "vm")
    agents.silent = True
    with pytest.raises(GuestError):
        programs.deliver(plan.points[0].experiment, ["x86", "arm"], agents, Deadline(1))
    agents.silent = False
    for each in (agents, Taking()):
        each.asked.clear()
        programs.deliver(plan.points[0].experiment, ["x86", "arm"], each, Deadline(1))
        assert len(each.asked) == 2


def test_programs_are_there_before_the_first_point_begins(plan: Plan, tmp_path: Path) -> None:
    agents = Taking()
    agents.silent = True

    class Stage:
        def provision(self) -> list[Any]:
            return []

        def deploy(self) -> Agents:
            return agents

        def deadline(self, seconds: float) -> Deadline:
            return Deadline(seconds)

        def link_for(self, _link: str, node: str) -> dict[str, Any]:
            return {"kind": "of " + node}

        def taken_down(self) -> bool:
            return False

        def collect(self, _directory: RunDirectory) -> None: ...

        def teardown(self, *, keep: bool) -> None: ...

    agents.close = lambda: None  # type: ignore[method-assign]
    stage: Any = Stage()
    with (
        Progress(quiet=True) as progress,
        Record(plan, "vm", RunDirectory.create(tmp_path, plan.name), progress) as record,
        pytest.raises(GuestError, match="nobody answers"),
    ):
        run(plan, lambda _testbed: stage, Programs(plan, "vm"), record, progress)
    joined = {"op": "join", "kernel": 1, "link": {"kind": "of arm"}}
    assert next(commands["arm"] for commands in agents.asked if "arm" in commands) == joined
    told = (record.directory.path / "events.jsonl").read_text()
    assert '"name":"deploy"' in told.replace(" ", "")
    assert "point_started" not in told
