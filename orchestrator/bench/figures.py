"""Figures, the ratios between them, and the whole a bench run is summed up in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Unit(StrEnum):
    """Units of figures."""

    MICROSECONDS = "us"
    SECONDS = "s"
    MESSAGES = "messages"


class Quantity(StrEnum):
    """What is measured; `MEANINGS` says it in words."""

    BOOT = "boot"
    BOOT_MACHINE = "boot_machine"
    BOOT_KERNEL = "boot_kernel"
    BOOT_INITRAMFS = "boot_initramfs"
    BOOT_INIT = "boot_init"
    BOOT_SSHD = "boot_sshd"
    WARM_SSH = "warm_ssh"
    WARM = "warm"
    C_ZERO = "c_zero"
    C_COPY = "c_copy"
    C_PROTECT = "c_protect"
    LOCAL_FAULT = "local_fault"
    REMOTE_READ = "remote_read"
    REMOTE_WRITE = "remote_write"
    MUTEX = "mutex"
    CREATION = "creation"
    CLONE = "clone"
    RETURN = "return"
    CREATION_MESSAGES = "creation_messages"
    CLONE_MESSAGES = "clone_messages"
    RETURN_MESSAGES = "return_messages"
    RING_POLL = "ring_poll"
    RING_INTERRUPT = "ring_interrupt"
    RING_ADAPTIVE = "ring_adaptive"
    TCP = "tcp"


MEANINGS = {
    Quantity.BOOT: "from the start of the machine until SSH answers",
    Quantity.BOOT_MACHINE: "… of it QEMU, firmware, and the first connection",
    Quantity.BOOT_KERNEL: "… the kernel",
    Quantity.BOOT_INITRAMFS: "… the initramfs: modules, disk, root file system",
    Quantity.BOOT_INIT: "… init: name, network",
    Quantity.BOOT_SSHD: "… sshd, until it listens",
    Quantity.WARM_SSH: "from the start out of a saved state until SSH answers",
    Quantity.WARM: "from the command until the agents answer, out of saved states",
    Quantity.C_ZERO: "first touch, zero page from a handler in C",
    Quantity.C_COPY: "missing page, copied in by a handler in C",
    Quantity.C_PROTECT: "store to a write-protected page, handler in C",
    Quantity.LOCAL_FAULT: "fault our daemon serves without any message",
    Quantity.REMOTE_READ: "read of a page whose only valid copy is on the other node",
    Quantity.REMOTE_WRITE: "write of a page that the other node holds too",
    Quantity.MUTEX: "mutex handed to a thread on the other node, and back",
    Quantity.CREATION: "thread migrates to where the process is new",
    Quantity.CLONE: "thread migrates to where the process is",
    Quantity.RETURN: "thread migrates back to where it was",
    Quantity.CREATION_MESSAGES: "messages of a migration to where the process is new",
    Quantity.CLONE_MESSAGES: "messages of a migration to where the process is",
    Quantity.RETURN_MESSAGES: "messages of a migration back",
    Quantity.RING_POLL: "ring round trip, both ends polling",
    Quantity.RING_INTERRUPT: "ring round trip, woken by doorbell interrupts",
    Quantity.RING_ADAPTIVE: "ring round trip, polling a while, then asleep",
    Quantity.TCP: "TCP round trip over a virtual Ethernet link",
}

BOOT_PARTS = {
    Quantity.BOOT_KERNEL: (None, "initramfs"),
    Quantity.BOOT_INITRAMFS: ("initramfs", "init"),
    Quantity.BOOT_INIT: ("init", "network"),
    Quantity.BOOT_SSHD: ("network", "sshd"),
}
"""Which two stages of a boot each part lies between; None is the moment the guest's clock starts."""


