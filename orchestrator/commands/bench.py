"""`testbed bench`: what faults, rings and booting cost here."""

import json
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

BOOTS = 5


class Part(StrEnum):
    """Mirrors `orchestrator.bench.measure.Section`, which needs the machines' libraries."""

    BOOT = "boot"
    WARM = "warm"
    FAULT = "fault"
    MUTEX = "mutex"
    MIGRATION = "migration"
    RING = "ring"
    TCP = "tcp"


class Accel(StrEnum):
    """Mirrors `orchestrator.experiments.experiment.Accelerator`."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(bench)


def bench(
    parts: Annotated[
        list[Part] | None, typer.Argument(metavar="[boot|warm|fault|mutex|migration|ring|tcp]...", help="All, if none.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How often each is measured; 5 for starts alone, else 1.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    accel: Annotated[Accel | None, typer.Option(help="Insist on an accelerator.")] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where result directories go.")] = Path("results"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure page faults, mutexes, migrations, rings, TCP and booting on an x86_64 and an aarch64 guest, in one run.

    Boot times come with what they consist of: machine, kernel, initramfs, init, sshd. `warm` is starting from
    saved states, agents included. A mutex is handed to a thread that sleeps on the other node, and back.
    Threads migrate to where the process is new, to where it is, and back, with the messages of each.

    \b
    Examples:
      testbed bench
      testbed bench boot
      testbed bench boot warm
      testbed bench fault ring --json > bench.json
    """
    from orchestrator.bench.measure import Section
    from orchestrator.bench.run import bench as measure
    from orchestrator.bench.table import render
    from orchestrator.experiments.experiment import Accelerator
    from orchestrator.output import put
    from orchestrator.progress import Progress
    from orchestrator.results.directories import RunDirectory

    sections = [Section(part.value) for part in parts] if parts else list(Section)
    repeat = repeat or (BOOTS if set(sections) <= {Section.BOOT, Section.WARM} else 1)
    directory = RunDirectory.create(results, "bench")
    with Progress(quiet=quiet) as progress:
        found = measure(sections, repeat, Accelerator(accel.value) if accel else None, directory, progress)
    text = json.dumps(found.as_json(), indent=2) + "\n"
    directory.keep("bench.json", text)
    if as_json:
        put(text)
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        typer.echo(render(found, color=terminal, width=width) + f"results: {directory.path}")
