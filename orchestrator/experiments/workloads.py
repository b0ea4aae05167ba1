"""The workloads an experiment file may name, by `kind`.

Each knows the roles of every node's threads, what it is to the agents that run it (`described`), and which files of the
user's it takes along.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from orchestrator.experiments.fields import (
    CommandLines,
    FileName,
    FileNames,
    InnerNames,
    Model,
    NodeName,
    Size,
    Word,
    Words,
    one_or_many,
)
from orchestrator.experiments.sizes import PAGE_BYTES


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise PydanticCustomError("expected", "no scalar", {"expected": "a number, a word, true or false"})
    return value


Scalar = Annotated[bool | int | float | str, BeforeValidator(_scalar, json_schema_input_type=bool | int | float | str)]
"""One value of `parameters`."""
FILE_KEYS = ("file", "source", "send")
"""Keys of workloads below which names of files stand."""


class Role(StrEnum):
    """What a thread does to the shared array in every iteration."""

    READER = "reader"
    WRITER = "writer"
    IDLE = "idle"


def _somebody(value: dict[str, tuple[Role, ...]]) -> dict[str, tuple[Role, ...]]:
    if all(role is Role.IDLE for roles in value.values() for role in roles):
        raise PydanticCustomError("expected", "nobody", {"expected": "a reader or writer on one node at least"})
    return value


Threads = Annotated[
    tuple[Role, ...],
    Field(min_length=1, max_length=16),
    BeforeValidator(one_or_many, json_schema_input_type=Role | Annotated[list[Role], Field(min_length=1)]),
]


class SharedArray(Model):
    """Threads store into and load from one array; every value that is loaded is checked."""

    kind: Literal["shared-array"]
    threads: Annotated[dict[NodeName, Threads], AfterValidator(_somebody)]
    """Role of each node's thread, or a list of roles, one a thread. A node that is not named is idle."""
    array: Annotated[Size, Field(ge=8)]
    """Size of the array, from the start of the region."""
    stride: Annotated[Size, Field(ge=8, le=PAGE_BYTES, multiple_of=8)] = 64
    """Bytes from one element (8 bytes) to the next."""
    iterations: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 16
    """Rounds of storing and loading, with a barrier after each half."""
    write_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 1.0
    """Of a writer's accesses in the first half of a round, how many are stores; the others are loads, by the seed."""

    @property
    def pages(self) -> int:
        """Pages the array touches."""
        return -(-self.array // PAGE_BYTES)

    @property
    def array_bytes(self) -> int:
        """Size of the array."""
        return self.array

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the user's that it needs."""
        return ()

    def roles(self, node: str) -> tuple[str, ...]:
        """Roles of the node's threads."""
        return tuple(role.value for role in self.threads.get(node, (Role.IDLE,)))

    def described(self, _region_pages: int, seed: int) -> dict[str, Any]:
        """As the agents know it."""
        return {
            "kind": self.kind,
            "array_bytes": self.array,
            "stride": self.stride,
            "iterations": self.iterations,
            "write_share": self.write_share,
            "seed": seed,
        }


class _OnMemory(Model):
    """What a program of the user's on coherent memory is, in whatever language."""

    iterations: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 1
    """Told to the program; expectations may count by it."""
    pages: Annotated[int, Field(strict=True, ge=1)] | None = None
    """How much of the region is mapped at first; the whole of it when left out."""

    @property
    def array_bytes(self) -> int:
        """Of the pages it says it uses."""
        return (self.pages or 0) * PAGE_BYTES

    def _described(self, kind: str, region_pages: int, seed: int) -> dict[str, Any]:
        pages = self.pages or region_pages
        return {"kind": kind, "iterations": self.iterations, "pages": pages, "seed": seed}


class _Program(_OnMemory):
    """A program with threads that stay where they are."""

    threads: Annotated[dict[NodeName, Words], Field(min_length=1)]
    """By node, the role of its thread, or a list of roles, one a thread. Every node of the link has one at least."""

    def roles(self, node: str) -> tuple[str, ...]:
        """Roles of the node's threads."""
        return self.threads.get(node, ())


class Script(_Program):
    """Threads run functions of a Python file of the user's, one function for each role."""

    kind: Literal["script"]
    file: FileName
    """The Python file; relative to this one."""
    parameters: dict[Word, Scalar] = {}
    """Values for the functions, by name."""

    @property
    def files(self) -> tuple[str, ...]:
        """The script."""
        return (self.file,)

    def described(self, region_pages: int, seed: int) -> dict[str, Any]:
        """As the agents know it."""
        return self._described(self.kind, region_pages, seed) | {"parameters": self.parameters}


class Placement(StrEnum):
    """Where threads of a process run that are not told; see `guest.workloads.placement`."""

    FIXED = "fixed"
    ROUND_ROBIN = "round-robin"
    LOAD = "load"
    LOCALITY = "locality"


class Process(_OnMemory):
    """One process over all kernels of the link: its threads are started by the program, and move between kernels."""

    kind: Literal["process"]
    file: FileName
    """The Python file, with a function `main`; relative to this one."""
    parameters: dict[Word, Scalar] = {}
    """Values for the program, by name."""
    placement: Placement = Placement.FIXED
    """Where threads begin that the program does not place, and whether they move without its saying so."""
    pool: Annotated[int, Field(strict=True, ge=1, le=64)] = 2
    """Processes of the operating system that wait for threads on each kernel; more are made when these do not do."""
    kernels: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    """Of the link's kernels, how many the program is told of and may use, the first ones; all of them when left out."""
    processes: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    """How many processes there may be at a time, the first one and those that are forked: the region is that of all of
    them, in equal parts."""

    @property
    def files(self) -> tuple[str, ...]:
        """The program."""
        return (self.file,)

    def roles(self, _node: str) -> tuple[str, ...]:
        """Every kernel of the link may host threads of it."""
        return ("process",)

    def described(self, region_pages: int, seed: int) -> dict[str, Any]:
        """As the agents know it."""
        told = {
            "parameters": self.parameters,
            "pool": self.pool,
            "kernels": self.kernels,
            "placement": self.placement.value,
        }
        return self._described(self.kind, self.span(region_pages), seed) | told

    def span(self, region_pages: int) -> int:
        """Pages of the region that one process has."""
        return region_pages // self.processes


class Native(_Program):
    """Threads are programs compiled from C for each ISA, with `testbed.h`."""

    kind: Literal["native"]
    source: FileName
    """The C file; relative to this one."""
    flags: list[str] = ["-O2"]
    """For the compiler."""
    libraries: list[Word] = []
    """Linked: `m` is -lm."""
    arguments: list[str] = []
    """Of the program."""

    @property
    def files(self) -> tuple[str, ...]:
        """The source."""
        return (self.source,)

    def described(self, region_pages: int, seed: int) -> dict[str, Any]:
        """As the agents know it."""
        return self._described(self.kind, region_pages, seed) | {"arguments": self.arguments}


class Command(Model):
    """Command lines on any nodes, at the same time; they have no part in the coherent memory, and need none."""

    kind: Literal["command"]
    commands: Annotated[dict[NodeName, CommandLines], Field(min_length=1)]
    """By node, a command line as a list of words, or a list of such, run one after the other until one fails."""
    send: dict[NodeName, FileNames] = {}
    """By node, files that lie in the commands' folder when they start; relative to this file."""
    collect: dict[NodeName, InnerNames] = {}
    """By node, files of that folder that go to the results."""
    environment: dict[Word, str] = {}
    """Variables of the commands."""

    iterations: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 1
    """For expectations to count by."""

    @property
    def pages(self) -> int:
        """They touch none."""
        return 0

    @property
    def array_bytes(self) -> int:
        """There is no array."""
        return 0

    @property
    def files(self) -> tuple[str, ...]:
        """What is sent."""
        return tuple(dict.fromkeys(name for names in self.send.values() for name in names))

    def roles(self, node: str) -> tuple[str, ...]:
        """One thread of commands on every node that has any."""
        return ("command",) if node in self.commands else ()


Workload = Annotated[SharedArray | Script | Process | Native | Command, Field(discriminator="kind")]
