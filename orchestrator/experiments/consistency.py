"""What the values of an experiment file must be to each other.

Works on the plain data, not on the models, and skips what is missing or of the wrong kind: so that one reading of a
file shows all that is wrong with it, whatever else is wrong.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guest.errors import SegmentError
from guest.link.segment import Layout
from guest.memory.reserved import RESERVED_PAGES
from orchestrator.experiments.experiment import DEFAULT_MEMORY, DEFAULT_REGION
from orchestrator.experiments.fields import NODE_PATTERN
from orchestrator.experiments.marked_yaml import Path
from orchestrator.experiments.sizes import PAGE_BYTES, SizeError, parse_size, show_size
from orchestrator.experiments.vocabulary import BY_NODE, look_up, nearest
from orchestrator.experiments.wording import listed, sentence, show


@dataclass(frozen=True)
class Contradiction:
    """Something that does not go with something else in the file."""

    path: Path
    text: str
    of_key: bool = False


def contradictions(data: Any) -> Iterator[Contradiction]:
    """All of them in `data`, an experiment file's content with one combination of the matrix put in.

    A node whose own name is wrong counts as there by any name: one mistake is told once.
    """
    yield from _links(data)
    yield from _coherency(data)
    yield from _workload(data)


def _mapping(data: Any, *path: str) -> dict[str, Any]:
    value = look_up(data, path)
    return value if isinstance(value, dict) else {}


def _size(data: Any, *path: str) -> int | None:
    value = look_up(data, path)
    if value is None:
        return None
    try:
        return parse_size(value)
    except SizeError:
        return None


def _words(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _missing(name: str, nodes: dict[str, Any]) -> bool:
    return bool(nodes) and name not in nodes and all(re.fullmatch(NODE_PATTERN, node) for node in nodes)


def _no_such_node(name: str, nodes: dict[str, Any]) -> str:
    return sentence(f"the node '{name}', which is not in testbed.nodes", listed(list(nodes)), nearest(name, nodes))


def _links(data: Any) -> Iterator[Contradiction]:
    nodes = _mapping(data, "testbed", "nodes")
    for name in _mapping(data, "testbed", "links"):
        path: Path = ("testbed", "links", name)
        for index, node in enumerate(_words(look_up(data, (*path, "nodes")))):
            if _missing(node, nodes):
                yield Contradiction((*path, "nodes", index), _no_such_node(node, nodes))
        size = _size(data, "testbed", "links", name, "size")
        if size and size & (size - 1):
            below = 1 << (size.bit_length() - 1)
            expected = f"a power of two, such as {show_size(below)} or {show_size(2 * below)}"
            yield Contradiction((*path, "size"), sentence(show(look_up(data, (*path, "size"))), expected))
        elif size:
            yield from _link_fits_nodes(data, path, size)


def _link_fits_nodes(data: Any, path: Path, size: int) -> Iterator[Contradiction]:
    for node in _words(look_up(data, (*path, "nodes"))):
        if node not in _mapping(data, "testbed", "nodes"):
            continue
        memory = _size(data, "testbed", "nodes", node, "memory") or DEFAULT_MEMORY
        if size > memory:
            expected = f"at most the {show_size(memory)} of node {node}"
            yield Contradiction((*path, "size"), sentence(show(look_up(data, (*path, "size"))), expected))
            return


def _coherency(data: Any) -> Iterator[Contradiction]:
    links = _mapping(data, "testbed", "links")
    link = look_up(data, ("coherency", "link"))
    if not isinstance(link, str):
        return
    shared = [name for name in links if look_up(links, (name, "kind")) == "ivshmem-doorbell"]
    if link not in shared:
        expected = listed(shared) if shared else "a link of kind ivshmem-doorbell in testbed.links"
        problem = f"the link '{link}', which is " + (
            "no shared memory with doorbells" if link in links else "not in testbed.links"
        )
        yield Contradiction(("coherency", "link"), sentence(problem, expected, nearest(link, shared)))
        return
    size = _size(links, link, "size")
    region = _size(data, "coherency", "region") or DEFAULT_REGION
    if size and region > size:
        expected = f"at most {show_size(size)}, the size of {link}"
        yield Contradiction(("coherency", "region"), sentence(f"a region of {show_size(region)}", expected))
    kernels = len(_words(look_up(links, (link, "nodes"))))
    if size and kernels > 1:
        try:
            Layout.fit(size, kernels)
        except SegmentError:
            least = 1 << (Layout.least_bytes(kernels) - 1).bit_length()
            expected = f"at least {show_size(least)}: a ring and page slots for every pair of {kernels} nodes"
            text = sentence(show(look_up(links, (link, "size"))), expected)
            yield Contradiction(("testbed", "links", link, "size"), text)
    resident = _size(data, "coherency", "resident")
    if resident and kernels and resident * kernels < region:
        found = f"{show_size(resident)} on each of {kernels} kernels"
        expected = (
            f"at least {show_size(-(-region // kernels // PAGE_BYTES) * PAGE_BYTES)}: all of the region is somewhere"
        )
        yield Contradiction(("coherency", "resident"), sentence(found, expected))
    yield from _region_fits_nodes(data, "resident" if resident else "region", resident or region)


def _region_fits_nodes(data: Any, key: str, kept: int) -> Iterator[Contradiction]:
    memories = {
        name: _size(data, "testbed", "nodes", name, "memory") or DEFAULT_MEMORY
        for name in _mapping(data, "testbed", "nodes")
    }
    if not memories:
        return
    smallest = min(memories, key=memories.__getitem__)
    if kept > memories[smallest] // 2:
        found = f"a region of {show_size(kept)}, of which each kernel may hold a copy"
        if key == "resident":
            found = f"{show_size(kept)} of the region on each kernel"
        expected = f"at most half of the {show_size(memories[smallest])} of node {smallest}"
        yield Contradiction(("coherency", key), sentence(found, expected))


def _processes_fit_region(data: Any) -> Iterator[Contradiction]:
    """Each process has an equal part of the region, and needs some pages for itself."""
    region = _size(data, "coherency", "region") or DEFAULT_REGION
    processes, pages = (look_up(data, ("workload", key)) for key in ("processes", "pages"))
    count = processes if isinstance(processes, int) and processes > 0 else 1
    span = region // PAGE_BYTES // count
    part = f"each of {count} processes has in a region of {show_size(region)}" if count > 1 else "the region has"
    if span <= RESERVED_PAGES:
        path = ("workload", "processes") if count > 1 else ("coherency", "region")
        text = sentence(f"{span} pages that {part}", f"more than {RESERVED_PAGES}, which it needs for itself")
        yield Contradiction(path, text)
    elif isinstance(pages, int) and 0 < pages <= RESERVED_PAGES:
        text = sentence(str(pages), f"more than the {RESERVED_PAGES} pages that the process needs for itself")
        yield Contradiction(("workload", "pages"), text)
    elif isinstance(pages, int) and pages > span:
        yield Contradiction(("workload", "pages"), sentence(str(pages), f"at most the {span} pages that {part}"))


def _workload(data: Any) -> Iterator[Contradiction]:
    nodes = _mapping(data, "testbed", "nodes")
    link = look_up(data, ("coherency", "link"))
    members = _words(look_up(data, ("testbed", "links", link, "nodes"))) if isinstance(link, str) else []
    for key, name in [(word, node) for word in BY_NODE for node in _mapping(data, "workload", word)]:
        path: Path = ("workload", key, name)
        if _missing(name, nodes):
            yield Contradiction(path, _no_such_node(name, nodes), of_key=True)
        elif key in ("send", "collect") and name not in _mapping(data, "workload", "commands"):
            yield Contradiction(
                path, sentence(f"{key} for '{name}', which runs no command", "another node"), of_key=True
            )
        elif (
            key == "threads" and len(members) > 1 and name not in members and all(member in nodes for member in members)
        ):
            text = sentence(f"the node '{name}', which is not on {link}", listed(members))
            yield Contradiction(path, text, of_key=True)
    if look_up(data, ("workload", "kind")) in ("script", "native"):
        threads = _mapping(data, "workload", "threads")
        idle = [name for name in members if name in nodes and name not in threads]
        if threads and idle:
            text = sentence(f"no thread for {listed(idle)}", f"one for every node of {link}, as all meet at barriers")
            yield Contradiction(("workload", "threads"), text)
    if look_up(data, ("workload", "kind")) == "process":
        yield from _processes_fit_region(data)
        kernels = look_up(data, ("workload", "kernels"))
        if isinstance(kernels, int) and 1 < len(members) < kernels:
            text = sentence(str(kernels), f"at most {len(members)}, the nodes of {link}")
            yield Contradiction(("workload", "kernels"), text)
    command = look_up(data, ("workload", "kind")) == "command"
    if not command and "workload" in _mapping(data) and "coherency" not in _mapping(data):
        yield Contradiction(("workload",), sentence("a workload without coherent memory", "coherency: …"), of_key=True)
    array = _size(data, "workload", "array")
    region = _size(data, "coherency", "region") or DEFAULT_REGION
    if array and array > region:
        expected = f"at most {show_size(region)}, the region ({region // PAGE_BYTES} pages)"
        yield Contradiction(("workload", "array"), sentence(f"an array of {show_size(array)}", expected))
