"""Into guests and out of them: `testbed exec`, `cp`, `ssh-config`, `console`, `monitor`, `gdb`."""

import json
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from orchestrator.commands.naming import chosen_nodes, complete_node, complete_place, complete_testbed, the_node

if TYPE_CHECKING:
    from testbed.machine import Node

NodeArgument = Annotated[str, typer.Argument(help="A node's name, or NODE.TESTBED.", autocompletion=complete_node)]
NameOption = Annotated[
    str | None, typer.Option(help="The testbed, when several are running.", autocompletion=complete_testbed)
]


class _WordsBehind(TyperCommand):
    """All behind `--` is `ctx.args`, as it is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        place = args.index("--") if "--" in args else len(args)
        super().parse_args(ctx, args[:place])
        behind = args[place + 1 :]
        ctx.args = behind
        return behind


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    app.command("exec", cls=_WordsBehind)(execute)
    app.command()(cp)
    app.command("ssh-config")(ssh_config)
    app.command()(console)
    app.command(cls=_WordsBehind)(monitor)
    app.command(cls=_WordsBehind)(gdb)


def execute(
    ctx: typer.Context,
    nodes: Annotated[
        list[str] | None, typer.Argument(help="Nodes: NAME or NODE.TESTBED.", autocompletion=complete_node)
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Every node of the testbed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    name: NameOption = None,
) -> None:
    """Run a command on several nodes at once; each line it writes has the node's name before it.

    The command stands behind `--`. Several words reach it as they are; a single one is a line for the node's shell.
    The exit code is the largest of the nodes' (255: the connection broke).

    \b
    Examples:
      testbed exec --all -- uname -a
      testbed exec x86 arm -- 'cat /proc/loadavg | cut -d" " -f1'
      testbed exec --all --json -- nproc
    """
    from orchestrator.commands.everywhere import run_everywhere
    from orchestrator.errors import InputError
    from orchestrator.output import put

    if not ctx.args:
        raise InputError("found no command, expected one behind --", "testbed exec --all -- uname -a")
    chosen = chosen_nodes(nodes, everywhere, name)
    several = len({node.testbed for node in chosen}) > 1
    line = _line(ctx.args)
    commands = {f"{node.name}.{node.testbed}" if several else node.name: node.ssh_command(line) for node in chosen}
    ended = run_everywhere(commands, shown=not as_json)
    if as_json:
        plain = {
            node: {"exit_code": each.exit_code, "stdout": each.stdout, "stderr": each.stderr}
            for node, each in ended.items()
        }
        put(json.dumps({"nodes": plain}, indent=2) + "\n")
    raise typer.Exit(max(each.exit_code for each in ended.values()))


def cp(
    places: Annotated[
        list[str],
        typer.Argument(metavar="FROM... TO", help="NODE:PATH, or a path of this host.", autocompletion=complete_place),
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with all that is in them.")] = False,
    name: NameOption = None,
) -> None:
    """Copy files into a node, out of it, or from one to another, with the real scp; the exit code is scp's.

    \b
    Examples:
      testbed cp program.py arm:/tmp/
      testbed cp arm:/proc/vmstat .
      testbed cp -r x86:/var/log logs
    """
    from orchestrator.commands.copying import scp_command
    from orchestrator.errors import InputError

    if len(places) < 2:
        raise InputError(f"found only {places[0]}, expected where it is to go too", "testbed cp FROM... TO")
    _become(scp_command(places[:-1], places[-1], name, recursive=recursive), "openssh-client")


def ssh_config(
    install: Annotated[
        bool, typer.Option("--install", help="Put the line at the top of ~/.ssh/config, unless it is there.")
    ] = False,
) -> None:
    """Print the line for ~/.ssh/config that lets ssh, rsync, Ansible and editors in as NODE.TESTBED.

    It covers every testbed of yours, also those to come; it belongs at the top, as ssh takes the first value it finds.

    \b
    Examples:
      testbed ssh-config --install
      ssh arm.quickstart
      rsync -a src/ arm.quickstart:src/
      ansible all -i x86.quickstart,arm.quickstart -m ping
    """
    from orchestrator.commands.ssh_include import install as put_in
    from orchestrator.output import tell
    from testbed.record import state_directory
    from testbed.ssh_config import include

    line = include(state_directory())
    typer.echo(line)
    if install:
        file, changed = put_in(line)
        tell(f"{file}: {'now has the line at its top' if changed else 'has it already'}\n")


def console(
    node: NodeArgument,
    log: Annotated[bool, typer.Option("--log", help="Print what it has said so far, and end.")] = False,
    name: NameOption = None,
) -> None:
    """Sit at a node's serial console, also when its network is gone. Ctrl-] lets go of it.

    \b
    Examples:
      testbed console arm
      testbed console arm --log | less
    """
    from orchestrator.output import put
    from testbed.console import clean

    found = the_node(node, name)
    if log:
        put("".join(f"{clean(line)}\n" for line in _log_of(found).splitlines()))
        return
    from orchestrator.commands.console_session import attach

    attach(found, sys.stdin.fileno(), sys.stdout.fileno())


def monitor(
    ctx: typer.Context,
    node: NodeArgument,
    qmp: Annotated[bool, typer.Option("--qmp", help="The command is QMP: its name, or a JSON object.")] = False,
    name: NameOption = None,
) -> None:
    """Ask a node's QEMU: one command behind `--`, or a prompt until Ctrl-D.

    \b
    Examples:
      testbed monitor x86 -- info registers
      testbed monitor x86 --qmp -- query-cpus-fast
      testbed monitor x86 --qmp -- '{"execute": "query-memory-size-summary"}'
      testbed monitor x86
    """
    from orchestrator.commands.monitor_session import ask, converse

    with the_node(node, name).monitor() as connection:
        if ctx.args:
            typer.echo(ask(connection, " ".join(ctx.args), qmp=qmp))
        else:
            converse(connection, qmp=qmp)


def gdb(
    ctx: typer.Context,
    node: NodeArgument,
    show: Annotated[bool, typer.Option("--print", help="Print gdb's command line and do not start it.")] = False,
    name: NameOption = None,
) -> None:
    """Debug a node's kernel with gdb, over a unix socket. The machine stands still while gdb is connected.

    Words behind `--` are gdb's.

    \b
    Examples:
      testbed gdb x86
      testbed gdb x86 -- -batch -ex 'info registers'
      testbed gdb arm --print
    """
    from testbed.debugger import command

    words = [*command(the_node(node, name)), *ctx.args]
    if show:
        typer.echo(shlex.join(words))
        return
    _become(words, words[0])


def _log_of(node: "Node") -> str:
    from testbed.errors import GuestError

    try:
        return node.console.read_text(errors="replace")
    except FileNotFoundError:
        raise GuestError(f"node {node.name} has said nothing yet", "`testbed ps` shows how far it is") from None


def _line(words: list[str]) -> str:
    return shlex.join(words) if len(words) > 1 else words[0]


def _become(words: list[str], package: str) -> NoReturn:
    from testbed.errors import HostError

    if shutil.which(words[0]) is None:
        raise HostError(f"no {words[0]} on this host", f"apt-get install {package}")
    sys.stdout.flush()
    os.execvp(words[0], words)
