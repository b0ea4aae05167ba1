"""Running litmus tests: machines up once, then every shape on every memory in every placement, and down again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from guest.link.segment import Layout
from guest.workloads.litmus import Litmus as Workload
from orchestrator.errors import InputError
from orchestrator.experiments.experiment import Experiment, IvshmemLink
from orchestrator.experiments.sizes import PAGE_BYTES, show_size
from orchestrator.experiments.vocabulary import nearest
from orchestrator.litmus.judge import Row, histories_by_program, instances_of, placement_of
from orchestrator.litmus.shapes import SHAPES, Shape, Step
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.summary import NodeSummary, Outcome
from orchestrator.signals import signals_wait
from orchestrator.stages.agents import Agents, answer_within
from orchestrator.stages.stage import Stage

SLOTS = 16
"""Instances in a round."""
CONTROL_SHARE = 8
"""Instances of a control, in a round and in all, for each one on coherent memory: they cost so much less, and what they
look for is rare."""


class Memory(StrEnum):
    """What the programs run on."""

    COHERENT = "coherent"
    BARE = "bare"
    """The segment itself, kept coherent by nobody but the processors."""
    FENCED = "bare+fences"
    """The same with a full fence between any two steps."""

    @property
    def share(self) -> int:
        """Instances for each one on coherent memory."""
        return 1 if self is Memory.COHERENT else CONTROL_SHARE


@dataclass(frozen=True)
class Settings:
    """What is to be run."""

    experiment: Experiment
    shapes: Sequence[Shape]
    iterations: int
    """Instances of each shape in each placement, at least."""
    memories: Sequence[Memory]
    seed: int
    clocks_agree: bool
    """Whether all nodes read one clock, as processes of one host do."""


UNFINISHED = {"kind": "interrupted", "message": "it has not come to its end", "hint": ""}


@dataclass
class Litmus:
    """What was run, and what came of it."""

    stage: str
    seed: int
    notify: str
    protocol: str
    nodes: list[NodeSummary] = field(default_factory=list)
    planned_rows: int = 0
    rows: list[Row] = field(default_factory=list)
    """Those that are complete."""
    error: dict[str, str] | None = field(default_factory=lambda: dict(UNFINISHED))
    """What kept it from its end: kind, message, hint."""

    @property
    def outcome(self) -> Outcome:
        """An end before the last row is an error, whatever the rows show."""
        if self.error is not None:
            return Outcome.ERROR
        return Outcome.FAILED if self.broken else Outcome.PASSED

    @property
    def broken(self) -> list[Row]:
        """Rows of coherent memory with an instance that it must not show."""
        return [row for row in self.rows if row.memory == Memory.COHERENT and row.violation_count]


def shapes_named(words: str) -> list[Shape]:
    """The shapes in a list such as `SB,MP`; all, if it is empty. Raises InputError."""
    known = {name.lower(): shape for name, shape in SHAPES.items()}
    chosen = []
    for word in words.split(",") if words else known:
        shape = known.get(word.strip().lower())
        if shape is None:
            near = nearest(word.strip(), SHAPES)
            hint = f"did you mean {near}?" if near else "for example --shape SB,MP"
            raise InputError(f"--shape: '{word.strip()}', expected some of {', '.join(SHAPES)}", hint)
        chosen.append(shape)
    return chosen


def check_runnable(experiment: Experiment, path: str) -> None:
    """Raise InputError unless the file describes a coherent memory that is large enough."""
    coherency = experiment.coherency
    if coherency is None:
        raise InputError(f"{path}: found no coherency, expected one to test", "configs/litmus.yaml is an example")
    pages = max(litmus_of(shape, Memory.COHERENT).pages for shape in SHAPES.values())
    if coherency.pages < pages:
        raise InputError(
            f"{path}: coherency.region is {show_size(coherency.region)}, litmus tests need "
            f"{show_size(pages * PAGE_BYTES)}",
            "make the region larger",
        )
    link = experiment.testbed.links[coherency.link]
    assert isinstance(link, IvshmemLink)
    left = link.size - Layout.fit(link.size, len(link.nodes)).size_bytes
    controls = [litmus_of(shape, Memory.BARE) for shape in SHAPES.values()]
    needed = max(control.pages * PAGE_BYTES for control in controls) + PAGE_BYTES  # all meetings fit one
    if left < needed:
        raise InputError(
            f"{path}: {coherency.link} of {show_size(link.size)} has {show_size(left)} that its rings do not use, the "
            f"control of litmus tests needs {show_size(needed)}",
            "make the link larger",
        )


def run(
    settings: Settings,
    stage: Stage,
    directory: RunDirectory,
    found: Litmus,
    progress: Progress,
    keep: Callable[[], None],
) -> None:
    """Fill `found`, and call `keep` whenever there is more in it. Whatever ends it, what was started is stopped."""
    agents: Agents | None = None
    rows = list(_planned(settings))
    found.planned_rows = len(rows)
    try:
        with progress.step(f"starting {', '.join(settings.experiment.testbed.nodes)}"):
            found.nodes = stage.provision()
        with progress.step("deploying the daemon"):
            agents = stage.deploy()
        for number, (shape, memory, nodes) in enumerate(rows, 1):
            where = " ".join(f"{node}:p{program}" for program, node in enumerate(nodes))
            what = f"row {number} of {len(rows)}: {shape.name} on {memory} memory, {where}"
            with progress.step(what, announced=False):
                row = _row(settings, stage, agents, shape, memory, nodes)
            found.rows.append(row)
            keep()
            progress.say(f"{what}: {row.instances} instances, {row.duration_s:.1f} s, {verdict(row)}")
    finally:
        with signals_wait(progress.say_soon):
            try:
                stage.collect(directory)
            finally:
                if agents is not None:
                    agents.close()
                stage.teardown(keep=False)


def verdict(row: Row) -> str:
    """What a row showed, in a word or two."""
    if row.violation_count:
        return f"FORBIDDEN {row.violation_count} times" if row.memory == Memory.COHERENT else "relaxed"
    return "ok, weakly exercised" if row.weak else "ok"


def kernels_of(experiment: Experiment) -> tuple[str, ...]:
    """The nodes that share the memory; a node's place is its kernel id."""
    assert experiment.coherency is not None
    link = experiment.testbed.links[experiment.coherency.link]
    assert isinstance(link, IvshmemLink)
    members = set(link.nodes)
    return tuple(node for node in experiment.testbed.nodes if node in members)


