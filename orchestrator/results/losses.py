"""What a point lost on its way: kernels and threads that died, and pages whose only valid copy died with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from images.errors import Failure
from orchestrator.words import counted
from testbed.errors import GuestError

_PAGES_SHOWN = 8


@dataclass(frozen=True)
class DeadThread:
    """A thread of the workload that ended before it was done."""

    node: str
    thread: int
    how: str
    """In words: `killed by SIGKILL`."""
    process: int = 0
    """Of the workload `process`: the forked process that it belonged to, or 0."""


@dataclass(frozen=True)
class Losses:
    """All that is missing from a point; what is left has been run to the end, and checked."""

    kernels: dict[str, str] = field(default_factory=dict)
    """Nodes whose kernel died or was declared dead, and why, as far as is known."""
    threads: tuple[DeadThread, ...] = ()
    """Of nodes that live."""
    pages: tuple[int, ...] = ()
    """Pages that somebody asked for, and that no living kernel has."""

    def __bool__(self) -> bool:
        return bool(self.kernels or self.threads or self.pages)

    def __str__(self) -> str:
        return "\n".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        for node, why in self.kernels.items():
            yield f"node {node} is gone: {why}"
        for each in self.threads:
            of = f" of process {each.process}" if each.process else ""
            yield f"node {each.node}: thread {each.thread}{of} ended before it was done: {each.how}"
        if self.pages:
            shown = ", ".join(map(str, self.pages[:_PAGES_SHOWN])) + (", …" if len(self.pages) > _PAGES_SHOWN else "")
            yield f"{counted(len(self.pages), 'page')} lost, their only valid copy died: {shown}"


def told(losses: Mapping[str, Any]) -> str:
    """Those of a point in run.json, in sentences."""
    threads = tuple(DeadThread(**each) for each in losses["threads"])
    return str(Losses(losses["kernels"], threads, tuple(losses["pages"])))


def losses_of(
    kernels: Sequence[str], answers: Mapping[str, Mapping[str, Any]], failures: Mapping[str, Failure]
) -> Losses:
    """From the answers of the nodes that came to the end, and the `failures` of those that did not."""
    dead = sorted({kernel for answer in answers.values() for kernel in answer["dead_kernels"]})
    threads: dict[object, DeadThread] = {}
    for node, answer in answers.items():
        for each in answer["dead_threads"]:
            # Threads of a process are lost to all nodes that had them once; others are of their node alone.
            place = each.get("process", node)
            threads.setdefault(
                (place, each["thread"]), DeadThread(node, each["thread"], each["how"], each.get("process", 0))
            )
    unheard = {kernels[kernel]: "the others have not heard of it any more" for kernel in dead}
    return Losses(
        kernels=unheard | {node: failure.message for node, failure in failures.items()},
        threads=tuple(threads.values()),
        pages=tuple(sorted({page for answer in answers.values() for page in answer["lost_pages"]})),
    )


def as_failure(losses: Losses) -> GuestError:
    """The end of a run of which a point has losses."""
    return GuestError(
        f"not all of it came to the end\n{losses}",
        "the others went on without them, and their values were checked",
    )