def boot_parts(boot_s: float, stages: Mapping[str, float]) -> dict[Quantity, float]:
    """The parts of one boot in seconds; they add up to `boot_s`. `stages` are the guest's own times, in seconds.

    What the guest's clock did not see is the machine's: before the kernel and after the last stage.
    """
    parts = {quantity: stages[end] - stages.get(begin or "", 0.0) for quantity, (begin, end) in BOOT_PARTS.items()}
    return {Quantity.BOOT_MACHINE: boot_s - sum(parts.values()), **parts}


@dataclass(frozen=True)
class Figure:
    """One quantity at one place, over all samples of the run."""

    quantity: Quantity
    nodes: tuple[str, ...]
    """The node whose application waited, then the one it waited for, if any. For BOOT of a pair: both."""
    unit: Unit
    count: int
    median: float
    p99: float
    smallest: float

    @classmethod
    def of(cls, quantity: Quantity, nodes: Sequence[str], unit: Unit, samples: Sequence[float]) -> "Figure":
        """Nearest-rank percentiles, so that each is a value that was measured. Raises ValueError without samples."""
        if not samples:
            raise ValueError(f"{quantity} on {', '.join(nodes)}: no samples")
        ordered = sorted(samples)
        rank = {share: ordered[-(-len(ordered) * share // 100) - 1] for share in (50, 99)}
        return cls(quantity, tuple(nodes), unit, len(ordered), rank[50], rank[99], ordered[0])

    @property
    def place(self) -> str:
        """Where it was measured, in words."""
        joint = " + " if self.unit is Unit.SECONDS else " ← "
        return joint.join(self.nodes)


@dataclass(frozen=True)
class Ratio:
    """How often the second fits into the first; both are medians of the same run, at the same place."""

    numerator: Quantity
    denominator: Quantity
    nodes: tuple[str, ...]
    value: float


COMPARED = (
    (Quantity.LOCAL_FAULT, Quantity.C_ZERO),
    (Quantity.REMOTE_READ, Quantity.C_COPY),
    (Quantity.REMOTE_WRITE, Quantity.C_PROTECT),
    (Quantity.MUTEX, Quantity.REMOTE_WRITE),
    (Quantity.CREATION, Quantity.C_COPY),
    (Quantity.CLONE, Quantity.C_COPY),
    (Quantity.RETURN, Quantity.C_COPY),
    (Quantity.RING_INTERRUPT, Quantity.RING_POLL),
    (Quantity.RING_ADAPTIVE, Quantity.RING_POLL),
    (Quantity.TCP, Quantity.RING_POLL),
    (Quantity.TCP, Quantity.RING_INTERRUPT),
)
"""Numerator, denominator. A figure between two nodes meets the waiting node's own where that is all there is."""


def ratios(figures: Iterable[Figure]) -> list[Ratio]:
    """The ratios of `COMPARED` wherever both sides were measured."""
    known = {(figure.quantity, figure.nodes): figure.median for figure in figures}
    found = []
    for numerator, denominator in COMPARED:
        for (quantity, nodes), median in known.items():
            if quantity is numerator:
                floor = known.get((denominator, nodes)) or known.get((denominator, nodes[:1]))
                if floor:
                    found.append(Ratio(numerator, denominator, nodes, median / floor))
    return found


@dataclass(frozen=True)
class Machine:
    """A guest the figures are of."""

    name: str
    arch: str
    accelerator: str
    accelerator_reason: str


@dataclass(frozen=True)
class Bench:
    """One run of `testbed bench`."""

    machines: tuple[Machine, ...]
    repeat: int
    figures: tuple[Figure, ...]
    versions: dict[str, str] = field(default_factory=dict)
    duration_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints, with medians of the pair, null if they were not measured.

        `pair_s`: until both guests, booted, answer SSH; `warm_pair_s`: until both agents answer, out of saved states.
        """
        pairs = {each.quantity: round(each.median, 3) for each in self.figures if len(each.nodes) > 1}
        return {
            **asdict(self),
            "pair_s": pairs.get(Quantity.BOOT),
            "warm_pair_s": pairs.get(Quantity.WARM),
            "ratios": [asdict(ratio) for ratio in ratios(self.figures)],
        }
