"""The growth of message counts as a picture: an SVG that needs nothing else, the same bytes for the same costs."""

import io
from collections.abc import Sequence

from orchestrator.simulator.growth import Cost, Load

_COLORS = {
    Load.ALL_READ: "#0072b2",
    Load.ONE_WRITES: "#009e73",
    Load.IN_TURN: "#e69f00",
    Load.AT_ONCE: "#d55e00",
}
"""Told apart by people who see colours differently, too (Okabe and Ito); the markers differ as well."""
_MARKERS = {Load.ALL_READ: ("o", 9), Load.ONE_WRITES: ("s", 5), Load.IN_TURN: ("^", 5), Load.AT_ONCE: ("D", 5)}
"""And their sizes: in the first iteration, two of them lie on each other."""


def draw(costs: Sequence[Cost]) -> str:
    """The SVG: markers where messages were counted, lines where the formulas are."""
    # matplotlib takes most of a second to import, and only a plot needs it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "testbed", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        first, each = figure.subplots(1, 2, sharey=True)
        for load in Load:
            own = [cost for cost in costs if cost.load is load]
            marker, size = _MARKERS[load]
            kernels = [cost.kernels for cost in own]
            for axes, counted, formula in (
                (first, [cost.first for cost in own], [cost.first_formula for cost in own]),
                (each, [cost.each for cost in own], [cost.each_formula for cost in own]),
            ):
                axes.plot(kernels, formula, color=_COLORS[load], linewidth=1)
                axes.plot(kernels, counted, marker, color=_COLORS[load], markersize=size, label=str(load))
        for axes, title in ((first, "first iteration"), (each, "each later iteration")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(-0.3, 2 * max(cost.first for cost in costs))
            ticks = sorted({cost.kernels for cost in costs})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.grid(visible=True, color="#dddddd", linewidth=0.5)
            axes.set(title=title, xlabel="kernels")
        first.set_ylabel("messages a page")
        first.legend(frameon=False, title="counted (lines: formulas)")
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None, "Title": "Messages by number of kernels"})
    return picture.getvalue()
