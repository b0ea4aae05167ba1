"""Which testbed and which nodes the words of a command mean, and what completes them in a shell.

A node is `NODE`, when only one testbed has such a node or only one testbed is there, or `NODE.TESTBED`; `--name`
names the testbed for all of a command's nodes.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from testbed.lifecycle import Summary
    from testbed.machine import Node, Testbed


def the_testbed(
    name: str | None, nodes: Iterable[str] = (), how: str = "--name NAME says which, or NODE.NAME"
) -> "Testbed":
    """The testbed meant: the named one, or the only one, or the only one with such nodes. Raises InputError.

    `how` says how to name one, when there are several.
    """
    from testbed import find, list_all

    wanted = set(nodes)
    if name is None and wanted:
        with_nodes = [each.name for each in list_all() if wanted <= {node.name for node in each.nodes}]
        if len(with_nodes) == 1:
            name = with_nodes[0]
    return find(the_name(name, how))


def the_name(name: str | None, how: str) -> str:
    """The testbed called `name`, or the only one. Raises InputError; `how` to say which, when there are several."""
    from orchestrator.experiments.vocabulary import nearest
    from testbed import list_all

    names = [summary.name for summary in list_all()]
    if name is not None:
        if name in names:
            return name
        near = nearest(name, names)
        raise InputError(
            f"found no testbed '{name}', expected {' or '.join(names) or 'one that is there, and there is none'}",
            f"did you mean '{near}'?" if near else "`testbed ps` lists them",
        )
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError("found no testbed", "`testbed up FILE` makes one")
    raise InputError(f"found {len(names)} testbeds: {', '.join(names)}, expected the name of one", how)


def the_node(word: str, name: str | None = None) -> "Node":
    """The node that `word` means, NODE or NODE.TESTBED. Raises InputError."""
    (node,) = the_nodes([word], name)
    return node


def the_nodes(words: Sequence[str], name: str | None = None) -> list["Node"]:
    """The nodes that the words mean, each once; all of the testbed's when there are no words. Raises InputError."""
    plain = [word for word in words if "." not in word]
    shared = the_testbed(name, plain) if plain or not words else None
    found: dict[tuple[str, str], Node] = {}
    for word in words:
        short, _, of = word.partition(".")
        if of and name not in (None, of):
            raise InputError(f"found node {word} with --name {name}, expected one of the two", f"{short} --name {name}")
        testbed = the_testbed(of) if of else shared
        assert testbed is not None
        node = _member(testbed, short)
        found[testbed.name, node.name] = node
    if not words:
        assert shared is not None
        return list(shared.nodes.values())
    return list(found.values())


def chosen_nodes(words: Sequence[str] | None, everywhere: bool, name: str | None) -> list["Node"]:
    """The nodes that were named, or with `everywhere` all of the testbed's. Raises InputError for neither and both."""
    if bool(words) == everywhere:
        raise InputError("found nodes and --all" if words else "found no nodes", "name nodes, or say --all")
    return the_nodes(words or [], name)


def _member(testbed: "Testbed", node: str) -> "Node":
    from orchestrator.experiments.vocabulary import nearest

    if node in testbed.nodes:
        return testbed.nodes[node]
    near = nearest(node, testbed.nodes)
    hint = f"did you mean '{near}'?" if near else ""
    raise InputError(f"found no node '{node}' in {testbed.name}, expected {' or '.join(testbed.nodes)}", hint)


def complete_testbed(incomplete: str) -> list[str]:
    """Names of testbeds that begin so."""
    return [each.name for each in _summaries() if each.name.startswith(incomplete)]


def complete_node(incomplete: str) -> list[str]:
    """Nodes that begin so: by their name where only one testbed has it, else with the testbed behind it."""
    summaries = _summaries()
    plain = [node.name for each in summaries for node in each.nodes]
    full = [f"{node.name}.{each.name}" for each in summaries for node in each.nodes]
    offered = [
        whole if "." in incomplete or plain.count(short) > 1 else short
        for short, whole in zip(plain, full, strict=True)
    ]
    return [each for each in offered if each.startswith(incomplete)]


def complete_place(incomplete: str) -> list[str]:
    """The beginning of a node's path, `NODE:`; files of the host are the shell's to complete."""
    return [] if set(incomplete) & set("/:") else [f"{node}:" for node in complete_node(incomplete)]


def _summaries() -> list["Summary"]:
    from testbed import list_all

    return list_all()
