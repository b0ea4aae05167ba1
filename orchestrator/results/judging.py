"""Whether a run's points passed: in a few words as they come, and in an error at the end of the run."""

from collections.abc import Iterator

from orchestrator.errors import CheckFailed, PointsFailed
from orchestrator.experiments.parameters import describe
from orchestrator.results.summary import CHECK, PointResult
from orchestrator.words import counted

SHOWN = 5
"""Points, wrong values and broken expectations that an error spells out; run.json has them all."""


def outcome(result: PointResult) -> str:
    """Of a point, in a few words."""
    if result.error is not None:
        return f"FAILED, {result.error.message.splitlines()[0]}"
    verdict = "ok" if result.passed else "LOSSES" if result.losses else "FAILED"
    verdict += ", repeated on new guests" if result.lost else ""
    return f"{verdict}, {result.messages_total} messages, {result.duration_s:.3f} s"


def judge(results: list[PointResult], run: str) -> None:
    """Raise PointsFailed if a point did not come to its end, CheckFailed if one did not pass. `run` is how commands
    find the run."""
    failed = [result for result in results if not result.passed]
    if not failed:
        return
    hints = [result.error.hint if result.error else "" for result in failed]
    own = len(set(hints)) > 1
    lines = [f"{len(failed)} of {counted(len(results), 'point')} failed"]
    for result, hint in list(zip(failed, hints, strict=True))[:SHOWN]:
        lines += [f"  {describe(result.parameters)}", *_lines(result)]
        if own and hint:
            lines.append(f"    hint: {hint}")
    if len(failed) > SHOWN:
        lines.append(f"  … {len(failed) - SHOWN} more, which run.json has")
    message = "\n".join(lines)
    if any(result.error is not None and result.error.kind != CHECK for result in failed):
        again = f"`testbed run --resume {run}` runs these points again, with the file and the programs as they were"
        raise PointsFailed(message, again if own else hints[0] or again)
    if any(result.losses for result in failed):
        hint = f"the others went on without them, and were checked: `testbed results show {run}` has the points"
        raise PointsFailed(message, hint)
    raise CheckFailed(message, f"`testbed results show {run}` lists every point; run.json has every value")


def _lines(result: PointResult) -> Iterator[str]:
    if result.error is not None:
        yield from (f"    {line}" for line in result.error.message.splitlines())
        return
    yield from (f"    {line}" for line in str(result.losses).splitlines())
    yield from (f"    wrong value: {mismatch}" for mismatch in result.mismatches[:SHOWN])
    if result.mismatch_count > SHOWN:
        yield f"    … {result.mismatch_count} wrong values in all"
    for verdict in result.expectations:
        if not verdict.holds:
            yield f"    does not hold: {verdict.expression}   ({verdict.shown})"
