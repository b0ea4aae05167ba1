"""A night in a few lines: what came of it, a line for each experiment, then what did not go as it should."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.experiments.durations import duration
from orchestrator.nightly.night import Entry, Night, NightOutcome, State
from orchestrator.output import printable, table

SHOWN = 8
"""Lines of one kind that are spelt out for an experiment."""
_WORDS = {
    NightOutcome.PASSED: "passed",
    NightOutcome.FAILED: "failed",
    NightOutcome.ERROR: "did not come to its end",
    NightOutcome.INTERRUPTED: "was interrupted",
}
_HEAD = ("experiment", "outcome", "points", "baseline", "took")


@dataclass(frozen=True)
class Told:
    """Lines about one experiment under a heading."""

    heading: str
    lines: tuple[str, ...]


def title(night: Night) -> str:
    """`Night of 2026-01-31: failed`."""
    left = any(entry.state in (State.SKIPPED, State.CUT) for entry in night.entries)
    as_far = ", as far as it came" if left and night.outcome is NightOutcome.PASSED else ""
    return f"Night of {night.started[:10]}: {_WORDS[night.outcome]}{as_far}"


def lead(night: Night) -> str:
    """How many experiments came to what, and how long it took."""
    counts: dict[str, int] = {}
    for entry in night.entries:
        counts[entry.word] = counts.get(entry.word, 0) + 1
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    busy = f"; other programs ran on the host: load {night.load:.1f} when it began" if night.busy else ""
    return f"{told}; {duration(night.duration_s)} of {duration(night.budget_s)}, stage {night.stage}{busy}"


def rows(night: Night) -> list[tuple[str, ...]]:
    """A line for each experiment, under `_HEAD`."""
    return [
        (
            entry.experiment,
            entry.word,
            f"{entry.points_passed} of {entry.planned_points}" if entry.has_run else "–",
            entry.baseline or "–",
            duration(entry.duration_s) if entry.has_run else "–",
        )
        for entry in night.entries
    ]


def details(night: Night) -> Iterator[Told]:
    """What did not go as it should, by experiment."""
    for entry in night.entries:
        lines = tuple(_lines(entry))
        if lines:
            yield Told(f"{entry.experiment}: {entry.word}", lines)


def _lines(entry: Entry) -> Iterator[str]:
    if entry.state is not State.PASSED:
        yield from _first(entry.reason.splitlines())
    yield from (f"passed at the second attempt: {each}" for each in _first(entry.flaky))
    yield from (f"worse: {each}" for each in _first(entry.worse))
    if entry.worse:
        yield from (f"not alike: {each}" for each in entry.remarks)
    if entry.has_run and (entry.state is not State.PASSED or entry.worse or entry.flaky):
        yield from (f"run: {run}" for run in entry.runs)


def as_text(night: Night) -> str:
    """For a terminal or a mail."""
    text = io.StringIO()
    text.write(f"{title(night)}\n{lead(night)}\n\n{table(_HEAD, rows(night))}")
    for told in details(night):
        text.write(f"\n{told.heading}\n" + "".join(f"  {printable(line)}\n" for line in told.lines))
    if night.removed:
        text.write(f"\nremoved: {night.removed}\n")
    return text.getvalue()


def as_markdown(night: Night) -> str:
    """For a page of a CI."""
    text = io.StringIO()
    text.write(f"# {title(night)}\n\n{lead(night)}\n\n")
    for row in (_HEAD, ("---",) * len(_HEAD), *rows(night)):
        text.write(f"| {' | '.join(map(_cell, row))} |\n")
    for told in details(night):
        lines = "".join(f"    {printable(line)}\n" for line in told.lines)
        text.write(f"\n## {_cell(told.heading)}\n\n{lines}")
    if night.removed:
        text.write(f"\nRemoved: {night.removed}\n")
    return text.getvalue()


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"… {len(lines) - SHOWN} more"]


def _cell(text: str) -> str:
    """Text that Markdown leaves alone."""
    return "".join(f"\\{each}" if each in "\\|<>*_`[]" else each for each in printable(text).replace("\n", " "))
