"""Old nights are removed when that is asked for, with their runs; runs of a baseline stay."""

import shutil
from pathlib import Path

from orchestrator.nightly.night import read_nights
from orchestrator.results.baseline import read_baselines
from orchestrator.words import counted


def prune(results: Path, keep: int) -> str:
    """Remove all nights but the latest `keep`. Returns what was removed, in words; "" for nothing.

    Only what a night says is its own goes: other runs in the folder are somebody's.
    """
    nights = list(read_nights(results))
    needed = {run for baseline in read_baselines(results).values() for run in baseline["runs"]}
    needed |= {run for _, night in nights[-keep:] for entry in night.entries for run in entry.runs}
    old = nights[:-keep]
    removed, size = 0, 0
    for directory, night in old:
        for run in [run for entry in night.entries for run in entry.runs if run not in needed]:
            folder = results / run
            if folder.parent == results and (folder / "run.json").is_file():
                size += _size(folder)
                shutil.rmtree(folder)
                removed += 1
        size += _size(directory)
        shutil.rmtree(directory)
    if not old:
        return ""
    return f"{counted(len(old), 'night')} and {counted(removed, 'run')}, {size / (1 << 20):.1f} MiB"


def _size(folder: Path) -> int:
    """Bytes of the files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
