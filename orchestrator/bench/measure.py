"""The measurements, each a function from the guests to figures."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.bench import migrations
from orchestrator.bench.figures import Figure, Quantity, Unit, boot_parts
from orchestrator.bench.guests import NODES, SHAPE, Guests
from orchestrator.bench.reference import compile_reference
from testbed import GuestError

LOCAL_PAGES = 256
LOCAL_ROUNDS = 4
"""Times that all pages are touched."""
REMOTE_PAGES = 64
REMOTE_ITERATIONS = 8
"""In each, every page is written by one node and read by the other."""
STRIDE_BYTES = 4096
"""One element a page: what is measured is the fault, not what a program does with the page."""
FAILURE_DEADLINE_S = 6.0
"""Nobody is expected to die, with hardware acceleration."""
HAND_OVERS = 100
"""Times that a mutex goes to the other node and comes back."""
ROUND_TRIPS = {"poll": 2000, "interrupt": 200, "adaptive": 500}
TCP_ROUND_TRIPS = 300
_BINARY = "/run/fault_reference"
_HANDOVER = Path(__file__).parents[2] / "guest" / "bench" / "handover.py"
_WRITES_AND_READS = {
    "kind": "shared-array",
    "array_bytes": REMOTE_PAGES * STRIDE_BYTES,
    "stride": STRIDE_BYTES,
    "iterations": REMOTE_ITERATIONS,
}


class Section(StrEnum):
    """Parts of a bench run that can be had alone."""

    BOOT = "boot"
    WARM = "warm"
    FAULT = "fault"
    MUTEX = "mutex"
    MIGRATION = "migration"
    RING = "ring"
    TCP = "tcp"


def faults(guests: Guests, repeat: int) -> list[Figure]:
    """Local faults with the handler in C and with our daemon; remote faults in both directions."""
    figures = []
    for node in NODES:
        figures += _in_c(guests, node, repeat)
        figures.append(_local(guests, node, repeat))
    for writer, reader in (NODES, NODES[::-1]):
        figures += _remote(guests, writer, reader, repeat)
    return figures


def rings(guests: Guests, repeat: int) -> list[Figure]:
    """Round trips over the rings by each policy, begun by each node."""
    figures = []
    for policy, count in ROUND_TRIPS.items():
        samples: dict[str, list[float]] = {node: [] for node in NODES}
        for _ in range(repeat):
            guests.format_segment()
            with ThreadPoolExecutor(len(NODES), thread_name_prefix="ring") as pool:
                running = {
                    node: pool.submit(
                        guests.run_module, node, "guest.bench.guests", "ring", str(kernel), str(count), policy
                    )
                    for kernel, node in enumerate(NODES)
                }
            for node, each in running.items():
                samples[node] += each.result()[policy]
        for node, other in (NODES, NODES[::-1]):
            figures.append(Figure.of(Quantity(f"ring_{policy}"), (node, other), Unit.MICROSECONDS, samples[node]))
    return figures


def tcp(guests: Guests, repeat: int) -> list[Figure]:
    """Round trips over TCP, begun by each node."""
    figures = []
    for node, other in (NODES, NODES[::-1]):
        samples: list[float] = []
        for _ in range(repeat):
            samples += _tcp_once(guests, node, other)
        figures.append(Figure.of(Quantity.TCP, (node, other), Unit.MICROSECONDS, samples))
    return figures


def mutexes(guests: Guests, repeat: int) -> list[Figure]:
    """A mutex handed to a thread of the other node and back, seen by each node."""
    samples: dict[str, list[float]] = {node: [] for node in NODES}
    _put(guests, _HANDOVER)
    workload = {"kind": "script", "file": _HANDOVER.name, "iterations": HAND_OVERS, "pages": 1, "seed": 0}
    for _ in range(repeat):
        answers = _run(guests, [["partner"]] * len(NODES), workload, "adaptive")
        for node, answer in answers.items():
            samples[node] += json.loads(answer["output"][0])
    pairs = (NODES, NODES[::-1])
    return [Figure.of(Quantity.MUTEX, (node, other), Unit.MICROSECONDS, samples[node]) for node, other in pairs]


def moves(guests: Guests, repeat: int) -> list[Figure]:
    """Threads of a process that migrate to the other node and back, with the process at home on either."""
    _put(guests, migrations.PROGRAM)
    opening = {"pages": migrations.PAGES, "mapped": migrations.PAGES, "members": 1}
    runs = []
    for nodes in (NODES, NODES[::-1]):
        for _ in range(migrations.RUNS * repeat):
            answers = _run(guests, [[]] * len(NODES), migrations.WORKLOAD, "adaptive", nodes, opening)
            runs.append((nodes, [answers[node] for node in nodes]))
    return migrations.figures(runs)


def _put(guests: Guests, program: Path) -> None:
    """Have both agents keep the program, under its name."""
    source = b64encode(program.read_bytes()).decode()
    guests.ask({node: {"op": "put", "name": program.name, "offset": 0, "data": source} for node in NODES})


MEASUREMENTS: dict[Section, Callable[[Guests, int], list[Figure]]] = {
    # The agents keep the device once they have opened it, so the rings come before them.
    Section.RING: rings,
    Section.TCP: tcp,
    Section.FAULT: faults,
    Section.MUTEX: mutexes,
    Section.MIGRATION: moves,
}
"""All that need running guests, in the order in which they are made."""


@dataclass(frozen=True)
class Boot:
    """One boot of one guest: seconds until SSH answered, and its stages by the guest's own clock."""

    boot_s: float
    stages: Mapping[str, float]


