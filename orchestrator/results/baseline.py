"""Baselines: for each experiment and stage, the runs that later ones are compared with.

They are named in `baselines.json` of the results directory, beside the runs. Several runs make a better baseline than
one: what differs from boot to boot is then noise, as it should be.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from images.errors import writing
from orchestrator.errors import InputError
from orchestrator.results.directories import read_summary
from orchestrator.results.past_run import PastRun, read_run

FILE = "baselines.json"


def read_baselines(results: Path) -> dict[str, dict[str, Any]]:
    """By experiment and stage (`poster/vm`): `runs`; `set`, when it was; `growing` while it is to get more runs. Raises
    InputError on a broken file."""
    path = results / FILE
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path}: found {error}, expected baselines", "remove it, and set them again") from None
    return found


def set_baseline(results: Path, directories: Sequence[Path]) -> str:
    """Make these runs the baseline of their experiment and stage, which is returned. Raises InputError.

    All must be of one experiment on one stage, have passed, and be in `results`.
    """
    keys = set()
    for directory in directories:
        if directory.resolve().parent != results.resolve():
            raise InputError(f"found {directory}, expected a run in {results}/", "see --results DIR")
        summary = read_summary(directory)
        if summary["outcome"] != "passed":
            raise InputError(
                f"{directory.name}: found a run that ended as '{summary['outcome']}', expected one that passed"
            )
        keys.add(key_of(summary))
    if len(keys) != 1:
        raise InputError(f"found runs of {', '.join(sorted(keys))}, expected all of one experiment on one stage")
    (key,) = keys
    _write(results, key, {"runs": [each.name for each in directories], "set": _now()})
    return key


def grow_baseline(results: Path, summary: dict[str, Any], wanted: int) -> int:
    """Make a run that has passed a part of its baseline, until that has as many as `wanted`.

    Returns how many there are with this one; 0 when there were enough, or when somebody set the baseline: then it stays
    as it is. Raises InputError on a broken file.
    """
    key = key_of(summary)
    known = read_baselines(results).get(key, {"runs": [], "growing": True})
    if not known.get("growing"):
        return 0
    runs = [*known["runs"], summary["run_id"]]
    _write(results, key, {"runs": runs, "set": _now()} | ({"growing": True} if len(runs) < wanted else {}))
    return len(runs)


def _write(results: Path, key: str, baseline: dict[str, Any]) -> None:
    path, draft = results / FILE, results / f".{FILE}.part"
    with writing(path):
        draft.write_text(json.dumps(read_baselines(results) | {key: baseline}, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def has_baseline(results: Path, summary: dict[str, Any]) -> bool:
    """Whether there is one for a run of this summary. Raises InputError on a broken file."""
    return key_of(summary) in read_baselines(results)


def baseline_of(results: Path, summary: dict[str, Any]) -> list[PastRun]:
    """The runs that the run of this summary is to be compared with. Raises InputError when there are none."""
    key = key_of(summary)
    baselines = read_baselines(results)
    if key not in baselines:
        known = ", ".join(sorted(baselines)) or "none"
        raise InputError(f"found no baseline of {key}; there are {known}", "`testbed baseline set RUN…` makes one")
    return [read_run(results / name) for name in baselines[key]["runs"]]


def key_of(summary: dict[str, Any]) -> str:
    """`experiment/stage`: what runs must have in common to be compared without being asked to."""
    return f"{summary.get('experiment', '')}/{summary.get('stage', '')}"
