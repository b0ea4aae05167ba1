"""Several searches at once, each in a process of its own: what it needed of memory is free again when it has ended."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from images.errors import HostError
from orchestrator.checker.search import Report, explore
from orchestrator.checker.systems import AnyScenario


def explore_all(scenarios: Sequence[AnyScenario], *, limit: int, jobs: int) -> Iterator[tuple[int, Report]]:
    """Search all of them, `jobs` at a time, the last one first; yields (index, report) as they end.

    Raises HostError when a search ends without a report. No process outlives the iteration.
    """
    spawn = get_context("spawn")  # a fork would copy the threads' locks
    waiting = list(enumerate(scenarios))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, scenario = waiting.pop()
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=_search, args=(scenario, limit, theirs), daemon=True)
                with _interrupts_blocked():
                    process.start()
                theirs.close()
                running[ours] = index, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                index, process = running[ready]
                report = _receive(ready, process, scenarios[index])
                del running[ready]
                yield index, report
    finally:
        for ours, (_, process) in running.items():
            process.kill()
            process.join()
            ours.close()


def _search(scenario: AnyScenario, limit: int, reports: Connection) -> None:
    reports.send(explore(scenario, limit=limit))


def _receive(reports: Connection, process: SpawnProcess, scenario: AnyScenario) -> Report:
    try:
        report: Report = reports.recv()
    except EOFError:
        process.join()
        raise HostError(
            f"{scenario}: the search ended with code {process.exitcode} and no report",
            "-9: the memory did not suffice, see --limit and --jobs; 1: its traceback is above",
        ) from None
    process.join()
    reports.close()
    return report


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started meanwhile never sees Ctrl-C, which a terminal sends to all: ending it is its parent's part."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
