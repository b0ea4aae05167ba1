"""One run of a workload on one kernel: its threads, their steps in common with the other kernels', and the outcome."""

import json
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any

from guest.daemon.daemon import Daemon
from guest.programs import application
from guest.protocol.copies import members
from guest.runs.applications import Application, Applications, RunFailed
from guest.runs.barrier import Barrier
from guest.runs.launcher import Launcher
from guest.runs.offer import Offer
from guest.runs.running import Running
from guest.workloads import Workload

_MISMATCHES_KEPT = 16
_OUTER_BARRIERS = 2
"""One before the first iteration, one after the last; two in each."""


class _Thread(Application):
    """One thread of the workload."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.result: dict[str, Any] | None = None
        self.died = ""
        """How, if it did before it was done."""


class Run(Running):
    """From `start` until `done`; all of it happens inside `Daemon.serve`, which is stopped when the run is over."""

    def __init__(self, daemon: Daemon, launcher: Launcher, workload: Workload, deadline_ns: int | None) -> None:
        super().__init__(daemon, deadline_ns)
        self._threads: Applications[_Thread] = Applications(daemon, launcher, self._heard, self._thread_died)
        self._workload = workload
        self._roles: Sequence[Sequence[str]] = ()

    def start(
        self, fields: dict[str, Any], roles: Sequence[Sequence[str]], offer: Offer, program_fd: int | None = None
    ) -> None:
        """Fork the threads of this kernel. `fields` describe the workload, `roles` the threads of every kernel."""
        daemon = self._daemon
        own = roles[daemon.kernel]
        self._roles = roles
        self._barrier = Barrier(daemon.kernel, daemon.kernels, len(own))
        for number in range(len(own)):
            place = {"workload": fields, "kernel": daemon.kernel, "roles": roles}
            self._threads.launch(_Thread(number), place, offer, program_fd)
        self._listen()

    def close(self) -> None:
        """End every process of this run, and forget what belonged to it."""
        super().close()
        self._threads.close()

    @property
    def output(self) -> list[str]:
        """See `Running.output`."""
        return self._threads.output

    def result(self) -> dict[str, Any]:
        """What came of a run that did not fail, for the agent's answer. Before `close`."""
        mismatches: list[dict[str, int]] = []
        wrong = 0
        for thread in self._threads.all:
            if thread.result is not None:
                wrong += thread.result["wrong"]
                mismatches += thread.result["mismatches"]
        return {
            "verified": wrong == 0,
            "wrong": wrong,
            "mismatches": mismatches[:_MISMATCHES_KEPT],
            "iterations": self._workload.iterations,
            "pages": self._workload.pages,
            "dead_kernels": self._dead_kernels,
            "dead_threads": [{"thread": each.number, "how": each.died} for each in self._threads.all if each.died],
            **self._threads.told(self._timeline, self._begun_ns),
            "figures": self._figures(),
            "duration_s": round((self._ended_ns - self._begun_ns) / 1e9, 6),
        }

    def _figures(self) -> dict[str, int | float]:
        """Of all threads; of several that report one name, the largest."""
        figures: dict[str, int | float] = {}
        for thread in self._threads.all:
            for name, value in (thread.result or {}).get("figures", {}).items():
                figures[name] = max(value, figures.get(name, value))
        return figures

    # -- what happens ------------------------------------------------------------------------------------------------

    def _heard(self, thread: _Thread, kind: bytes, body: bytes) -> None:
        if kind == application.BARRIER:
            self._arrived(thread)
        elif kind == application.FINISHED:
            thread.result = json.loads(body.decode(errors="replace"))  # C may have said it
            self._arrived(thread)
        elif kind == application.FAILED:
            self.fail(failure_of(thread.called, thread, body))

    def _parked(self) -> int:
        return self._barrier.waiting + self._threads.sleeping

    def _thread_died(self, thread: _Thread, how: str) -> None:
        """In the middle of a fault, perhaps. The others go on if their work allows it."""
        if not self._workload.spares_threads:
            what = f"thread {thread.number} ended early: {how}; {self.where()}{thread.said}"
            self.fail(RunFailed("application", what))
            return
        self._threads.let_go(thread)
        if thread.result is None:
            thread.died = how
        if self._barrier.leave(thread.number):
            self._announce()
            self._go_on()

    def _kernel_died(self, kernel: int) -> None:
        self._dead_kernels.append(kernel)
        if not self._workload.spares_threads:
            self.fail(RunFailed("peer", f"kernel {kernel} died; {self.where()}", "see what its node says, if it does"))
            return
        self._barrier.bury(kernel, len(self._roles[kernel]))
        self._go_on()

    def _arrived(self, thread: _Thread) -> None:
        if self._barrier.arrive(thread.number):
            self._announce()
            self._go_on()

    def _go_on(self) -> None:
        barrier = self._barrier
        threads = sum(len(names) for names in self._roles)
        while barrier.open():
            self._ended_ns = monotonic_ns()
            self._begun_ns = self._begun_ns or self._ended_ns
            gone = sum(mask.bit_count() for mask in barrier.gone.values())
            if self._over() or gone == threads:
                self._daemon.stop()
                return
            self._release()
            if barrier.complete():
                self._announce()

    def _over(self) -> bool:
        """Whether this was the last barrier: where threads are spared by its number, as all may be dead here."""
        if self._workload.spares_threads:
            return self._barrier.number == 2 * self._workload.iterations + _OUTER_BARRIERS
        return all(thread.result is not None for thread in self._threads.all)

    def _release(self) -> None:
        """Let the living threads go on, and tell them who has died."""
        gone = [(kernel, thread) for kernel, mask in self._barrier.gone.items() for thread in members(mask)]
        packet = application.RELEASED + (json.dumps(gone).encode() if gone else b"")
        for thread in self._threads.all:
            self._threads.tell(thread, packet)
        self._daemon.woke()

    def where(self) -> str:
        """See `Running.where`."""
        barrier = self._barrier
        parts = [f"barrier {barrier.number} (two an iteration) is not reached by kernels {barrier.missing()}"]
        return "; ".join(parts + self._threads.where())


def failure_of(called: str, each: Application, body: bytes) -> RunFailed:
    """What a FAILED of an application, called so, means for the run."""
    error = json.loads(body)
    lost = error.get("lost_pages", [])  # C does not tell
    kind = "check" if error["kind"] in application.CHECKS and not lost else "application"
    zeros = f"; it had found zeros in place of pages {lost[:8]}, which died with a kernel" if lost else ""
    what = f"{error['kind']}: {error['message']}" if error["message"] else error["kind"]
    return RunFailed(kind, f"{called}: {what}{zeros}{each.said}")
