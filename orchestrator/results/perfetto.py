"""A run as a trace that Perfetto (and chrome://tracing) opens: stages and points of the host, faults and messages of
every kernel, on the host's clock.

The format is the Trace Event Format in JSON: complete events (`X`), instants (`i`), and flows (`s`, `f`) from the
send of a message to its receipt. Times are in µs since the run's first event.
"""

from collections.abc import Iterator
from typing import Any

from orchestrator.experiments.parameters import describe
from orchestrator.results.events import EventName
from orchestrator.results.past_run import PastRun
from orchestrator.results.timeline import Timeline, timeline

HOST = 1
"""The host's process id in the trace; kernels have those behind it."""
MESSAGES_THREAD = 1000
"""Track of a kernel's messages; its threads have tracks 0, 1, …"""
MESSAGE_US = 1.0
"""Drawn length of sending and receiving, which have none."""


def trace_events(run: PastRun) -> dict[str, Any]:
    """The whole trace, ready for JSON."""
    start_s = run.events[0]["monotonic_s"] if run.events else 0.0
    nodes: dict[str, int] = {}
    events = list(_host(run, start_s))
    flow = 0
    for point in run.points:
        told = timeline(point, run.directory)
        if told is None:
            continue
        for node in told.nodes:
            nodes.setdefault(node, HOST + 1 + len(nodes))
        # A clock that the host was wrong about puts nothing outside the point that it belongs to.
        begun_s = told.begun_s if told.begun_s is not None else point.started_s
        within = point.started_s <= begun_s <= (point.finished_s or begun_s)
        origin_us = ((begun_s if within else point.started_s) - start_s) * 1e6
        events += _kernels(told, nodes, origin_us, flow)
        flow += len(told.messages)
    names = _named(HOST, "host", {0: "stages", 1: "points"})
    for node, number in nodes.items():
        names += _named(number, node, {MESSAGES_THREAD: "messages"})
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ns"}


def _named(process: int, name: str, threads: dict[int, str]) -> list[dict[str, Any]]:
    """What the trace's reader calls a process and its tracks."""
    return [
        {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}},
        {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}},
        *(
            {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": word}}
            for thread, word in threads.items()
        ),
    ]


def _host(run: PastRun, start_s: float) -> Iterator[dict[str, Any]]:
    for event in run.events:
        at_us = (event["monotonic_s"] - start_s) * 1e6
        if event["event"] == EventName.STAGE_FINISHED:
            length_us = event["duration_s"] * 1e6
            yield _complete(HOST, 0, event["name"], "stage", at_us - length_us, length_us, {"ok": event["ok"]})
        elif event["event"] == EventName.NODE_READY:
            yield {"ph": "i", "s": "p", "pid": HOST, "tid": 0, "name": f"{event['name']} ready", "ts": at_us}
    for point in run.points:
        if point.result is not None:
            length_us = (point.finished_s - point.started_s) * 1e6
            name = f"point {point.index + 1}: {describe(point.parameters)}"
            arguments = {"messages": point.result.get("messages_total"), "passed": point.passed}
            yield _complete(HOST, 1, name, "point", (point.started_s - start_s) * 1e6, length_us, arguments)


def _kernels(told: Timeline, nodes: dict[str, int], origin_us: float, flow: int) -> Iterator[dict[str, Any]]:
    for fault in told.faults:
        begin_us = origin_us + fault.begin_s * 1e6
        process, length_us = nodes[fault.node], fault.duration_s * 1e6
        yield _complete(process, fault.thread, fault.kind, "fault", begin_us, length_us, {"page": fault.page})
    for number, message in enumerate(told.messages, flow):
        for at_s, node, phase, word in (
            (message.sent_s, message.sender, "s", "to"),
            (message.received_s, message.receiver, "f", "from"),
        ):
            at_us, process = origin_us + at_s * 1e6, nodes[node]
            other = message.receiver if word == "to" else message.sender
            arguments: dict[str, Any] = {word: other} | ({} if message.page is None else {"page": message.page})
            yield _complete(process, MESSAGES_THREAD, message.name, "message", at_us, MESSAGE_US, arguments)
            flowing = {"ph": phase, "id": number, "pid": process, "tid": MESSAGES_THREAD, "ts": at_us}
            yield flowing | {"name": message.name, "cat": "message"} | ({"bp": "e"} if phase == "f" else {})
    for barrier, at_s in told.barriers:
        for node in told.nodes:
            yield {
                "ph": "i", "s": "p", "pid": nodes[node], "tid": 0, "name": f"barrier {barrier}",
                "ts": origin_us + at_s * 1e6,
            }  # fmt: skip


def _complete(
    process: int, thread: int, name: str, category: str, at_us: float, length_us: float, arguments: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X", "pid": process, "tid": thread, "name": name, "cat": category, "ts": round(at_us, 3),
        "dur": round(length_us, 3), "args": arguments,
    }  # fmt: skip
