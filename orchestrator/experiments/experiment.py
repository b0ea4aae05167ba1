"""The experiment file: what it may hold, as typed, frozen models. `testbed schema` prints the JSON Schema of it.

The models check each value by itself; what values must be to each other is in
`orchestrator.experiments.consistency`. Custom errors are of type `expected`: their context holds the words for the
message, and `near`, the nearest valid word.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from orchestrator.experiments.expectation import Expectation, ExpressionError
from orchestrator.experiments.fields import Model, NodeName, Size, one_or_many
from orchestrator.experiments.sizes import PAGE_BYTES
from orchestrator.experiments.workloads import Workload

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$"
DEFAULT_MEMORY = 512 << 20
DEFAULT_REGION = 4 << 20
DriverName = Literal["embedded", "session", "system"]
KERNELS_MAX = 64
"""A copyset is a bit mask of 64 on the wire."""


class Arch(StrEnum):
    """Instruction sets there are images for; the kernel's names (`uname -m`)."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Accelerator(StrEnum):
    """What runs a guest's instructions. `auto`: KVM where a probe guest has shown that it works, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Notify(StrEnum):
    """How a daemon learns of messages: looking without pause, sleeping on the doorbell, or one, then the other."""

    POLL = "poll"
    INTERRUPT = "interrupt"
    ADAPTIVE = "adaptive"


class StageName(StrEnum):
    """Where an experiment runs: in real guests, as processes of this host, or on engines alone."""

    VM = "vm"
    LOCAL = "local"
    SIM = "sim"


def _protocol(value: str) -> str:
    from guest.protocol.registry import PROTOCOLS

    if value not in PROTOCOLS:
        raise PydanticCustomError("expected", "not a protocol", {"words": sorted(PROTOCOLS)})
    return value


def _image(value: str) -> str:
    from images.store import definitions

    if value in definitions() or is_path(value):
        return value
    raise PydanticCustomError("expected", "not an image", {"words": sorted(definitions())})


def is_path(image: str) -> bool:
    """Whether an image is named by the file of its definition."""
    return "/" in image or image.endswith((".yaml", ".yml"))


Image = Annotated[str, AfterValidator(_image)]


def _expectation(value: object) -> object:
    if not isinstance(value, str):
        words = {"expected": "an expression such as verified == true"}
        raise PydanticCustomError("expected", "not an expression", words)
    try:
        Expectation.parse(value)
    except ExpressionError as error:
        raise PydanticCustomError(
            "expected",
            "not an expression",
            {"found": error.found, "expected": error.expected, "near": error.near, "offset": error.offset},
        ) from None
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _unique(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise PydanticCustomError("expected", "twice", {"expected": "each node once"})
    return value


NodeSet = Annotated[tuple[NodeName, ...], Field(min_length=2, max_length=KERNELS_MAX), AfterValidator(_unique)]


class Node(Model):
    """One guest machine."""

    arch: Arch
    """Its instruction set."""
    memory: Annotated[Size, Field(ge=128 << 20, le=64 << 30)] = DEFAULT_MEMORY
    """Main memory."""
    cpus: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Virtual processors."""
    accelerator: Accelerator = Accelerator.AUTO
    """What runs its instructions; `--accel` overrules."""
    image: Image | None = None
    """What this guest is made from; the testbed's `image` when left out."""


class IvshmemLink(Model):
    """Shared memory between nodes, and doorbells: a PCI device of QEMU in each of them."""

    kind: Literal["ivshmem-doorbell"]
    size: Annotated[Size, Field(ge=1 << 20, le=16 << 30)]
    """Size of the segment, a power of two (it is a PCI base address register)."""
    vectors: Annotated[int, Field(strict=True, ge=1, le=32)] = 4
    """Interrupt vectors a node."""
    nodes: NodeSet
    """The nodes that share it."""


class PlainIvshmemLink(Model):
    """Shared memory between nodes, without doorbells: for programs of one's own, which look at it by themselves."""

    kind: Literal["ivshmem-plain"]
    size: Annotated[Size, Field(ge=1 << 20, le=16 << 30)]
    """Size of the segment, a power of two (it is a PCI base address register)."""
    nodes: NodeSet
    """The nodes that share it."""


