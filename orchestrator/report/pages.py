"""Which pages had faults, on which node and of which kind."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.report.chart import Chart, Panel, Table
from orchestrator.report.groups import Measured, by
from orchestrator.results.timeline import KINDS

_WORDS = {"local_fault": "local", "remote_read": "read", "remote_write": "write"}


def pages(points: Sequence[Measured]) -> Chart | None:
    """A heat map for every sharing: nodes and kinds against pages."""
    choices: dict[str, list[Panel]] = {}
    rows = []
    for (setting,), own in by(points, "setting").items():
        panels = []
        most_pages = max(each.pages for each in own)
        for (sharing,), group in by([each for each in own if each.pages == most_pages], "sharing").items():
            counts = _counts(group)
            if not counts:
                continue
            most = max(page for _, _, page in counts)
            nodes = dict.fromkeys(node for node, _, _ in counts)
            used = {(node, kind) for node, kind, _ in counts}
            kinds = [(node, kind) for node in nodes for kind in KINDS if (node, kind) in used]
            grid = [[counts[node, kind, page] for page in range(most + 1)] for node, kind in kinds]
            names = [f"{node} {_WORDS[kind]}" for node, kind in kinds]
            trace = {
                "type": "heatmap",
                "x": list(range(most + 1)),
                "y": names,
                "z": grid,
                "zmin": 0,
                "zmax": max(max(row) for row in grid),
                "hovertemplate": "%{y}, page %{x}: %{z:,} faults<extra></extra>",
            }
            layout = {
                "xaxis": {"title": "page"} | ({"dtick": 1} if most < 8 else {}),
                "yaxis": {"autorange": "reversed", "type": "category"},
                "height": 120 + 34 * len(names),
            }
            panels.append(Panel(sharing, [trace], layout))
            rows += [
                (setting, sharing, node, kind.replace("_", " "), sum(row), _busiest(row))
                for (node, kind), row in zip(kinds, grid, strict=True)
            ]
        if panels:
            choices[setting or "all"] = panels
    if not choices:
        return None
    text = (
        "Page faults by page, node and kind, of the points with most pages. An array that everyone goes through from "
        "end to end makes every page alike."
    )
    table = Table(("setting", "sharing", "node", "fault", "faults", "page with most"), rows).trimmed()
    return Chart("pages", "Faults by page and node", text, choices, "setting", (), table, wide=True)


def _counts(points: Sequence[Measured]) -> Counter[tuple[str, str, int]]:
    counts: Counter[tuple[str, str, int]] = Counter()
    for each in points:
        for node, answer in each.point.answers.items():
            for page, *own in answer.get("faults_by_page", ()):
                for kind, count in zip(KINDS, own, strict=True):
                    if count:
                        counts[node, kind, page] += count
    return counts


def _busiest(row: list[int]) -> str:
    most = max(row)
    where = [page for page, count in enumerate(row) if count == most]
    return f"{where[0]} ({most:,})" if len(where) == 1 else f"{len(where)} pages ({most:,} each)"
