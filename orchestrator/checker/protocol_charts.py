"""Diagrams of the documentation, drawn from the protocols' tables and from engines at work.

    python -m orchestrator.checker.protocol_charts docs/protocol.md docs/address-space.md docs/threads.md

draws them again in place, between their marks; the tests fail while the pages show anything else.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from guest.protocol.address_space import AddressSpace, Kind, Operation
from guest.protocol.engine import Engine
from guest.protocol.messages import MessageName
from guest.protocol.origin import OriginEngine
from guest.protocol.origin_table import AWAY, HOME
from guest.protocol.space import SpaceEngine
from guest.protocol.table import TABLE, Event, Rule, State
from guest.protocol.voting import VotingEngine
from orchestrator.checker import thread_charts
from orchestrator.checker.rehearsal import Rehearsal, shared_array
from orchestrator.checker.trace import sequence_chart

AnyTable = Mapping[tuple[State, Any], Rule]
"""Every protocol has events of its own; their numbers mean the same."""

_LOCAL = {
    Event.READ_FAULT: "read",
    Event.WRITE_FAULT: "write",
    Event.GIVE_UP: "gives up",
    Event.PEER_DOWN: "a kernel died",
}


def state_diagram(table: AnyTable) -> str:
    """Every change of state that the table allows while no kernel dies; what stays in a state is left to the table."""
    changes: dict[tuple[State, State], list[str]] = {}
    for (before, event), rule in table.items():
        for after in rule.to:
            if after is not before and event != Event.PEER_DOWN:
                changes.setdefault((before, after), []).append(_LOCAL.get(event) or event.name)
    lines = ["stateDiagram-v2", "    [*] --> U"]
    lines += [f"    {before.name} --> {after.name}: {', '.join(names)}" for (before, after), names in changes.items()]
    return "\n".join(lines)


def rule_table(table: AnyTable) -> str:
    """The whole table, one line an event and state."""
    lines = ["| event | state | rule | next | may send |", "|---|---|---|---|---|"]
    for state, event in sorted(table, key=lambda key: (key[1], key[0])):
        rule = table[state, event]
        after = ", ".join(other.name for other in rule.to) or "–"
        sends = ", ".join(MessageName(name).name for name in rule.sends) or "–"
        lines.append(f"| {_LOCAL.get(event) or event.name} | {state.name} | {rule.says} | {after} | {sends} |")
    return "\n".join(lines)


def writers_meet(engine: type[Engine]) -> str:
    """Three kernels share a page; 0 and 1 write at the same moment, then 2 reads."""
    kernels = Rehearsal(3, 1, engine)
    for kernel in range(3):
        kernels.access(kernel, 0, write=False)
        kernels.settle()
    kernels.log.clear()
    kernels.access(0, 0, write=True)
    kernels.access(1, 0, write=True)
    kernels.settle()
    kernels.access(2, 0, write=False)
    kernels.settle()
    return sequence_chart(3, kernels.log)


def unmapping() -> str:
    """Two kernels share a page; the one that is not home writes it, and home's thread unmaps it meanwhile."""

    def engine(kernel: int, kernels: Iterable[int], pages: int) -> SpaceEngine:
        return SpaceEngine(VotingEngine(kernel, kernels, pages), kernel, kernels, AddressSpace.full(pages))

    kernels = Rehearsal(2, 1, engine)
    for kernel in range(2):
        kernels.access(kernel, 0, write=False)
        kernels.settle()
    kernels.log.clear()
    kernels.access(1, 0, write=True)
    kernels.operate(0, Operation(Kind.UNMAP, 0, 1))
    kernels.settle()
    return sequence_chart(2, kernels.log)


def message_counts() -> str:
    """Messages of the three workloads on two kernels, engines only."""
    runs = [(pages, iterations) for pages in (1, 64) for iterations in (1, 4, 16)]
    heads = " | ".join(f"{pages} page{'s' if pages > 1 else ''} × {iterations}" for pages, iterations in runs)
    lines = [f"| workload | {heads} |", "|---" * (len(runs) + 1) + "|"]
    for name, roles, at_once in (
        ("both read", "RR", True),
        ("one writes, one reads", "WR", True),
        ("both write, one after the other", "WW", False),
        ("both write, at the same moment", "WW", True),
    ):
        counts = [len(shared_array(roles, pages, iterations, at_once=at_once).log) for pages, iterations in runs]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def protocols_compared() -> str:
    """Messages a page: in the first iteration, and in each further one."""
    lines = ["| kernels | workload | voting: first | each further | origin: first | each further |", "|---" * 6 + "|"]
    for name, roles, at_once in (
        ("both read", "RR", True),
        ("the origin writes, the other reads", "WR", True),
        ("the other writes, the origin reads", "RW", True),
        ("both write, one after the other", "WW", False),
        ("both write, at the same moment", "WW", True),
        ("all read", "RRRR", True),
        ("the origin writes, all read", "WRRR", True),
        ("another writes, all read", "RRRW", True),
        ("all write, one after the other", "WWWW", False),
        ("all write, at the same moment", "WWWW", True),
    ):
        costs = []
        for engine in (VotingEngine, OriginEngine):
            one, four, sixteen = (
                len(shared_array(roles, 1, iterations, at_once=at_once, engine=engine).log) for iterations in (1, 4, 16)
            )
            costs += [f"{one}", f"{(sixteen - four) / 12:g}"]
        lines.append(f"| {len(roles)} | {name} | {' | '.join(costs)} |")
    return "\n".join(lines)


CHARTS: dict[str, Callable[[], str]] = {
    "message-counts": message_counts,
    "state-diagram": partial(state_diagram, TABLE),
    "rule-table": partial(rule_table, TABLE),
    "lost-vote": partial(writers_meet, VotingEngine),
    "origin-states": partial(state_diagram, AWAY),
    "origin-home-rules": partial(rule_table, HOME),
    "origin-away-rules": partial(rule_table, AWAY),
    "origin-writers": partial(writers_meet, OriginEngine),
    "protocols-compared": protocols_compared,
    "unmapping": unmapping,
    "thread-migration": thread_charts.migration,
    "thread-homecoming": thread_charts.homecoming,
    "thread-group-end": thread_charts.group_end,
    "thread-death": thread_charts.death,
}
"""What stands between `<!-- drawn: NAME -->` and `<!-- end -->`."""


def redraw(page: str) -> str:
    """The page with every chart as it is drawn today."""
    return re.sub(r"(<!-- drawn: ([a-z-]+) -->\n).*?(<!-- end -->)", _drawn, page, flags=re.DOTALL)


def _drawn(mark: re.Match[str]) -> str:
    name = mark[2]
    if name not in CHARTS:
        raise ValueError(f"no chart is named {name!r}; there are {', '.join(CHARTS)}")
    chart = CHARTS[name]()
    body = chart if chart.startswith("|") else f"```mermaid\n{chart}\n```"
    return f"{mark[1]}{body}\n{mark[3]}"


def main() -> None:
    """Draw the charts of the named pages again."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(redraw(path.read_text()))


if __name__ == "__main__":
    main()
