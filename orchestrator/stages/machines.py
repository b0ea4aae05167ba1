"""From the `testbed:` part of an experiment file to running machines."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from images import Image, obtain
from images.cloud.image import CloudImage
from images.errors import Failure
from images.store import DEFINITION, says_cloud
from orchestrator.errors import InputError
from orchestrator.experiments.experiment import Accelerator, EthernetLink, IvshmemLink, Testbed
from orchestrator.experiments.image_files import definition_of
from orchestrator.stages.deployment import archive, resident
from testbed import LinkKind, LinkSpec, NodeSpec, TestbedSpec, up
from testbed import Testbed as RunningTestbed
from testbed.spec import Accelerator as SpecAccelerator
from testbed.spec import Driver, check_name
from testbed.warm import Mode

Say = Callable[[str], None]


def bring_up(
    name: str,
    shape: Testbed,
    accelerator: Accelerator | None,
    say: Say,
    evidence: Path | None = None,
    images: Images | None = None,
    *,
    kept: bool = True,
    mode: Mode = Mode.AUTO,
    offline: bool = False,
) -> RunningTestbed:
    """Start the machines, and wait until they can be logged in to. Images that are missing are built.

    When they do not come up nothing is left of them, but their last words are copied to `evidence`. Those that are not
    `kept` end with this process; if it is killed, they are listed as left over. Those that go on from a saved state
    (`mode`) have the resident agent of `orchestrator.stages.deployment`. With `offline` nothing is downloaded.
    """
    specified = specification(name, shape, accelerator)
    images = images or images_for(shape, say, offline=offline)
    agent = None if mode is Mode.COLD else resident(archive(images.host, say))
    return up(
        specified,
        {images.host.arch: images.host},
        say,
        evidence=evidence,
        kept=kept,
        mode=mode,
        resident=agent,
        own=images.nodes,
    )


@dataclass(frozen=True)
class Images:
    """What machines boot from: `nodes` by name. `host` is a built one of this host's own ISA.

    The latter compiles Python for guests, and shows whether KVM works, whatever the guests are.
    """

    host: Image
    nodes: Mapping[str, Image | CloudImage]


def images_for(shape: Testbed, say: Say, *, offline: bool = False) -> Images:
    """The images of the machines, built or fetched when they are not there. Raises Failure if that is not allowed."""
    sources = {name: definition_of(shape.image_of(name)) for name in shape.nodes}
    common = definition_of(shape.image)
    host_source = DEFINITION if says_cloud(common) else common
    wanted: dict[Path, list[str]] = {host_source: [platform.machine()]}
    for name, node in shape.nodes.items():
        wanted.setdefault(sources[name], []).append(node.arch.value)
    found = {
        definition: obtain(archs, say, offline=offline, definition=definition) for definition, archs in wanted.items()
    }
    host = found[host_source][platform.machine()]
    assert isinstance(host, Image)
    return Images(host, {name: found[sources[name]][node.arch.value] for name, node in shape.nodes.items()})


def specification(name: str, shape: Testbed, accelerator: Accelerator | None) -> TestbedSpec:
    """The same machines in the words of the lower layer; `accelerator` overrules that of every node."""
    nodes = [
        NodeSpec(
            node,
            settings.arch.value,
            settings.memory,
            settings.cpus,
            SpecAccelerator((accelerator or settings.accelerator).value),
        )
        for node, settings in shape.nodes.items()
    ]
    links = [
        LinkSpec(
            link,
            LinkKind(settings.kind),
            0 if isinstance(settings, EthernetLink) else settings.size,
            settings.vectors if isinstance(settings, IvshmemLink) else 0,
            settings.nodes,
        )
        for link, settings in shape.links.items()
    ]
    return TestbedSpec(name, tuple(nodes), tuple(links), Driver(shape.driver))


def name_for(wanted: str, ending: str = "") -> str:
    """`wanted` as a testbed may be called, with `ending` behind it."""
    letters = "".join(each if each.isalnum() and each.isascii() else "-" for each in wanted.lower()).strip("-")
    if not letters[:1].isalpha():
        letters = f"t-{letters}"
    return letters[: 31 - len(ending)].rstrip("-") + ending


def checked_name(name: str) -> str:
    """`name` if a testbed may be called that. Raises InputError."""
    try:
        check_name("testbed", name)
    except Failure as error:
        raise InputError(f"--name: {error.message}", f"for example {name_for(name)}") from None
    return name
