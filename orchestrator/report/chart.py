"""What a figure is, before plotly draws it: panels of traces, series that can be hidden in all of them, and a table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Series:
    """Something that a figure shows in all its panels, in one colour and with one mark."""

    name: str
    style: int
    """Which of the page's colours, marks and dashes."""


@dataclass(frozen=True)
class Panel:
    """One plot. `traces` are plotly's, with `series` in place of colours; `layout` is plotly's, too."""

    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The same figures as text, for everyone who does not look at pictures, and for copying."""

    head: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def trimmed(self) -> "Table":
        """Without columns that are empty in every row."""
        kept = [index for index in range(len(self.head)) if any(row[index] not in ("", None) for row in self.rows)]
        return Table(
            tuple(self.head[index] for index in kept), [tuple(row[index] for index in kept) for row in self.rows]
        )


@dataclass(frozen=True)
class Chart:
    """A figure of the report."""

    key: str
    """Its id in the page."""
    title: str
    text: str
    """What is to be seen, in a sentence or two."""
    choices: dict[str, list[Panel]]
    """Panels by what the reader can choose between; with a single choice there is nothing to choose."""
    choose: str = ""
    """What is chosen, in a word."""
    series: Sequence[Series] = ()
    table: Table | None = None
    wide: bool = False
    """Whether a panel takes the whole width of the page."""
    chosen: int = 0
    """The choice that is shown first."""

    def as_json(self) -> dict[str, Any]:
        """For the page's script."""
        return {
            "key": self.key,
            "series": [asdict(series) for series in self.series],
            "choices": [
                {"name": name, "panels": [asdict(panel) for panel in panels]} for name, panels in self.choices.items()
            ],
        }


def number(value: float | None) -> str:
    """A figure for people: four digits are enough; nothing where there is none."""
    if value is None:
        return "–"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
