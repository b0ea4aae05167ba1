"""A run on one kernel, as the agent sees it: it goes on inside `Daemon.serve`, until it stops the daemon."""

from typing import Any

from guest.daemon.daemon import Daemon
from guest.protocol.messages import Message, MessageName
from guest.runs.applications import ENDED_EARLY, RunFailed
from guest.runs.barrier import Barrier
from guest.runs.timeline import Timeline


class Running:
    """What all kinds of runs have in common: an end in time, the other kernels' words, and failures. Derive from it."""

    what = "the run"
    """In errors."""

    def __init__(self, daemon: Daemon, deadline_ns: int | None) -> None:
        self.failure: RunFailed | None = None
        """Why it did not come to its end."""
        self._daemon = daemon
        self._deadline_ns = deadline_ns
        self._barrier: Barrier
        self._timeline = Timeline()
        self._dead_kernels: list[int] = []
        self._begun_ns = self._ended_ns = 0

    def tick(self, now_ns: int) -> None:
        """Time passes."""
        if self._deadline_ns is not None and now_ns > self._deadline_ns:
            where = "; ".join([*self._deaths(), self.where()])
            self.fail(RunFailed("deadline", f"{self.what} is not over in time: {where}"))

    def abort(self) -> None:
        """End the run now, here and on the other kernels."""
        self.fail(RunFailed("aborted", f"{self.what} was ended by command: {self.where()}"))

    def close(self) -> None:
        """End every process of this run, and forget what belonged to it."""
        self._daemon.on_harness = None
        self._daemon.count_parked = int
        self._daemon.watch_others(None)

    def fail(self, failure: RunFailed) -> None:
        """End the run for this reason, here and on the other kernels."""
        if self.failure is None:
            self.failure = self._beside_deaths(failure)
            self._daemon.send_harness(MessageName.CONTROL, ENDED_EARLY)
            self._daemon.stop()

    def _beside_deaths(self, failure: RunFailed) -> RunFailed:
        """What a program complains of once a kernel has died may follow from that: it is no wrong value, then."""
        if not self._dead_kernels or failure.kind not in ("check", "application"):
            return failure
        first, newline, rest = failure.message.partition("\n")
        return RunFailed("application", f"{first} ({', '.join(self._deaths())}){newline}{rest}", failure.hint)

    def _deaths(self) -> list[str]:
        return [f"kernel {kernel} has died" for kernel in self._dead_kernels]

    @property
    def output(self) -> list[str]:
        """What its programs have said so far. Before `close`."""
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        """What came of a run that did not fail, for the agent's answer. Before `close`."""
        raise NotImplementedError

    def where(self) -> str:
        """How far the run is, in words: what a person needs who asks why it does not end."""
        raise NotImplementedError

    def _parked(self) -> int:
        """See `Daemon.count_parked`."""
        raise NotImplementedError

    def _kernel_died(self, kernel: int) -> None:
        """Another kernel died."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Whoever is at the barrier may have been the last."""
        raise NotImplementedError

    def _listen(self) -> None:
        """From now on the other kernels are heard. Some may have died before."""
        self._daemon.on_harness = self._hear
        self._daemon.count_parked = self._parked
        self._daemon.watch_others(self._kernel_died)
        for kernel in self._daemon.dead:
            self._kernel_died(kernel)
        self._daemon.deliver_kept()

    def _announce(self) -> None:
        """All that is to arrive here is at the barrier."""
        self._timeline.announced(self._barrier.number)
        self._daemon.send_harness(MessageName.BARRIER, self._barrier.number, self._barrier.gone_here)

    def _hear(self, sender: int, message: Message) -> None:
        if message.name == MessageName.BARRIER:
            self._timeline.heard(sender, message.request)
            self._barrier.announce(sender, message.request, message.copyset)
            self._go_on()
        elif message.request == ENDED_EARLY and self.failure is None:
            self.failure = RunFailed("peer", f"kernel {sender} ended the run early; {self.where()}", "see what it says")
            self._daemon.stop()
