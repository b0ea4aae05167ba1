"""`testbed simulate`: experiments on engines alone, with virtual time and faults by seed."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import InputError


def add_to(app: typer.Typer) -> None:
    """Make the command one of `app`."""
    app.command()(simulate)


def simulate(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="An experiment file (YAML).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Where chance begins. 0, if not said.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="A..B", help="Many seeds, up to the first that shows a failure.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="So many seeds, beginning with --seed.")
    ] = None,
    point: Annotated[int | None, typer.Option(min=1, help="This point of the file alone; they count from 1.")] = None,
    kernels: Annotated[
        str | None,
        typer.Option(metavar="N", help="N kernels instead of the nodes, with their roles in turn; A..B for --growth."),
    ] = None,
    delay_us: Annotated[str, typer.Option(metavar="MIN:MAX", help="What a message takes.")] = "40:60",
    reorder: Annotated[bool, typer.Option("--reorder", help="Messages between two kernels overtake, too.")] = False,
    duplicate: Annotated[float, typer.Option(metavar="P", min=0, max=1, help="Messages that arrive twice.")] = 0.0,
    lose_doorbell: Annotated[
        float, typer.Option(metavar="P", min=0, max=1, help="Doorbells that are lost: the next heartbeat helps.")
    ] = 0.0,
    slow: Annotated[list[str] | None, typer.Option(metavar="NODE=FACTOR", help="A kernel slower than others.")] = None,
    kill: Annotated[list[str] | None, typer.Option(metavar="NODE@TIME_US", help="A kernel that dies.")] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Every event, as JSON lines.")] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="Count messages of 2 to 64 kernels, without a FILE.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="SVG", help="Draw the growth into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors and the JSON only.")] = False,
) -> None:
    r"""Run an experiment on the protocol's engines alone: seeded, in virtual time, without a process or a machine.

    The same seed and options give the same bytes. A failure ends with the command that repeats it.

    \b
    Examples:
      testbed simulate configs/quickstart.yaml
      testbed simulate configs/counts.yaml --seeds 1..100 --delay-us 10:500 --reorder --duplicate 0.05
      testbed simulate configs/quickstart.yaml --kernels 1000 --point 1 --json
      testbed simulate configs/quickstart.yaml --kernels 4 --kill k1@2000 --slow k2=10 --log events.jsonl
      testbed simulate --growth --kernels 2..32 --plot growth.svg
    """
    from orchestrator.simulate_command import show_growth, simulate_file
    from orchestrator.simulator import conditions as words
    from orchestrator.simulator.growth import KERNELS_MAX

    given = words.Conditions(
        delay_us=words.parse_delay(delay_us),
        reorder=reorder,
        duplicate=duplicate,
        lose_doorbell=lose_doorbell,
        slow=tuple(map(words.parse_slow, slow or ())),
        kills=tuple(map(words.parse_kill, kill or ())),
    )
    if growth or (file is None and kernels is not None and ".." in kernels):
        if file is not None or seeds or repeat or point or log or given != words.Conditions():
            raise InputError(
                "--growth: found a FILE, faults or many seeds, expected none of them",
                "it has workloads of its own: only --kernels A..B, --seed and --plot go with it",
            )
        numbers = words.parse_range("--kernels", kernels or f"2..{KERNELS_MAX}", 2, KERNELS_MAX)
        show_growth(numbers, seed=seed or 0, plot=plot, as_json=as_json, quiet=quiet)
        return
    if file is None:
        raise InputError("found no FILE, expected an experiment file", "or --growth, which needs none")
    if plot is not None:
        raise InputError("--plot: found without --growth, which is what it draws", "add --growth, without a FILE")
    if seeds is not None and (seed is not None or repeat is not None):
        raise InputError("--seeds: found with --seed or --repeat, expected one way to say it", "take one of them away")
    first = seed or 0
    wanted = words.parse_range("--seeds", seeds, 0, 10**9) if seeds else range(first, first + (repeat or 1))
    simulate_file(
        file,
        seeds=wanted,
        kernels=None if kernels is None else words.parse_kernels(kernels),
        point=point,
        conditions=given,
        log=log,
        as_json=as_json,
        quiet=quiet,
    )
