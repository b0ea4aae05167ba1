"""A bench run from its first boot to its figures."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack

from orchestrator.bench.figures import Bench, Figure
from orchestrator.bench.guests import NODES, Guests
from orchestrator.bench.measure import MEASUREMENTS, Boot, Section, boots
from orchestrator.bench.starts import Pair, warm
from orchestrator.experiments.experiment import Accelerator
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.versions import of_tools
from testbed import Testbed
from testbed.warm import Mode


def bench(
    sections: Sequence[Section],
    repeat: int,
    accelerator: Accelerator | None,
    directory: RunDirectory,
    progress: Progress,
) -> Bench:
    """Boot the guests, `repeat` times if that is measured, and make the other measurements on the last ones.

    Whatever ends it, the guests are removed. Consoles of guests that do not come up go to `directory`.
    """
    started = time.monotonic()
    tell_if_busy(progress, os.getloadavg()[0], os.cpu_count() or 1)
    pair = Pair(accelerator, directory, progress)
    booted: dict[str, list[Boot]] = {node: [] for node in NODES}
    figures: list[Figure] = warm(pair, repeat) if Section.WARM in sections else []
    wanted = [section for section in MEASUREMENTS if section in sections]
    boot_count = repeat if Section.BOOT in sections else 1 if wanted else 0
    for index in range(boot_count):
        with progress.step(f"booting {' and '.join(NODES)} ({index + 1} of {boot_count})"):
            testbed = pair.up(Mode.COLD if Section.BOOT in sections else Mode.AUTO)
        try:
            for node in NODES:
                booted[node].append(Boot(testbed.nodes[node].boot_s or 0.0, testbed.nodes[node].stages))
            if index == boot_count - 1 and wanted:
                figures += _measured(testbed, wanted, repeat, progress)
        finally:
            pair.down(testbed)
    if Section.BOOT in sections:
        figures = [*boots(booted), *figures]
    versions = of_tools([machine.arch for machine in pair.machines])
    return Bench(pair.machines, repeat, tuple(figures), versions, round(time.monotonic() - started, 3))


def tell_if_busy(progress: Progress, load: float, processors: int) -> None:
    """Say so where other programs take half of the host or more: `load` is how many ran, in the last minute."""
    if load > processors / 2:
        progress.say(f"other programs run here (load {load:.1f} on {processors} processors): all figures will suffer")


def _measured(testbed: Testbed, sections: Sequence[Section], repeat: int, progress: Progress) -> list[Figure]:
    figures: list[Figure] = []
    with ExitStack() as stack:
        with progress.step("deploying"):
            guests = stack.enter_context(Guests(testbed, progress.detail))
        for section in sections:
            with progress.step(f"measuring {section.value}"):
                figures += MEASUREMENTS[section](guests, repeat)
    return figures