def _planned(settings: Settings) -> Iterator[tuple[Shape, Memory, list[str]]]:
    """Each shape with its programs dealt out to the kernels in turn, once from the first kernel and once from the
    next: a shape is not symmetric, and neither are machines of different instruction sets."""
    kernels = kernels_of(settings.experiment)
    for memory in settings.memories:
        for shape in settings.shapes:
            for first in range(2):
                yield shape, memory, [kernels[(first + n) % len(kernels)] for n in range(len(shape.programs))]


def _row(settings: Settings, stage: Stage, agents: Agents, shape: Shape, memory: Memory, nodes: Sequence[str]) -> Row:
    experiment = settings.experiment
    coherency = experiment.coherency
    assert coherency is not None
    kernels = kernels_of(experiment)
    deadline = stage.deadline(experiment.timeout_s)
    stage.format_segment(coherency.link, len(kernels))
    shared = {
        "kernels": len(kernels),
        "pages": coherency.pages,
        "resident_pages": coherency.resident_pages,
        "protocol": coherency.protocol,
        "notify": coherency.notify.value,
        "failure_deadline_s": stage.deadline(coherency.failure_deadline_s).seconds,
    }
    opening = {
        node: {"op": "open", "kernel": kernel, "link": stage.link_for(coherency.link, node), **shared}
        for kernel, node in enumerate(kernels)
    }
    agents.ask(opening, deadline)
    placement = placement_of(nodes)
    workload = workload_of(shape, memory, settings.iterations, settings.seed)
    allowed_s = stage.deadline(experiment.timeout_s).seconds
    work = {
        "op": "run",
        "workload": workload,
        "memory": "coherent" if memory is Memory.COHERENT else "bare",
        "all_roles": [[f"p{program}" for program in placement.get(node, ())] for node in kernels],
        "deadline_s": allowed_s,
    }
    answers = agents.ask(dict.fromkeys(kernels, work), answer_within(allowed_s))
    agents.ask({node: {"op": "close"} for node in kernels}, stage.deadline(experiment.timeout_s))
    row = Row(shape.name, memory.value, placement)
    # On bare memory a store may be timed as over while it still waits in its processor's store buffer: there, times of
    # one processor say nothing about another's. A coherent page is taken from its writer by way of the kernel.
    clocks = [0 if settings.clocks_agree else kernels.index(node) for node in nodes]
    if memory is not Memory.COHERENT:
        clocks = list(range(len(nodes)))
    histories = histories_by_program(placement, answers)
    row.judge(shape, instances_of(shape, workload["slots"], histories, clocks), nodes)
    row.messages = sum(sum(answer["messages"].values()) for answer in answers.values())
    row.duration_s = max(answer["duration_s"] for answer in answers.values())
    return row


def workload_of(shape: Shape, memory: Memory, iterations: int, seed: int) -> dict[str, Any]:
    """In the words of the agent's `run` command: `iterations` instances, on bare memory more."""
    shape = shape.fenced() if memory is Memory.FENCED else shape
    return {
        "kind": "litmus",
        "programs": [[_step(step, shape.variables) for step in program] for program in shape.programs],
        "variables": len(shape.variables),
        "rounds": -(-iterations // SLOTS),
        "slots": SLOTS * memory.share,
        "same_page": shape.same_page,
        "seed": seed,
    }


def litmus_of(shape: Shape, memory: Memory) -> Workload:
    """The shape as the guests will know it."""
    return Workload.parse(workload_of(shape, memory, 1, 0))


def _step(step: Step, variables: list[str]) -> list[str | int]:
    if step.kind == "fence":
        return ["fence"]
    place = variables.index(step.variable)
    return ["load", place] if step.kind == "load" else ["store", place, step.value]
