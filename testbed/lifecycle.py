"""Starting a testbed, and finding those that there are."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from images import Image, boot_archive, seed_archive
from images.cloud.image import CloudImage
from images.errors import writing
from testbed import (
    accelerator,
    cloud_init,
    identity,
    ivshmem_server,
    keys,
    monitor,
    network,
    process,
    readiness,
    record,
    sockets,
    ssh_config,
    warm,
)
from testbed.accelerator import Choice
from testbed.cloud_init import own_boot
from testbed.console import Console
from testbed.deadline import BOOT_S, CLOUD_BOOT_S, Deadline
from testbed.domain import SHARED_MEMORY_SLOT, Domain, SharedMemory, render
from testbed.driver import emulator, process_of
from testbed.errors import Failure, GuestError, HostError
from testbed.keys import KeyPair
from testbed.launcher import PARALLEL_STARTS_MAX, Launcher, Order
from testbed.machine import Testbed, console_log, domain_file
from testbed.process import ProcessId
from testbed.record import Journal, Record, State
from testbed.spec import SHARED, Driver, LinkKind, LinkSpec, NodeSpec, TestbedSpec
from testbed.states import Resident
from testbed.states import State as SavedState
from testbed.warm import Mode, Template, Way

Say = Callable[[str], None]
Seed = Mapping[str, tuple[int, bytes]]
"""Files for a guest's init: name → mode, content."""
MEMORY = 4
"""A link's memory, among the descriptors of its server."""
PARALLEL_BOOTS_MAX = min(PARALLEL_STARTS_MAX, max(2, os.cpu_count() or 1))
"""Machines that boot at a time: more than there are cores would only slow one another down."""


class Condition(StrEnum):
    """What is true of a testbed now, whatever its record says."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    """Some of its machines or servers have ended."""
    ENDED = "ended"
    """None of its processes is there any more: they ended, or the host was started anew."""
    LEFT_OVER = "left over"
    """The command that was starting it, or had it for a run of its own, died."""


@dataclass(frozen=True)
class NodeSummary:
    """One line about a node."""

    name: str
    arch: str
    accelerator: str
    started: bool
    alive: bool
    warm: bool
    memory_bytes: int
    """What it was promised."""
    resident_bytes: int
    """What its process takes of the host's memory now."""


@dataclass(frozen=True)
class Summary:
    """One testbed in a list. `created` is None when not even a record was completed."""

    name: str
    condition: Condition
    created: datetime | None
    nodes: tuple[NodeSummary, ...]
    run_directory: Path | None


def find(name: str) -> Testbed:
    """The testbed of this name. Raises NoTestbed when there is none, Failure if it was not completely written down."""
    found = record.read(name)
    if found is None:
        raise Failure(
            f"the start of testbed {name} was interrupted at once", f"`testbed down {name}` removes what is left"
        )
    return Testbed(found)


def list_all() -> list[Summary]:
    """All testbeds of this user, also those whose start was interrupted and those that did not survive the host."""
    return [_summary(name, found) for name, found in record.read_all().items()]


def _summary(name: str, found: Record | None) -> Summary:
    if found is None:
        return Summary(name, Condition.LEFT_OVER, None, (), None)
    nodes = tuple(
        NodeSummary(
            node.name,
            node.arch,
            found.nodes[node.name].accelerator or "",
            found.nodes[node.name].qemu is not None,
            (qemu := found.nodes[node.name].qemu) is not None and qemu.alive(),
            found.nodes[node.name].warm,
            node.memory_bytes,
            qemu.resident_bytes() if qemu else 0,
        )
        for node in found.spec.nodes
    )
    if (found.state is State.STARTING or not found.kept) and not found.owner.alive():
        condition = Condition.LEFT_OVER
    elif found.state is State.STARTING:
        condition = Condition.STARTING
    elif all(each.alive() for each in found.processes):
        condition = Condition.RUNNING
    elif not any(each.alive() for each in found.processes):
        condition = Condition.ENDED
    else:
        condition = Condition.DEGRADED
    return Summary(name, condition, found.created, nodes, found.run_directory)


