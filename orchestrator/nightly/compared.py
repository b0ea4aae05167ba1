"""A run of the night beside its experiment's baseline.

The first runs that pass become the baseline, BASELINE_RUNS of them: what differs between the boots of these is noise.
From then on nothing changes it but `testbed baseline set`. A comparison counts on a host like that of the baseline.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from orchestrator.errors import InputError
from orchestrator.nightly.night import Entry
from orchestrator.results.baseline import baseline_of, grow_baseline, has_baseline
from orchestrator.results.compare import Comparison, Verdict, compare
from orchestrator.results.past_run import read_run
from orchestrator.words import counted

BASELINE_RUNS = 3


def compare_run(entry: Entry, results: Path, run_id: str) -> list[Comparison]:
    """Compare a run that has passed, or make it a part of the baseline, and note in the entry what came of it. Returns
    what got worse."""
    run = read_run(results / run_id)
    try:
        base = baseline_of(results, run.summary) if has_baseline(results, run.summary) else []
        found = compare(base, [run]) if base else None
        if found is not None and not found.same_host:
            entry.baseline, entry.remarks = "not comparable: another host", list(found.unalike)
            return []
        if number := grow_baseline(results, run.summary, BASELINE_RUNS):
            entry.baseline = f"run {number} of {BASELINE_RUNS} that become the baseline"
            return []
    except InputError as error:
        entry.baseline = f"cannot be compared: {error.message}"
        return []
    assert found is not None, "a baseline that is whole has runs"
    every = (*found.overall, *found.points)
    entry.remarks = list(found.unalike)
    entry.better = [shown(each) for each in every if each.verdict is Verdict.BETTER]
    entry.worse = [shown(each) for each in found.worse]
    entry.baseline = in_words(entry, every)
    return found.worse


def confirm(entry: Entry, first: Collection[Comparison], second: Collection[Comparison]) -> None:
    """Keep of what got worse in the first run what did so in the second one too: the rest was chance."""
    again = {(each.metric, each.what) for each in second}
    kept = [each for each in first if (each.metric, each.what) in again]
    entry.worse = [shown(each) for each in kept]
    entry.baseline = f"{len(kept)} worse, measured twice" if kept else "no change: what was worse was not so again"


def in_words(entry: Entry, every: Sequence[Comparison]) -> str:
    """The comparison in a few words."""
    words = [f"{len(entry.worse)} worse"] * bool(entry.worse) + [f"{len(entry.better)} better"] * bool(entry.better)
    if words:
        return ", ".join(words)
    if not every:
        return "not comparable: no point in common"
    open_ones = sum(each.verdict is Verdict.TOO_FEW for each in every)
    left = f", {open_ones} of them with too few repetitions to tell" if open_ones else ""
    return f"no change in {counted(len(every), 'comparison')}{left}"


def shown(each: Comparison) -> str:
    """One comparison in a line."""
    ratio = "" if each.ratio is None else f" (× {each.ratio:.3f})"
    return f"{each.metric}, {each.what}: {each.base:.6g} → {each.new:.6g}{ratio}, p {each.p_corrected:.2g}"
