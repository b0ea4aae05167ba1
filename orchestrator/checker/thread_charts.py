"""The diagrams of docs/threads.md, drawn from engines at work."""

from orchestrator.checker.thread_rehearsal import ThreadRehearsal
from orchestrator.checker.trace import sequence_chart


def migration() -> str:
    """A thread of home moves to a kernel that has nothing of the process, and a second one follows."""
    kernels = _two_threads(2)
    kernels.migrate(0, 0, to=1)
    kernels.migrate(1, 0, to=1)
    return sequence_chart(2, kernels.log)


def homecoming() -> str:
    """A thread goes round three kernels and comes home."""
    kernels = _two_threads(3)
    kernels.migrate(0, 0, to=1)
    kernels.log.clear()
    kernels.migrate(0, 1, to=2)
    kernels.migrate(0, 2, to=0)
    return sequence_chart(3, kernels.log)


def group_end() -> str:
    """The last thread of a process ends away from home."""
    kernels = _two_threads(2)
    kernels.migrate(0, 0, to=1)
    kernels.exit(1, 0)
    kernels.log.clear()
    kernels.exit(0, 1)
    return sequence_chart(2, kernels.log)


def death() -> str:
    """Of two threads of home one is on kernel 1, which dies, the other on kernel 2."""
    kernels = _two_threads(3)
    kernels.migrate(0, 0, to=1)
    kernels.migrate(1, 0, to=2)
    kernels.log.clear()
    kernels.die(1)
    return sequence_chart(3, kernels.log)


def _two_threads(count: int) -> ThreadRehearsal:
    kernels = ThreadRehearsal(count)
    for thread in range(2):
        kernels.start(thread)
    return kernels
