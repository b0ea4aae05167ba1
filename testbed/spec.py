"""What a testbed is to be: nodes, and links between them. Checked when made, so that no other module checks again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from testbed.errors import Failure

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
"""Names become host names, file names and arguments of QEMU: no character of them may mean anything there."""
MEMORY_MIN_BYTES = 128 << 20
LINKS_MAX = 8
"""With shared memory at one node, and Ethernet too: as many PCI slots are kept for either."""
VECTORS_MAX = 32
ETHERNET_NODES_MAX = 64


class Accelerator(StrEnum):
    """What runs a guest's instructions. AUTO is a wish only: KVM where it works, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class LinkKind(StrEnum):
    """Shared memory with doorbell interrupts or without, or a network of the linked nodes alone."""

    IVSHMEM_DOORBELL = "ivshmem-doorbell"
    IVSHMEM_PLAIN = "ivshmem-plain"
    ETHERNET = "ethernet"


SHARED = (LinkKind.IVSHMEM_DOORBELL, LinkKind.IVSHMEM_PLAIN)
"""The kinds that are shared memory."""


class Driver(StrEnum):
    """Where libvirt's QEMU driver runs: in this process, in a daemon of this user, or in the system's daemon."""

    EMBEDDED = "embedded"
    SESSION = "session"
    SYSTEM = "system"


def check_name(what: str, name: str) -> None:
    """Raises Failure when `name` is not a valid name of a testbed, node or link."""
    if not NAME.fullmatch(name):
        raise Failure(
            f"{what} name {name!r}: expected a lower-case letter, then up to 30 lower-case letters, digits or hyphens",
            "for example x86, arm-2 or shm0",
        )


@dataclass(frozen=True)
class NodeSpec:
    """One machine: `arch` as in `uname -m`."""

    name: str
    arch: str
    memory_bytes: int
    cpus: int = 1
    accelerator: Accelerator = Accelerator.AUTO

    def __post_init__(self) -> None:
        check_name("node", self.name)
        object.__setattr__(self, "accelerator", Accelerator(self.accelerator))
        if self.memory_bytes < MEMORY_MIN_BYTES:
            raise Failure(
                f"node {self.name}: {self.memory_bytes} bytes of memory, expected at least {MEMORY_MIN_BYTES >> 20} MiB"
            )
        if self.cpus < 1:
            raise Failure(f"node {self.name}: {self.cpus} CPUs, expected at least one")


@dataclass(frozen=True)
class LinkSpec:
    """What joins `nodes`. `size_bytes` is of shared memory, `vectors` (interrupts of a node) of one with doorbells."""

    name: str
    kind: LinkKind
    size_bytes: int
    vectors: int
    nodes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name("link", self.name)
        object.__setattr__(self, "kind", LinkKind(self.kind))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if len(self.nodes) < 2 or len(set(self.nodes)) < len(self.nodes):
            raise Failure(
                f"link {self.name} joins {', '.join(self.nodes) or 'nothing'}: expected two or more, each once"
            )
        if self.kind in SHARED:
            self._check_memory()
        elif len(self.nodes) > ETHERNET_NODES_MAX:
            raise Failure(f"link {self.name}: {len(self.nodes)} nodes, expected at most {ETHERNET_NODES_MAX}")

    def _check_memory(self) -> None:
        # A PCI base address register decodes powers of two only.
        if self.size_bytes < 1 << 20 or self.size_bytes & (self.size_bytes - 1):
            raise Failure(
                f"link {self.name}: {self.size_bytes} bytes of shared memory, expected a power of two of at least 1 MiB"
            )
        if self.kind is LinkKind.IVSHMEM_DOORBELL and not 1 <= self.vectors <= VECTORS_MAX:
            raise Failure(f"link {self.name}: {self.vectors} vectors, expected 1 to {VECTORS_MAX}")


@dataclass(frozen=True)
class TestbedSpec:
    """All of one testbed. Its name is unique among the testbeds of a user."""

    __test__ = False  # not a test, whatever its name begins with

    name: str
    nodes: tuple[NodeSpec, ...]
    links: tuple[LinkSpec, ...] = ()
    driver: Driver = Driver.EMBEDDED

    def __post_init__(self) -> None:
        check_name("testbed", self.name)
        object.__setattr__(self, "driver", Driver(self.driver))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "links", tuple(self.links))
        names = [node.name for node in self.nodes]
        if not names:
            raise Failure(f"testbed {self.name} has no nodes, expected at least one")
        for what, all_names in (("node", names), ("link", [link.name for link in self.links])):
            twice = sorted({name for name in all_names if all_names.count(name) > 1})
            if twice:
                raise Failure(f"testbed {self.name}: {what} {', '.join(twice)} twice, expected each name once")
        for link in self.links:
            unknown = [name for name in link.nodes if name not in names]
            if unknown:
                raise Failure(f"link {link.name}: no node {', '.join(unknown)}, expected of {', '.join(names)}")
            for node in map(self.node, link.nodes):
                if link.size_bytes > node.memory_bytes:
                    raise Failure(
                        f"link {link.name}: {link.size_bytes} bytes of shared memory, "
                        f"expected at most the {node.memory_bytes} of node {node.name}"
                    )
        for name in names:
            for kinds, what in ((SHARED, "shared memory"), ((LinkKind.ETHERNET,), "ethernet")):
                count = len(self.links_of(name, *kinds))
                if count > LINKS_MAX:
                    raise Failure(f"node {name} is on {count} {what} links, expected at most {LINKS_MAX}")

    def node(self, name: str) -> NodeSpec:
        """The node of this name. Raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def link(self, name: str) -> LinkSpec:
        """The link of this name. Raises KeyError."""
        return {link.name: link for link in self.links}[name]

    def links_of(self, node: str, *kinds: LinkKind) -> list[LinkSpec]:
        """The links of these kinds that `node` is on, in their order; the order is that of its devices too."""
        return [link for link in self.links if link.kind in kinds and node in link.nodes]
