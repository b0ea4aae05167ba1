"""Machines that are up for a program of somebody's: commands and files on each, and experiments on all together.

This is what the fixture `testbed` of `orchestrator.pytest_plugin` gives; any other program may use it, too:

    with live(Path("configs/quickstart.yaml")) as testbed:
        print(testbed["arm"].run("uname", "-m").stdout)
"""

import os
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from images.errors import Failure
from orchestrator.errors import InputError, RunEnded, Stopped
from orchestrator.experiments.experiment import Accelerator, Testbed
from orchestrator.experiments.plan import load
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory, read_summary
from orchestrator.run_command import Options, carry_out, check_runnable
from orchestrator.signals import signals_wait
from orchestrator.stages.machines import bring_up, name_for
from orchestrator.stages.programs import Programs
from orchestrator.stages.vm import AttachedStage
from testbed import Condition, Deadline, list_all
from testbed import Testbed as RunningTestbed
from testbed.console import Console
from testbed.machine import Node
from testbed.teardown import down

if TYPE_CHECKING:
    from testbed.shell import Shell

PREFIX = "pytest-"
"""Begins the names of these testbeds, with the process's id at their end."""
COMMAND_S = 60.0
"""How long a command may take with hardware acceleration; emulated guests get ten times as long."""


class CommandFailed(Failure):
    """A command on a guest ended with another exit code than 0."""


@dataclass(frozen=True)
class Completed:
    """How a command ended, and what it wrote."""

    exit_code: int
    """-1 when a signal ended it."""
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Ran:
    """An experiment that was run."""

    summary: dict[str, Any]
    """run.json, as docs/results.md has it."""
    directory: Path

    @property
    def passed(self) -> bool:
        return bool(self.summary["outcome"] == "passed")

    @property
    def points(self) -> list[dict[str, Any]]:
        """Those of run.json."""
        points: list[dict[str, Any]] = self.summary["points"]
        return points


