"""A point of the workload `command`: command lines on nodes, at the same time, and the files that they leave."""

from base64 import b64decode
from typing import Any

from orchestrator.experiments.plan import Point
from orchestrator.experiments.workloads import Command
from orchestrator.results.record import Record
from orchestrator.stages.agents import Agents, answer_within
from orchestrator.stages.programs import Programs
from testbed.deadline import Deadline

_NOTHING_MEASURED: dict[str, Any] = {
    "verified": True,
    "wrong": 0,
    "mismatches": [],
    "messages": {},
    "harness_messages": {},
    "latency_us": {},
}


def executed(
    point: Point, nodes: list[str], agents: Agents, programs: Programs, record: Record, deadline: Deadline
) -> dict[str, dict[str, Any]]:
    """Run the point's commands, which may take until the deadline from when they begin; each node's answer, in the
    words of other workloads. Raises GuestError."""
    workload = point.experiment.workload
    assert isinstance(workload, Command)
    files = {node: programs.send(workload, node, agents, deadline) for node in nodes}
    told = {"TESTBED_SEED": str(point.seed), "TESTBED_ITERATIONS": str(workload.iterations)}
    commands = {
        node: {
            "op": "execute",
            "commands": [list(argv) for argv in workload.commands[node]],
            "files": files[node],
            "environment": {**told, "TESTBED_NODE": node, **workload.environment},
            "deadline_s": deadline.seconds,
        }
        for node in nodes
    }
    answers = agents.ask(commands, answer_within(deadline.seconds))
    fetching = Deadline(deadline.seconds)
    for node in nodes:
        for name in workload.collect.get(node, ()):
            record.directory.keep_collected(point.index, node, name, _fetched(agents, node, name, fetching))
    return {node: _NOTHING_MEASURED | answers[node] for node in nodes}


def _fetched(agents: Agents, node: str, name: str, deadline: Deadline) -> bytes:
    content, size = b"", 1
    while len(content) < size:
        answer = agents.ask({node: {"op": "get", "name": name, "offset": len(content)}}, deadline)[node]
        piece, size = b64decode(answer["data"]), int(answer["size_bytes"])
        if not piece:
            break
        content += piece
    return content
