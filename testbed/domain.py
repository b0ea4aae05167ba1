"""One machine as libvirt is to see it: a typed model in, domain XML out. Nothing else builds XML."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.errors import Failure
from testbed.spec import Accelerator

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
# Slots of the root bus. All devices have fixed ones: names in the guest follow them, and whatever sits behind a bridge
# shares an IOMMU group with others, which VFIO refuses.
DISK_SLOT = 0x03
SEED_SLOT = 0x04
SHARED_MEMORY_SLOT = 0x08
NETWORK_SLOT = 0x10


@dataclass(frozen=True)
class SharedMemory:
    """The guest's end of an ivshmem link; `server` is the server's socket.

    A plain one has no vectors, and `memory` is where its memory can be opened.
    """

    name: str
    server: Path
    vectors: int
    slot: int
    memory: Path | None = None
    size_bytes: int = 0

    @property
    def arguments(self) -> tuple[str, ...]:
        """QEMU's for a plain one: libvirt would make a file in /dev/shm, which stays behind."""
        if self.memory is None:
            return ()
        backend = f"memory-backend-file,id={self.name},mem-path={self.memory},size={self.size_bytes},share=on"
        return "-object", backend, "-device", f"ivshmem-plain,memdev={self.name},bus=pcie.0,addr={self.slot:#x}"


@dataclass(frozen=True)
class OwnBoot:
    """A machine starts by the boot loader on its disk `overlay` (qcow2), and is told by the disk `seed` who it is.

    `firmware` is None for the BIOS, else UEFI's program and its template of `variables`, which each machine has.
    """

    overlay: Path
    seed: Path
    firmware: tuple[Path, Path] | None
    variables: Path


@dataclass(frozen=True)
class Domain:
    """All that differs between two machines of the project.

    Its kernel is started directly, with its initramfs, and the file system `root`; unless it has a boot of its `own`:
    then there are none of these. `maximum_cpus` can be more than `cpus` (see `cpus_to_declare`); `arguments` are
    appended to QEMU's command line.
    `placeholders` are slots of the root bus that are empty, and in which restored guests will find shared memory.
    `owner` is the user and the group that QEMU is to run as, where the system's daemon would choose others, and
    `unconfined` the daemon's security models that are to leave it alone.
    """

    name: str
    uuid: str
    arch: str
    accelerator: Accelerator
    memory_bytes: int
    cpus: int
    emulator: Path
    console_log: Path
    console_socket: Path
    kernel: Path | None = None
    initramfs: Path | None = None
    command_line: str = ""
    root: Path | None = None
    own: OwnBoot | None = None
    shared_memory: tuple[SharedMemory, ...] = ()
    placeholders: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None
    unconfined: tuple[str, ...] = ()

    @property
    def maximum_cpus(self) -> int:
        """What the machine is declared to be able to hold."""
        return cpus_to_declare(self.cpus, self.accelerator)

    @property
    def appended(self) -> tuple[str, ...]:
        """What libvirt adds to QEMU's command line as it is."""
        return (*(argument for memory in self.shared_memory for argument in memory.arguments), *self.arguments)

    @property
    def console(self) -> str:
        """QEMU's words for the other end of the serial port: a socket, and a log of all that is said."""
        socket, log = (str(path).replace(",", ",,") for path in (self.console_socket, self.console_log))
        return f"socket,id=console,path={socket},server=on,wait=off,logfile={log},logappend=off"


def cpus_to_declare(cpus: int, accelerator: Accelerator) -> int:
    """Under TCG a machine of one CPU is declared to have room for two.

    TCG leaves memory barriers of the guest out when the machine can have one CPU only (tcg_gen_mb, CF_PARALLEL; seen
    in QEMU 7.2: `mfence` becomes no host instruction at all). This guest shares memory with another one: without
    them a store may pass a later load, and the other side sleeps through what it should have seen.
    """
    return max(cpus, 2) if accelerator is Accelerator.TCG else cpus


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def architectures() -> list[str]:
    """Instruction sets there is a machine for."""
    return sorted(path.name.removesuffix(".xml.j2") for path in TEMPLATES.glob("*.xml.j2") if path.name[0] != "_")


def render(domain: Domain) -> str:
    """The domain XML. Raises Failure for an architecture without a template."""
    if domain.arch not in architectures():
        raise Failure(
            f"node {domain.name}: no machine for architecture {domain.arch!r}, expected of {', '.join(architectures())}"
        )
    return (
        _environment()
        .get_template(f"{domain.arch}.xml.j2")
        .render(domain=domain, disk_slot=DISK_SLOT, seed_slot=SEED_SLOT)
    )
