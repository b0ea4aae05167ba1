"""The diagrams of docs/protocol.md, drawn from the protocol's table and from engines at work.

    python -m orchestrator.protocol_charts docs/protocol.md

draws them again in place, between their marks; the tests fail while the page shows anything else.
"""

import re
import sys
from pathlib import Path

from guest.protocol.messages import MessageName
from guest.protocol.table import TABLE, Event, State
from orchestrator.checker.rehearsal import Rehearsal, shared_array
from orchestrator.checker.trace import sequence_chart

_LOCAL = {
    Event.READ_FAULT: "read",
    Event.WRITE_FAULT: "write",
    Event.GIVE_UP: "gives up",
    Event.PEER_DOWN: "a kernel died",
}


def state_diagram() -> str:
    """Every change of state that the table allows while no kernel dies; what stays in a state is left to the table."""
    changes: dict[tuple[State, State], list[str]] = {}
    for (before, event), rule in TABLE.items():
        for after in rule.to:
            if after is not before and event is not Event.PEER_DOWN:
                changes.setdefault((before, after), []).append(_LOCAL.get(event) or event.name)
    lines = ["stateDiagram-v2", "    [*] --> U"]
    lines += [f"    {before.name} --> {after.name}: {', '.join(names)}" for (before, after), names in changes.items()]
    return "\n".join(lines)


def rule_table() -> str:
    """The whole table, one line an event and state."""
    lines = ["| event | state | rule | next | may send |", "|---|---|---|---|---|"]
    for event in Event:
        for state in State:
            rule = TABLE[state, event]
            after = ", ".join(other.name for other in rule.to) or "–"
            sends = ", ".join(MessageName(name).name for name in rule.sends) or "–"
            lines.append(f"| {_LOCAL.get(event) or event.name} | {state.name} | {rule.says} | {after} | {sends} |")
    return "\n".join(lines)


def lost_vote() -> str:
    """Three kernels share a page; 0 and 1 write at the same moment, then 2 reads."""
    kernels = Rehearsal(3, 1)
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


CHARTS = {
    "message-counts": message_counts,
    "state-diagram": state_diagram,
    "rule-table": rule_table,
    "lost-vote": lost_vote,
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