def up(
    spec: TestbedSpec,
    images: Mapping[str, Image],
    say: Say,
    deadline: Deadline | None = None,
    evidence: Path | None = None,
    *,
    kept: bool = True,
    mode: Mode = Mode.AUTO,
    resident: Resident | None = None,
    own: Mapping[str, Image | CloudImage] | None = None,
) -> Testbed:
    """Starts a testbed and waits until every node answers SSH; it then lives on until `down`.

    One that is not `kept` is to be taken down by this process: without it, it is listed as left over. Nodes that are
    started from a saved state (`mode`) have the program `resident` running.

    `images` are by architecture; nodes named in `own` have one of their own. Without a `deadline` each node has the
    time that its accelerator usually needs, with a wide margin. On any failure nothing is left behind, except that
    consoles and logs are copied to `evidence`. Raises Failure, HostError or GuestError.
    """
    own = own or {}
    for node in spec.nodes:
        if node.arch not in images and node.name not in own:
            raise Failure(f"node {node.name}: no image for {node.arch}, there are: {', '.join(images) or 'none'}")
    journal = record.create(spec, kept=kept)
    say(f"{spec.name}: recorded, files in {journal.record.run_directory}")
    try:
        with writing(journal.record.run_directory):
            Start(journal, images, own, say, deadline, mode, resident).run()
    except BaseException as error:
        taken_down = isinstance(error, (Failure, OSError)) and record.is_ending(spec.name)  # before we do that
        testbed = Testbed(journal.record)
        if evidence is not None:
            with contextlib.suppress(OSError):  # the reason that we are here for is worth more
                testbed.collect(evidence)
        if record.directory(spec.name).exists():  # another command may have taken it down meanwhile
            testbed.down(say)
        if taken_down:
            raise HostError(f"{spec.name}: taken down by another command while it was starting") from error
        raise
    return Testbed(journal.record)


