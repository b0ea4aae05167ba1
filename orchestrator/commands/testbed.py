"""Testbeds to work with by hand: `testbed up`, `ps`, `ssh`, `down`."""

import contextlib
import itertools
import json
import os
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from orchestrator.commands.naming import complete_node, complete_testbed, the_name, the_node
from orchestrator.commands.options import JsonOption, OfflineOption, SetOption, WarmOption
from orchestrator.output import put, typed

if TYPE_CHECKING:
    from testbed.lifecycle import NodeSummary, Summary


MONITOR_S = 0.5
"""A list must not wait for a monitor that somebody else uses."""


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (up, ps):
        app.command()(command)
    app.command(cls=_Ssh)(ssh)
    app.command()(down)


def up(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment file; its testbed is brought up.")],
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the testbed; the experiment's when left out.")] = None,
    accel: Annotated[
        str | None, typer.Option(metavar="auto|kvm|tcg", help="Overrule every node's accelerator.")
    ] = None,
    warm: WarmOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Bring up the machines of a file and leave them running; of several testbeds in its matrix, the first.

    \b
    Examples:
      testbed up configs/quickstart.yaml
      testbed up configs/quickstart.yaml --warm
      testbed up configs/quickstart.yaml --name mine
      testbed up configs/quickstart.yaml --set testbed.nodes.x86.memory=1GiB --json
    """
    from orchestrator.errors import InputError
    from orchestrator.experiments.experiment import Accelerator
    from orchestrator.experiments.plan import load
    from orchestrator.progress import Progress

    if accel is not None and accel not in [each.value for each in Accelerator]:
        raise InputError(f"found --accel {accel}, expected auto, kvm or tcg")
    plan = load(file, overrides or ())
    shape = plan.testbeds[0][0]
    from orchestrator.stages.machines import bring_up, checked_name, name_for  # libvirt: not before the file is right
    from testbed import list_all
    from testbed.warm import Mode

    name = checked_name(name) if name is not None else name_for(plan.name)
    if name in [each.name for each in list_all()]:
        raise InputError(f"found a testbed {name} already, expected a new name", f"--name, or `testbed down {name}`")
    with Progress(quiet=quiet) as progress, progress.step(f"starting {', '.join(shape.nodes)}"):
        bring_up(
            name, shape, Accelerator(accel) if accel else None, progress.say, mode=Mode.wanted(warm), offline=offline
        )
    if as_json:
        put(json.dumps(_plain(next(each for each in list_all() if each.name == name)), indent=2) + "\n")
        return
    which = f" --name {name}" if len(list_all()) > 1 else ""
    way_in = f"testbed ssh{which} {next(iter(shape.nodes))}"
    typer.echo(typed(f"{name} is up: `{way_in}` goes in, `testbed down {name}` removes it"))


def ps(as_json: JsonOption = False) -> None:
    """List testbeds: running ones, and what is left of broken ones.

    `degraded`: a machine or server of it has ended. `left over`: the command that it belonged to has died.
    `testbed down` removes either.

    \b
    Examples:
      testbed ps
      testbed ps --json
    """
    from testbed import list_all

    summaries = list_all()
    if as_json:
        typer.echo(json.dumps([_plain(summary) for summary in summaries], indent=2))
        return
    if summaries:
        rows = [("NAME", "STATE", "AGE", "MEMORY", "NODES"), *(_row(summary) for summary in summaries)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        for row in rows:
            columns = [f"{text:{width}}" for text, width in zip(row, widths, strict=False)]
            typer.echo("  ".join([*columns, row[4]]))
    else:
        typer.echo(typed("no testbeds; `testbed up FILE` makes one"), err=True)


def _row(summary: "Summary") -> tuple[str, str, str, str, str]:
    resident = sum(node.resident_bytes for node in summary.nodes) >> 20
    promised = sum(node.memory_bytes for node in summary.nodes) >> 20
    nodes = ", ".join(f"{node.name} ({node.arch}, {_state(summary, node)})" for node in summary.nodes)
    memory = f"{resident} of {promised} MiB" if summary.nodes else "-"
    return summary.name, summary.condition.value, _age(summary.created), memory, nodes


def _plain(summary: "Summary") -> dict[str, Any]:
    created = summary.created
    return {
        "name": summary.name,
        "condition": summary.condition.value,
        "created": created.isoformat() if created else None,
        "age_s": int((datetime.now(UTC) - created).total_seconds()) if created else None,
        "nodes": [asdict(node) | {"state": _machine_state(summary, node)} for node in summary.nodes],
        "run_directory": str(summary.run_directory) if summary.run_directory else None,
    }


def _state(summary: "Summary", node: "NodeSummary") -> str:
    state = _machine_state(summary, node)
    if state == "not started":
        return state
    how = f"{node.accelerator}, {'warm' if node.warm else 'cold'} start"
    return how if state == "running" else f"{how}, {state}"


def _machine_state(summary: "Summary", node: "NodeSummary") -> str:
    """QEMU's own word for what the machine does ("paused", "shutdown"), or ours where QEMU cannot be asked."""
    from testbed import Deadline, find
    from testbed.errors import Failure

    if not node.started:
        return "not started"
    if not node.alive:
        return "ended"
    try:
        with find(summary.name).nodes[node.name].monitor(Deadline(MONITOR_S)) as monitor:
            return monitor.status
    except Failure as failure:
        return "panicked" if "panicked" in failure.message else "running"  # somebody else talks to its monitor


def _age(created: datetime | None) -> str:
    if created is None:
        return "-"
    seconds = int((datetime.now(UTC) - created).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


class _Ssh(TyperCommand):
    """All behind the node's name, options too, is the command: `testbed ssh arm ls -l`, as with ssh itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = iter(args)
        ours: list[str] = []
        for word in words:
            if word == "--":
                break
            if not word.startswith("-") and any(not each.startswith("-") for each in ours):
                words = itertools.chain([word], words)
                break
            ours.append(f"--name={next(words, '')}" if word == "--name" else word)
        return super().parse_args(ctx, [*ours, "--", *words])


def ssh(
    node: Annotated[str, typer.Argument(help="A node's name, or NODE.TESTBED.", autocompletion=complete_node)],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="What to run; a shell when left out. One word is a line for the node's shell."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The testbed, when several are running.", autocompletion=complete_testbed)
    ] = None,
) -> None:
    """Log in to a node with the real ssh, its host key verified; the exit code is the command's.

    Several words reach the command as they are. A single one is a line for the shell of the node.

    \b
    Examples:
      testbed ssh arm
      testbed ssh x86 uname -a
      testbed ssh x86 sh -c 'echo $0' 'two words'
      testbed ssh --name mine x86 'dmesg | tail'
    """
    line = shlex.join(command) if command and len(command) > 1 else "".join(command or [])
    words = the_node(node, name).ssh_command(line)
    sys.stdout.flush()
    os.execvp(words[0], words)


def down(
    name: Annotated[
        str | None, typer.Argument(help="The testbed, when several are there.", autocompletion=complete_testbed)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of yours.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Those that `ps` calls ended or left over, and no others.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Stop a testbed and remove all that is left of it, however it ended.

    \b
    Examples:
      testbed down
      testbed down mine
      testbed down --all
      testbed down --stale
    """
    from orchestrator.errors import InputError
    from orchestrator.progress import Progress
    from testbed import Condition, list_all, teardown
    from testbed.errors import NoTestbed

    if (name is not None) + everything + stale > 1:
        raise InputError("found more than one of NAME, --all and --stale, expected one", "--all takes the others in")
    if everything:
        names = [summary.name for summary in list_all()]
    elif stale:
        over = (Condition.ENDED, Condition.LEFT_OVER)
        names = [summary.name for summary in list_all() if summary.condition in over]
    else:
        names = [the_name(name, "or --all, to remove them")]
    with Progress(quiet=quiet) as progress:
        for each in names:
            gone = contextlib.nullcontext() if name else contextlib.suppress(NoTestbed)  # removed by another command
            with progress.step(f"removing {each}"), gone:
                teardown.down(each, progress.say)