def boots(samples: Mapping[str, Sequence[Boot]]) -> list[Figure]:
    """Boot times by node, what they consist of, and the pair's: it is ready when the slower one is."""
    figures = []
    for node, each in samples.items():
        figures.append(Figure.of(Quantity.BOOT, (node,), Unit.SECONDS, [boot.boot_s for boot in each]))
        parts = [boot_parts(boot.boot_s, boot.stages) for boot in each]
        figures += [Figure.of(part, (node,), Unit.SECONDS, [every[part] for every in parts]) for part in parts[0]]
    pairs = [max(boot.boot_s for boot in together) for together in zip(*samples.values(), strict=True)]
    return [*figures, Figure.of(Quantity.BOOT, tuple(samples), Unit.SECONDS, pairs)]


def _in_c(guests: Guests, node: str, repeat: int) -> list[Figure]:
    guests.shells[node].put(compile_reference(SHAPE.nodes[node].arch), _BINARY, 0o755)
    kinds: dict[str, list[float]] = guests.run(node, _BINARY, str(LOCAL_PAGES), str(LOCAL_ROUNDS * repeat))
    return [Figure.of(Quantity(f"c_{kind}"), (node,), Unit.MICROSECONDS, each) for kind, each in kinds.items()]


def _local(guests: Guests, node: str, repeat: int) -> Figure:
    found = guests.run_module(node, "guest.bench.guests", "local-fault", str(LOCAL_PAGES), str(LOCAL_ROUNDS * repeat))
    return Figure.of(Quantity.LOCAL_FAULT, (node,), Unit.MICROSECONDS, found["samples_us"])


def _remote(guests: Guests, writer: str, reader: str, repeat: int) -> list[Figure]:
    """One node writes all pages, then the other reads them, over and over, both daemons polling."""
    reads: list[float] = []
    writes: list[float] = []
    for _ in range(repeat):
        roles = [["writer" if node == writer else "reader"] for node in NODES]
        answers = _run(guests, roles, _WRITES_AND_READS, "poll")
        reads += answers[reader]["latency_us"]["remote_read"]
        writes += answers[writer]["latency_us"]["remote_write"]
    return [
        Figure.of(Quantity.REMOTE_READ, (reader, writer), Unit.MICROSECONDS, reads),
        Figure.of(Quantity.REMOTE_WRITE, (writer, reader), Unit.MICROSECONDS, writes),
    ]


def _run(
    guests: Guests,
    roles: list[list[str]],
    workload: dict[str, Any],
    notify: str,
    nodes: Sequence[str] = NODES,
    memory: Mapping[str, int] = MappingProxyType({"pages": REMOTE_PAGES}),
) -> dict[str, dict[str, Any]]:
    """`nodes` in the order of their kernel ids; `memory` is what the command `open` says of it."""
    guests.format_segment()
    opening = {"op": "open", "kernels": len(NODES), "protocol": "voting", "notify": notify, **memory}
    opening["failure_deadline_s"] = guests.deadline(FAILURE_DEADLINE_S).seconds
    link = {"kind": "ivshmem", "pci": None}
    guests.ask({node: {**opening, "kernel": kernel, "link": link} for kernel, node in enumerate(nodes)})
    answers = guests.ask({node: {"op": "run", "workload": workload, "all_roles": roles} for node in NODES})
    guests.ask({node: {"op": "close"} for node in NODES})
    for node, answer in answers.items():
        if not answer["verified"]:  # a figure of memory that is not coherent is worth nothing
            raise GuestError(f"node {node} read {answer['wrong']} wrong values while it was measured")
    return answers


def _tcp_once(guests: Guests, node: str, other: str) -> list[float]:
    address = guests.address(other)
    server = guests.shells[other].spawn(guests.module_command("guest.bench.tcp_round_trip", "serve", address))
    try:
        port = server.stdout.readline().strip().decode()
        if not port.isdigit():
            said = server.errors().decode(errors="replace").strip()
            raise GuestError(f"node {other}: the TCP server on {address} said {port!r}, expected its port:\n{said}")
        found = guests.run_module(node, "guest.bench.tcp_round_trip", "measure", address, port, str(TCP_ROUND_TRIPS))
    finally:
        server.close()
    return list(found["samples_us"])