class Guest:
    """One machine that is up."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._shell: Shell | None = None

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def arch(self) -> str:
        """As in `uname -m`."""
        return self._node.arch

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`."""
        return self._node.accelerator.value

    @property
    def console(self) -> str:
        """What it has said on its serial console so far."""
        return self._node.console.read_text(errors="replace")

    def run(self, *words: str, input: bytes = b"", timeout_s: float = COMMAND_S, check: bool = True) -> Completed:  # noqa: A002
        """Run a command as root; each word reaches it as it is.

        `timeout_s` is the time that it may take with hardware acceleration, ten times as much when emulated. Raises
        CommandFailed unless its exit code is 0 (or `check` is false), GuestError when it is not over in time, or the
        guest is gone.
        """
        done = self._connected().run(list(words), input, self._deadline(timeout_s))
        completed = Completed(
            done.exit_code, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check and completed.exit_code:
            said = "".join(f"\n    {line}" for line in (completed.stdout + completed.stderr).splitlines()[-20:])
            raise CommandFailed(
                f"node {self.name}: `{shlex.join(words)}` ended with exit code {completed.exit_code}{said}"
            )
        return completed

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        """Write a file on the guest: `content` itself, or that of a file of the host."""
        data = content.read_bytes() if isinstance(content, Path) else content
        self._connected().put(data, path, mode, self._deadline(COMMAND_S))

    def get(self, path: str) -> bytes:
        """Read a file of the guest. Raises GuestError when there is none."""
        return self._connected().get(path, self._deadline(COMMAND_S))

    def ssh_command(self, line: str = "") -> list[str]:
        """The words of the real ssh into it, for programs that want it; its shell runs `line`."""
        return self._node.ssh_command(line)

    def last_words(self, lines: int = 20) -> str:
        """The end of its console."""
        console = Console(self._node.console)
        console.update()
        return "\n".join(console.tail()[-lines:])

    def close(self) -> None:
        """End the connection to it; the next command makes another one."""
        if self._shell is not None:
            self._shell.close()
        self._shell = None

    def _connected(self) -> "Shell":
        if self._shell is None or not self._shell.connected:
            self.close()
            self._shell = self._node.shell(self._deadline(COMMAND_S))
        return self._shell

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline.scaled(seconds, self.accelerator)


class LiveTestbed:
    """Machines that are up, by name: `testbed["arm"]`. As a context manager they are taken down at the end."""

    __test__ = False  # not a test, whatever its name ends with

    def __init__(self, file: Path, shape: Testbed, running: RunningTestbed, results: Path) -> None:
        self.file = file
        self.results = results
        """Where experiments leave their runs."""
        self._shape = shape
        self._running = running
        self.nodes = {name: Guest(node) for name, node in running.nodes.items()}

    @property
    def name(self) -> str:
        """What `testbed ps` calls it."""
        return self._running.name

    @property
    def ssh_config(self) -> Path:
        """A file for `ssh -F`; nodes are called NODE.TESTBED in it."""
        return self._running.ssh_config

    def __getitem__(self, node: str) -> Guest:
        try:
            return self.nodes[node]
        except KeyError:
            raise InputError(f"found '{node}', expected one of {', '.join(self.nodes)}") from None

    def __iter__(self) -> Iterator[Guest]:
        return iter(self.nodes.values())

    def run_experiment(self, *overrides: str, file: Path | None = None, check: bool = True) -> Ran:
        """Start the coherent memory, run the points of an experiment file on it, and check every value.

        The file is that of the testbed, or another one for the same machines; `overrides` are as for `--set`. Each run
        begins with clean coherent memory. Guests that die are not replaced. Raises InputError, and unless `check` is
        false RunEnded when it did not pass.
        """
        plan = load(file or self.file, [*overrides, "retries=0"])
        check_runnable(plan)
        if [shape for shape, _ in plan.testbeds] != [self._shape]:
            raise InputError(
                f"{plan.path}: found other machines than those that are up, expected those of {self.file}",
                "a matrix that varies `testbed` needs `testbed run`",
            )
        programs = Programs(plan, "vm")
        directory = RunDirectory.create(self.results, plan.name)
        with Progress(quiet=True) as progress:
            stage_for = partial(AttachedStage, self._running, directory=directory, progress=progress)
            options = Options(quiet=True, table=False, stage_for=stage_for)
            try:
                carry_out(plan, "vm", programs, directory, options)
            except RunEnded:
                if check:
                    raise
            except Stopped:
                raise KeyboardInterrupt from None
        return Ran(read_summary(directory.path), directory.path)

    def last_words(self) -> list[tuple[str, str]]:
        """A heading and the end of its console for each node."""
        return [(f"console of {guest.name} (its end)", guest.last_words()) for guest in self]

    def down(self) -> None:
        """Stop and remove all of it. A signal that arrives meanwhile waits."""
        with _signals_wait():
            for guest in self:
                guest.close()
            self._running.down()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def live(file: Path, accelerator: str | None = None, results: Path = Path("results")) -> LiveTestbed:
    """Bring up the machines of a file, for as long as this process lives.

    Raises FileError for a wrong file, HostError or GuestError when they do not come up; then nothing is left. What a
    process that was killed has left of such machines is removed first.
    """
    shape = load(file).testbeds[0][0]
    for left in list_all():
        if left.name.startswith(PREFIX) and left.condition is Condition.LEFT_OVER:
            down(left.name, _silent)
    name = name_for(f"{PREFIX}{file.stem}", f"-{os.getpid()}")
    wanted = Accelerator(accelerator) if accelerator else None
    running = bring_up(name, shape, wanted, _silent, kept=False)
    return LiveTestbed(file, shape, running, results)


def _silent(_line: str) -> None:
    """A test's output is its own."""


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Whoever is asked to stop while guests are taken down does so afterwards, as by Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():  # no other one is ever interrupted
        yield
        return
    try:
        with signals_wait(_silent):
            yield
    except Stopped:
        raise KeyboardInterrupt from None
