"""`testbed cp`: the command line of the real scp for places on the host and on nodes."""

from collections.abc import Sequence

from orchestrator.commands.naming import the_nodes
from orchestrator.errors import InputError


def scp_command(sources: Sequence[str], target: str, name: str | None, *, recursive: bool) -> list[str]:
    """The words of scp. `NODE:PATH` is on a node, everything else on the host.

    As with scp itself, a path of the host that has a colon before its first slash needs `./` in front. Raises
    InputError, or GuestError when a node has ended.
    """
    words = [*sources, target]
    hosts = [_host(word) for word in words]
    named = [host for host in hosts if host]
    if not named:
        raise InputError(
            f"found {' and '.join(words)}, expected one of them on a node", "NODE:PATH, for example x86:/tmp/file"
        )
    nodes = {host: the_nodes([host], name)[0] for host in named}
    testbeds = sorted({node.testbed for node in nodes.values()})
    if len(testbeds) > 1:
        raise InputError(f"found nodes of {' and '.join(testbeds)}, expected those of one testbed", "copy in two steps")
    program, *configuration, _ = nodes[named[0]].ssh_command()
    assert program == "ssh"
    places = [
        f"{nodes[host].name}.{nodes[host].testbed}:{word.partition(':')[2]}" if host else _own(word)
        for host, word in zip(hosts, words, strict=True)
    ]
    # Through us between two nodes: they have no way to each other's sshd, and no keys.
    return ["scp", "-3", *configuration, *(["-r"] if recursive else []), "--", *places]


def _host(word: str) -> str:
    host, colon, _ = word.partition(":")
    return host if colon and "/" not in host else ""


def _own(word: str) -> str:
    return word if word.startswith(("/", ".")) else f"./{word}"
