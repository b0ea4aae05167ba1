"""A world for people: what every kernel holds, and what its threads wait for."""

from typing import Any, NamedTuple

from orchestrator.checker.machine import Machine
from orchestrator.checker.step import NONE, POISONED, READABLE, WRITABLE, Local, Thread
from orchestrator.checker.system import DEAD, System, World

_MEMORY = {NONE: "not present", READABLE: "readable", WRITABLE: "writable", POISONED: "lost"}


class PageView(NamedTuple):
    """A page in one kernel."""

    state: str
    """Letter of the protocol's state."""
    memory: str
    latest: bool | None
    """Whether it holds the value stored last; None where nothing is readable."""
    pending: bool
    """Whether the kernel waits for answers about it."""

    def __str__(self) -> str:
        words = [self.state, self.memory]
        if self.latest is not None:
            words.append("latest value" if self.latest else "stale value")
        return ", ".join(words + ["waits for answers"] * self.pending)


class KernelView(NamedTuple):
    """One kernel; dead, it has neither pages nor threads."""

    pages: tuple[PageView, ...] = ()
    threads: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        """The states of all its pages, as in `SI`; `x` of a dead one."""
        return "".join(page.state for page in self.pages) or "x"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        pages = [page._asdict() for page in self.pages]
        return {"alive": bool(self.pages), "pages": pages, "threads": list(self.threads)}

    def __str__(self) -> str:
        pages = (f"page {number}: {page}" for number, page in enumerate(self.pages))
        return "; ".join([*pages, *(f"thread {thread}" for thread in self.threads)]) or "dead"


def view(system: System, world: World) -> list[KernelView]:
    """All kernels, in order."""
    machines = zip(system.machines, world.locals, strict=True)
    return [KernelView() if local == DEAD else _kernel(machine, local) for machine, local in machines]


def _kernel(machine: Machine, number: int) -> KernelView:
    local: Local = machine.locals.values[number]
    engine = machine.engine.thaw(local.engine)
    pages = []
    for page, frame in enumerate(local.memory):
        latest = frame.fresh if frame.access in (READABLE, WRITABLE) else None
        pages.append(PageView(engine.state(page).name, _MEMORY[frame.access], latest, engine.pending(page)))
    return KernelView(tuple(pages), tuple(map(_thread, local.threads)))


def _thread(thread: Thread) -> str:
    if thread.page >= 0:
        doing = "waits" if thread.asleep else "was woken"
        return f"{doing} to {'write' if thread.write else 'read'} page {thread.page}"
    return f"may start {thread.remaining} more" if thread.remaining else "is done"