class Start:
    """One start of one testbed."""

    def __init__(
        self,
        journal: Journal,
        images: Mapping[str, Image],
        own: Mapping[str, Image | CloudImage],
        say: Say,
        deadline: Deadline | None,
        mode: Mode,
        resident: Resident | None,
    ) -> None:
        self.journal = journal
        self.spec = journal.record.spec
        self.directory = journal.record.run_directory
        self.images = images
        self.image_of = {node.name: own.get(node.name) or images[node.arch] for node in self.spec.nodes}
        self.say = say
        self.deadline = deadline
        self.mode = mode
        self.resident = resident
        self.cancel = threading.Event()
        self._ports = threading.Lock()

    def run(self) -> None:
        """Reads as the order of things: what machines need, then the machines, all at once."""
        choices = self._choose_accelerators()
        launcher = Launcher(
            self.spec.driver,
            self.directory,
            dict.fromkeys((node.arch, choices[node.name].accelerator) for node in self.spec.nodes),
        )
        try:
            host_keys = self._make_keys()
            self._start_servers()
            unconfined = launcher.wait_until_ready()  # not a part of any machine's boot
            domains = {node.name: self._domain(node, choices[node.name], unconfined) for node in self.spec.nodes}
            ways = self._choose_ways(launcher, domains)
            self._in_parallel(
                launcher,
                [
                    partial(self._start, launcher, node, domains[node.name], host_keys[node.name], ways[node.name])
                    for node in self.spec.nodes
                ],
            )
        finally:
            launcher.close()
        self.journal.change(lambda record: replace(record, state=State.RUNNING))

    def _choose_accelerators(self) -> dict[str, Choice]:
        choices = {}
        for node in self.spec.nodes:
            choice = accelerator.choose(node, self._probe(node), self.directory, self.say)
            self.say(f"{node.name}: {node.arch} by {choice.accelerator} ({choice.reason})")
            self.journal.change_node(node.name, accelerator=choice.accelerator, accelerator_reason=choice.reason)
            choices[node.name] = choice
        return choices

    def _probe(self, node: NodeSpec) -> Image | None:
        """What can show whether the node's accelerator works."""
        image = self.image_of[node.name]
        return image if isinstance(image, Image) else self.images.get(node.arch)

    def _make_keys(self) -> dict[str, KeyPair]:
        client = KeyPair.generate()
        hosts = {node.name: KeyPair.generate() for node in self.spec.nodes}
        keys.write_private(self.directory / keys.CLIENT_KEY, client.private)
        (self.directory / f"{keys.CLIENT_KEY}.pub").write_text(client.public + "\n")
        known = ssh_config.known_hosts({name: pair.public for name, pair in hosts.items()})
        (self.directory / keys.KNOWN_HOSTS).write_text(known)
        return hosts

    def _start_servers(self) -> None:
        for link in self.spec.links:
            if link.kind not in SHARED:
                continue
            path = sockets.server(self.directory, link.name)
            memory = ivshmem_server.create_memory(link.size_bytes)
            # It listens before the server is there: whoever connects early is served as soon as it is.
            with ivshmem_server.listen(str(path)) as listener:
                argv = [process.python(), "-I", "-S", ivshmem_server.__file__, "--socket", str(path)]
                argv += ["--size", str(link.size_bytes), "--vectors", str(link.vectors)]
                argv += ["--listener", "3", "--memory", str(MEMORY)]
                server = process.spawn_detached(argv, {3: listener.fileno(), MEMORY: memory}, path.with_suffix(".log"))
            os.close(memory)
            self.say(f"{link.name}: ivshmem server started")
            self.journal.change(
                lambda record, name=link.name, server=server: replace(  # type: ignore[misc]
                    record, servers={**record.servers, name: server}
                )
            )

    def _choose_ways(self, launcher: Launcher, domains: Mapping[str, Domain]) -> dict[str, Way]:
        """Which nodes start from saved states; those that are missing are made first if that was asked for."""
        if self.mode is Mode.COLD:
            ways = {name: Way(None, "asked for") for name in domains}
        else:
            templates = {
                name: Template.of(name, domain, self.directory, image, self.resident)
                for name, domain in domains.items()
                if isinstance(image := self.image_of[name], Image)
            }
            if self.mode is Mode.WARM:
                making = [
                    partial(template.make, launcher, self.directory, self.say, self.cancel)
                    for template in warm.missing(templates)
                ]
                self._in_parallel(launcher, making)
            always_cold = Way(None, "a cloud image is booted")
            ways = {name: templates[name].way() if name in templates else always_cold for name in domains}
        for name, way in ways.items():
            self.say(f"{name}: {'warm' if way.warm else 'cold'} start ({way.reason})")
            self.journal.change_node(name, warm=way.warm, warm_reason=way.reason)
        return ways

    def _seed(self, node: NodeSpec, host_key: KeyPair, *, warm: bool) -> Seed:
        """What makes a guest this node. In one that was restored, the interface for SSH is up already."""
        interfaces = network.interfaces(self.spec, node.name, self.directory)[1 if warm else 0 :]
        client = (self.directory / f"{keys.CLIENT_KEY}.pub").read_bytes()
        return {
            "hostname": (0o644, f"{node.name}\n".encode()),
            "ssh_host_ed25519_key": (0o600, host_key.private),
            "ssh_host_ed25519_key.pub": (0o644, f"{host_key.public}\n".encode()),
            "authorized_keys": (0o600, client),
            "network": (0o644, "".join(f"{each.seed_line}\n" for each in interfaces).encode()),
        }

    def _domain(self, node: NodeSpec, choice: Choice, unconfined: tuple[str, ...]) -> Domain:
        image = self.image_of[node.name]
        interfaces = network.interfaces(self.spec, node.name, self.directory)
        links = self.spec.links_of(node.name, *SHARED)
        identity = uuid.uuid4()
        domain = Domain(
            # A daemon has machines of others, who may call theirs the same, and forgets ours a while after they ended.
            name=f"{self.spec.name}-{node.name}-{identity.hex[:8]}",
            uuid=str(identity),
            arch=node.arch,
            accelerator=choice.accelerator,
            memory_bytes=node.memory_bytes,
            cpus=node.cpus,
            emulator=emulator(node.arch),
            console_log=console_log(self.directory, node.name),
            console_socket=sockets.console(self.directory, node.name),
            shared_memory=tuple(
                self._shared_memory(link, SHARED_MEMORY_SLOT + number) for number, link in enumerate(links)
            ),
            arguments=(
                *(argument for each in interfaces for argument in each.arguments),
                *monitor.arguments(sockets.monitor(self.directory, node.name)),
            ),
            owner=(os.geteuid(), os.getegid()) if self.spec.driver is Driver.SYSTEM else None,
            unconfined=unconfined,
        )
        if isinstance(image, CloudImage):
            return replace(domain, own=own_boot(image, node.name, self.directory))
        return replace(
            domain,
            kernel=image.kernel,
            initramfs=self.directory / f"{node.name}.initramfs",
            command_line=" ".join(image.command_line),
            root=image.root,
        )

    def _shared_memory(self, link: LinkSpec, slot: int) -> SharedMemory:
        server = sockets.server(self.directory, link.name)
        if link.kind is LinkKind.IVSHMEM_DOORBELL:
            return SharedMemory(link.name, server, link.vectors, slot)
        held = process.PROC / str(self.journal.record.servers[link.name].pid) / "fd" / str(MEMORY)
        return SharedMemory(link.name, server, 0, slot, held, link.size_bytes)

    def _in_parallel(self, launcher: Launcher, works: Iterable[Callable[[], None]]) -> None:
        """As many at once as there are cores; the first failure stops the others and is raised."""
        with ThreadPoolExecutor(PARALLEL_BOOTS_MAX, thread_name_prefix="boot") as pool:
            futures: list[Future[None]] = [pool.submit(work) for work in works]
            well = False
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                errors = [error for future in futures if future.done() and (error := future.exception())]
                well = not errors
            finally:
                if not well:
                    # Also when we are interrupted while waiting: whoever waits for a console or for libvirt ends.
                    self.cancel.set()
                    launcher.close()
        for error in errors:
            raise error

    def _start(self, launcher: Launcher, node: NodeSpec, domain: Domain, host_key: KeyPair, way: Way) -> None:
        """From its saved state; should that turn out to be of no use, it is thrown away, and the node boots."""
        seed = self._seed(node, host_key, warm=False)
        self._write_seed(node, domain, seed)
        if way.state is not None:
            try:
                resumed = warm.resumed(domain, self._incoming(node))
                self._boot(launcher, node, resumed, self._seed(node, host_key, warm=True), way.state)
                return
            except GuestError as error:
                way.state.remove()
                reason = f"its saved state was of no use: {error.message.splitlines()[0]}"
            self.say(f"{node.name}: cold start after all, {reason}{_set_aside(domain.console_log)}")
            if qemu := process_of(domain.uuid):
                process.end([qemu], 0.0)
            self.journal.change_node(node.name, warm=False, warm_reason=reason, stages={})
            domain = replace(domain, name=f"{domain.name}-cold", uuid=str(uuid.uuid4()))
        self._boot(launcher, node, domain, seed, None)

    def _write_seed(self, node: NodeSpec, domain: Domain, seed: Seed) -> None:
        """Not only to boot from now: a reset boots any machine from it."""
        image = self.image_of[node.name]
        if isinstance(image, Image):
            assert domain.initramfs is not None
            keys.write_private(domain.initramfs, boot_archive(image, seed_archive(seed)))
        elif domain.own is not None:
            cloud_init.write(domain.own, cloud_init.seed(f"{self.spec.name}-{node.name}", node.arch, seed), image)

    def _boot(self, launcher: Launcher, node: NodeSpec, domain: Domain, seed: Seed, state: SavedState | None) -> None:
        if self.cancel.is_set():
            raise readiness.Cancelled
        xml = render(domain)
        domain_file(self.directory, node.name).write_text(xml)
        deadline = self.deadline or Deadline.scaled(CLOUD_BOOT_S if domain.own else BOOT_S, domain.accelerator)
        self.say(f"{node.name}: starting")
        begin = time.monotonic()
        order = Order(node.name, domain.name, xml)
        if state is not None:
            order = replace(order, state=str(state.file), incoming=str(self._incoming(node)))
        try:
            usernet = launcher.start(order)
        except GuestError as error:
            kind = f"{node.arch}, {domain.accelerator}"
            raise GuestError(f"node {node.name} ({kind}) was refused: {error.message}", error.hint) from error
        qemu, port = self._identify(node, domain, usernet)
        boot = readiness.Boot(
            node=node.name,
            kind=f"{node.arch}, {domain.accelerator}",
            console=Console(domain.console_log),
            qemu=qemu,
            port=port,
            started=begin,
            command_line=shlex.join(process.arguments_of(qemu.pid)),
            monitor=sockets.monitor(self.directory, node.name),
        )

        def on_stage(stages: dict[str, float]) -> None:
            self.say(f"{node.name}: {boot.elapsed_s:.1f} s, stage {next(reversed(stages))}")
            self.journal.change_node(node.name, stages=stages)

        with identity.handed_over(domain.console_socket, seed) if state else contextlib.nullcontext():
            boot_s = readiness.await_ready(boot, deadline, self.say, self.cancel, on_stage)
        self.journal.change_node(node.name, boot_s=boot_s)
        self.say(f"{node.name}: ready for SSH {boot_s:.1f} s after its start")

    def _incoming(self, node: NodeSpec) -> Path:
        return self.directory / f"{node.name}.in"

    def _identify(self, node: NodeSpec, domain: Domain, usernet: str) -> tuple[ProcessId, int]:
        qemu = process_of(domain.uuid)
        if qemu is None:
            raise GuestError(f"node {node.name}: QEMU ended at once", "its log in the folder for evidence says more")
        self.journal.change_node(node.name, qemu=qemu)
        sockets.make_private(self.directory)
        port = network.forwarded_port(usernet)
        if port is None:
            raise HostError(f"node {node.name}: QEMU forwards no port to SSH; `info usernet` says:\n{usernet}")
        self.journal.change_node(node.name, ssh_port=port)
        with self._ports:
            nodes = self.journal.record.nodes
            ports = {name: each.ssh_port for name, each in nodes.items() if each.ssh_port is not None}
            with contextlib.suppress(FileNotFoundError):  # `testbed down` of another command came first
                ssh_config.write(record.directory(self.spec.name), self.spec.name, ports, self.directory)
        return qemu, port


def _set_aside(console: Path) -> str:
    """What a machine said that is to be started once more: where it is, in words; "" if it did not get so far."""
    tried = console.with_suffix(".tried.console")
    try:
        console.rename(tried)
    except FileNotFoundError:
        return ""
    return f"; what it said is in {tried}"
