"""`testbed simulate` and `fuzz`: engines alone, with virtual time and faults by seed."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import JsonOption, SetOption
from orchestrator.errors import InputError

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="An experiment file (YAML).")]
Seed = Annotated[int | None, typer.Option(min=0, max=1 << 62, help="Where chance begins; 0, if not said.")]
Seeds = Annotated[str | None, typer.Option(metavar="A..B", help="Many seeds, up to the first that shows a failure.")]
Repeat = Annotated[int | None, typer.Option(min=1, max=100_000, help="So many seeds, beginning with --seed.")]
Point = Annotated[int | None, typer.Option(min=1, help="This point of the file alone; they count from 1.")]
Kernels = Annotated[
    str | None, typer.Option(metavar="N", help="N kernels with the nodes' roles in turn; A..B with --growth.")
]
Delay = Annotated[str, typer.Option(metavar="MIN:MAX", help="What a message takes, in µs.")]
Reorder = Annotated[bool, typer.Option("--reorder", help="Messages between two kernels overtake each other, too.")]
Duplicate = Annotated[float, typer.Option(metavar="P", min=0, max=1, help="Probability of arriving twice.")]
LoseDoorbell = Annotated[
    float, typer.Option(metavar="P", min=0, max=1, help="Probability of waiting for a heartbeat, not a doorbell.")
]
Slow = Annotated[list[str] | None, typer.Option(metavar="NODE=FACTOR", help="A kernel that is slower.")]
Kill = Annotated[list[str] | None, typer.Option(metavar="NODE@TIME_US", help="A kernel that dies.")]
Log = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write every event, as JSON lines.")]
Growth = Annotated[bool, typer.Option("--growth", help="Count messages of 2 to 64 kernels; needs no FILE.")]
Plot = Annotated[Path | None, typer.Option(metavar="SVG", help="Draw the growth into this file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors and the JSON only.")]


def add_to(app: typer.Typer) -> None:
    """Make the commands two of `app`."""
    app.command()(simulate)
    app.command()(fuzz)


def simulate(
    file: File = None,
    overrides: SetOption = None,
    seed: Seed = None,
    seeds: Seeds = None,
    repeat: Repeat = None,
    point: Point = None,
    kernels: Kernels = None,
    delay_us: Delay = "40:60",
    reorder: Reorder = False,
    duplicate: Duplicate = 0.0,
    lose_doorbell: LoseDoorbell = 0.0,
    slow: Slow = None,
    kill: Kill = None,
    log: Log = None,
    growth: Growth = False,
    plot: Plot = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment on the protocol's engines alone: seeded, in virtual time, without a process or a machine.

    The same seed and options give the same bytes. A failure ends with the command that repeats it.

    \b
    Examples:
      testbed simulate configs/quickstart.yaml
      testbed simulate configs/quickstart.yaml --seeds 1..100 --delay-us 10:500 --reorder --duplicate 0.05
      testbed simulate configs/quickstart.yaml --kernels 100 --point 1 --json
      testbed simulate configs/quickstart.yaml --set coherency.protocol=origin --set workload.iterations=64
      testbed simulate configs/quickstart.yaml --kernels 4 --kill k1@2000 --slow k2=10 --log events.jsonl
      testbed simulate --growth --kernels 2..32 --plot growth.svg
    """
    from orchestrator.commands.simulate_command import show_growth, simulate_file
    from orchestrator.simulator import conditions as words

    conditions = words.Conditions(
        delay_us=words.parse_delay(delay_us),
        reorder=reorder,
        duplicate=duplicate,
        lose_doorbell=lose_doorbell,
        slow=tuple(map(words.parse_slow, slow or ())),
        kills=tuple(map(words.parse_kill, kill or ())),
    )
    if growth or (file is None and kernels is not None and ".." in kernels):
        if file is not None or overrides or seeds or repeat or point or log or conditions != words.Conditions():
            raise InputError(
                "--growth: found a FILE, --set, faults or many seeds, expected none of them",
                "it has workloads of its own: only --kernels A..B, --seed and --plot go with it",
            )
        show_growth(kernels, seed=seed or 0, plot=plot, as_json=as_json, quiet=quiet)
        return
    if file is None:
        raise InputError("found no FILE, expected an experiment file", "or --growth, which needs none")
    if plot is not None:
        raise InputError("--plot: found without --growth, which is what it draws", "add --growth, without a FILE")
    simulate_file(
        file,
        overrides or (),
        seeds=words.parse_seeds(seed, repeat, seeds),
        kernels=words.parse_kernels(kernels),
        point=point,
        conditions=conditions,
        log=log,
        as_json=as_json,
        quiet=quiet,
    )


def fuzz(
    repeat: Annotated[int, typer.Option(min=1, max=1_000_000, help="Seeds of each mixture.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=1 << 62, help="The first one.")] = 0,
    only: Annotated[str | None, typer.Option(metavar="PROTOCOL/MIXTURE", help="One mixture alone.")] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Look for failures: random kernels, threads, pages, delays and faults, on the protocol's engines alone.

    Every protocol is put under every mixture of faults that it is to stand. It ends with the first failure, and the
    command that repeats it.

    \b
    Examples:
      testbed fuzz
      testbed fuzz --repeat 10000 --only voting/reorder+deaths
      testbed fuzz --repeat 1 --seed 4711 --only origin/deaths
    """
    from orchestrator.commands.fuzz_command import fuzz_protocols

    fuzz_protocols(seeds=range(seed, seed + repeat), only=only, as_json=as_json, quiet=quiet)
