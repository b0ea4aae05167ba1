"""`testbed fuzz`: random systems under mixtures of faults, and what is printed of them."""

import json
import sys
from dataclasses import asdict, replace
from typing import Any

from guest.protocol.registry import PROTOCOLS
from orchestrator.errors import InputError, RunEnded, Stopped
from orchestrator.experiments.vocabulary import nearest
from orchestrator.output import put
from orchestrator.progress import Progress
from orchestrator.simulator.mixtures import Fuzzed, fuzz, mixtures_of
from orchestrator.simulator.render import render_fuzzed
from orchestrator.words import counted

SHOW_EVERY = 100
"""Simulations from one sign of life to the next."""


def fuzz_protocols(*, seeds: range, only: str | None, as_json: bool, quiet: bool) -> None:
    """Simulate every seed under every mixture. Raises RunEnded at the first that shows what must not be."""
    done: list[Fuzzed] = []
    chosen = _chosen(only)
    stopped: Stopped | None = None
    with Progress(quiet=quiet) as progress, progress.step("fuzzing", announced=False):
        try:
            for protocol, mixture in chosen:
                done.append(Fuzzed(protocol, mixture))
                for so_far in fuzz(protocol, mixture, seeds):
                    done[-1] = so_far
                    if so_far.simulations % SHOW_EVERY == 0:
                        what = f"{protocol}/{mixture}, {len(done)} of {len(chosen)}"
                        progress.now(f"fuzzing {what}: {so_far.simulations} of {len(seeds)} simulations, none failed")
                if done[-1].failure is not None:
                    break
        except Stopped as signal:
            stopped = signal
    if as_json:
        put(json.dumps(_as_json(done, seeds, stopped), indent=2) + "\n")
    elif not quiet:
        put(render_fuzzed(done, color=sys.stdout.isatty()))
    if done and done[-1].failure is not None:
        raise _ended(done[-1])
    if stopped:
        raise stopped


def _chosen(only: str | None) -> list[tuple[str, str]]:
    known = {
        f"{protocol}/{mixture}": (protocol, mixture) for protocol in PROTOCOLS for mixture in mixtures_of(protocol)
    }
    if only is None:
        return list(known.values())
    if only not in known:
        near = nearest(only, known)
        raise InputError(
            f"--only: found '{only}', expected PROTOCOL/MIXTURE" + (f"; do you mean {near}?" if near else ""),
            f"there are {', '.join(known)}",
        )
    return [known[only]]


def _again(failed: Fuzzed) -> str:
    return f"testbed fuzz --repeat 1 --seed {failed.failed_seed} --only {failed.protocol}/{failed.mixture}"


def _as_json(done: list[Fuzzed], seeds: range, stopped: Stopped | None) -> dict[str, Any]:
    failed = done[-1].failure if done else None
    mixtures = []
    for each in done:
        failure = each.failure and {"kind": each.failure.kind, "message": each.failure.message}
        mixtures.append(asdict(replace(each, failure=None)) | {"failure": failure})
    return {
        "stage": "sim",
        "outcome": "failed" if failed else "interrupted" if stopped else "passed",
        "seeds": [seeds[0], seeds[-1]],
        "repeat": None if failed is None else _again(done[-1]),
        "mixtures": mixtures,
    }


def _ended(failed: Fuzzed) -> RunEnded:
    assert failed.failure is not None
    lines = [f"{failed.protocol}/{failed.mixture}, seed {failed.failed_seed}, failed"]
    lines += [f"  {failed.failure.kind}: {failed.failure.message}", "  the last events:"]
    lines += [f"  {line}" for line in failed.last]
    before = counted(failed.simulations - 1, "simulation")
    return RunEnded("\n".join(lines), f"{before} before it passed; repeat it with: `{_again(failed)}`", 1)
