"""`testbed fault`: machines that stand still, die or start anew, and a network that delays and loses."""

import json
from typing import Annotated

import typer

from orchestrator.commands.naming import chosen_nodes, complete_node, complete_testbed, the_node, the_testbed
from orchestrator.output import typed

app = typer.Typer(
    help="Faults on request: pause, kill and reset nodes, delay and lose on a link.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NodesArgument = Annotated[
    list[str] | None, typer.Argument(help="Nodes: NAME or NODE.TESTBED.", autocompletion=complete_node)
]
AllOption = Annotated[bool, typer.Option("--all", help="Every node of the testbed.")]
NameOption = Annotated[
    str | None, typer.Option(help="The testbed, when several are running.", autocompletion=complete_testbed)
]


@app.command()
def pause(nodes: NodesArgument = None, everywhere: AllOption = False, name: NameOption = None) -> None:
    """Make nodes stand still, their clocks too: no peer sees a heartbeat of them.

    \b
    Examples:
      testbed fault pause arm
      testbed fault pause --all
    """
    from testbed import faults

    for node in chosen_nodes(nodes, everywhere, name):
        faults.pause(node)
        typer.echo(typed(f"{node.name}.{node.testbed}: paused; `testbed fault resume {node.name}` lets it go on"))


@app.command()
def resume(nodes: NodesArgument = None, everywhere: AllOption = False, name: NameOption = None) -> None:
    """Let paused nodes go on where they stood.

    \b
    Examples:
      testbed fault resume arm
      testbed fault resume --all
    """
    from testbed import faults

    for node in chosen_nodes(nodes, everywhere, name):
        faults.resume(node)
        typer.echo(f"{node.name}.{node.testbed}: running")


@app.command()
def kill(nodes: NodesArgument = None, everywhere: AllOption = False, name: NameOption = None) -> None:
    """End nodes from one moment to the next, as a power failure does. They do not come back.

    \b
    Examples:
      testbed fault kill arm
    """
    from testbed import faults

    for node in chosen_nodes(nodes, everywhere, name):
        faults.kill(node)
        typer.echo(typed(f"{node.name}.{node.testbed}: killed; `testbed down {node.testbed}` removes what is left"))


@app.command()
def reset(
    nodes: NodesArgument = None,
    everywhere: AllOption = False,
    name: NameOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Press the reset button of nodes, and wait until SSH answers again. Nothing in a guest survives it.

    \b
    Examples:
      testbed fault reset arm
    """
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.errors import Stopped
    from orchestrator.progress import Progress
    from testbed import faults

    chosen = chosen_nodes(nodes, everywhere, name)
    names = ", ".join(node.name for node in chosen)
    cancel = threading.Event()
    with (
        Progress(quiet=quiet) as progress,
        progress.step(f"resetting {names}"),
        ThreadPoolExecutor(len(chosen)) as pool,
    ):
        try:
            took = list(pool.map(lambda node: faults.reset(node, progress.say, cancel=cancel), chosen))
        except Stopped:
            cancel.set()  # or whoever typed Ctrl-C would wait for guests that may never come up
            raise
    for node, seconds in zip(chosen, took, strict=True):
        typer.echo(f"{node.name}.{node.testbed}: ready for SSH {seconds:.1f} s after its reset")


@app.command()
def network(
    node: Annotated[str, typer.Argument(help="The sender: NAME or NODE.TESTBED.", autocompletion=complete_node)],
    link: Annotated[str | None, typer.Option(help="The Ethernet link, when the node is on several.")] = None,
    delay: Annotated[float, typer.Option(metavar="MS", help="Delay of every frame, in milliseconds.")] = 0.0,
    jitter: Annotated[float, typer.Option(metavar="MS", help="How much the delay varies.")] = 0.0,
    loss: Annotated[float, typer.Option(metavar="PERCENT", help="Share of frames that are lost.")] = 0.0,
    name: NameOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
) -> None:
    """Delay and lose what a node sends on a virtual Ethernet link; without options it is mended.

    The guest's own kernel does it (netem), for one direction. The way to the host, and with it SSH, is left alone.

    \b
    Examples:
      testbed fault network x86 --delay 20 --jitter 5
      testbed fault network x86 --loss 10 --link net0
      testbed fault network x86
    """
    from images.errors import Failure
    from orchestrator.errors import InputError
    from testbed import faults

    found = the_node(node, name)
    testbed = the_testbed(found.testbed)
    try:
        chosen = faults.ethernet_link(testbed, found, link)
        wanted = faults.Impairment(delay, jitter, loss)
    except Failure as error:
        raise InputError(error.message, error.hint) from None
    told = faults.impair(testbed, found, chosen, wanted)
    if as_json:
        typer.echo(json.dumps({"node": found.name, "link": chosen.name, "netem": told}, indent=2))
    else:
        what = " ".join(wanted.words) or "nothing is delayed or lost"
        typer.echo(f"{found.name}.{found.testbed} on {chosen.name}: {what}")


def add_to(whole: typer.Typer) -> None:
    """Make the commands of this module commands of `whole`."""
    whole.add_typer(app, name="fault")