class EthernetLink(Model):
    """A virtual Ethernet segment between nodes."""

    kind: Literal["ethernet"]
    nodes: NodeSet
    """The nodes on it."""


Link = Annotated[IvshmemLink | PlainIvshmemLink | EthernetLink, Field(discriminator="kind")]


class Testbed(Model):
    """The machines and what connects them. A node's place in `nodes` is its kernel id."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    nodes: Annotated[dict[NodeName, Node], Field(min_length=1, max_length=KERNELS_MAX)]
    links: dict[NodeName, Link] = {}
    image: Image = "default"
    """What the guests are made from: a definition in `images/` (`numpy` has NumPy), or the path of one of your own."""
    driver: DriverName = "embedded"
    """libvirt's driver: inside this process, or a daemon's."""

    def image_of(self, node: str) -> str:
        """What a node is made from."""
        return self.nodes[node].image or self.image


class Coherency(Model):
    """The shared address space: one region of pages at the same address on every kernel."""

    protocol: Annotated[str, AfterValidator(_protocol)] = "voting"
    link: str
    """The shared memory its messages and pages travel through."""
    notify: Notify = Notify.ADAPTIVE
    region: Annotated[Size, Field(ge=PAGE_BYTES, multiple_of=PAGE_BYTES)] = DEFAULT_REGION
    """Size of the coherent memory, whole pages."""
    resident: Annotated[Size, Field(ge=PAGE_BYTES, multiple_of=PAGE_BYTES)] | None = None
    """How much of the region each kernel keeps; what is too much goes to other kernels. All of it when left out."""
    trace: bool = False
    """Keep what every engine did, for `testbed replay`. Costs the daemons some time and memory."""
    failure_deadline_s: Annotated[float, Field(ge=1, le=600)] = 3
    """How long a kernel may show no sign of life before the others go on without it; ten times as long for emulated
    guests."""

    @property
    def pages(self) -> int:
        return self.region // PAGE_BYTES

    @property
    def resident_pages(self) -> int | None:
        return None if self.resident is None else min(self.resident // PAGE_BYTES, self.pages)


Values = Annotated[list[Any], Field(min_length=1)]
Columns = Annotated[dict[str, Values], Field(min_length=1)]
Combination = Annotated[dict[str, Any], Field(min_length=1)]


class Matrix(Model):
    """Values to put in the place of others, by path (`workload.array: [4KiB, 256KiB]`); all combinations are run."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Values]

    grid: dict[str, Values] = {}
    """The same as paths written beside it."""
    zip: Annotated[list[Columns], BeforeValidator(_listed, json_schema_input_type=Columns | list[Columns])] = []
    """Paths whose values are taken together: first with first, second with second. A list of such is a grid of them."""
    exclude: list[Combination] = []
    """Combinations of the grid that are left out: those that have all values of an entry."""
    include: list[Combination] = []
    """Further combinations; what an entry does not name is as the file says."""


class Experiment(Model):
    """An experiment file."""

    extends: Annotated[tuple[str, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])] = ()
    """A file, or files, that this one is laid over: what stands here wins; `null` takes a key away."""
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    """Part of the names of its results and of its testbed."""
    testbed: Testbed
    coherency: Coherency | None = None
    workload: Workload | None = None
    matrix: Annotated[Matrix, Field(default_factory=lambda: Matrix.model_validate({}))]
    repeat: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    """How often each combination is run."""
    retries: Annotated[int, Field(strict=True, ge=0, le=10)] = 1
    """How often a point is run again, on new guests, because guests have died under it."""
    warm_up: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    """How often each combination is run before that, unrecorded."""
    seed: Annotated[int, Field(strict=True, ge=0, le=(1 << 53) - 1)] = 0
    """Where chance begins; the nth repetition of every combination has the nth seed from here on."""
    timeout_s: Annotated[float, Field(strict=True, gt=0, le=86_400)] = 30.0
    """Longest time one point may take with hardware acceleration; emulated guests are given ten times as long."""
    expect: list[Annotated[str, BeforeValidator(_expectation)]] = ["verified == true"]
    """Expressions over a point's results that must be true."""
