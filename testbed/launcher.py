"""A process for libvirt: it starts the machines of one testbed and ends.

    python -m testbed.launcher RUN_DIRECTORY DRIVER [ARCH:ACCELERATOR ...]

The embedded driver serves one folder in the life of a process; a command that starts one testbed after the other needs
a process for each. Afterwards nobody needs libvirt any more: machines run by themselves, and are ended by signal.

The words at the end are what will be asked for: libvirt learns first what those QEMUs can do, which can take seconds.

Standard input: a JSON line for each machine to start (the fields of `Order`) or to save (those of `Save`); its end is
the end of the launcher.
Standard output: a line without a name once libvirt is ready, which answers with the security models that would
confine a machine; then a line for each, in any order, with the `name` and
either `answer` (of a start, what QEMU's monitor
says about the forwarded port), or `error` and `command_line`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from testbed.driver import Connection, command_line, emulator
from testbed.errors import Failure, GuestError, HostError, of_host
from testbed.process import python
from testbed.spec import Accelerator, Driver

_READY = ""
"""In the place of a machine's name: libvirt has learnt what the QEMUs can do, which takes seconds the first time."""
PARALLEL_STARTS_MAX = 16
"""Machines at a time: more of them would only slow one another down."""


@dataclass(frozen=True)
class Order:
    """A machine to start. `domain` is its name in `xml`. With `state` it goes on from that, fed to `incoming`."""

    name: str
    domain: str
    xml: str
    state: str = ""
    incoming: str = ""


@dataclass(frozen=True)
class Save:
    """A machine whose state is to be appended to the file `draft`, by way of the socket `outgoing`."""

    name: str
    domain: str
    draft: str
    outgoing: str


class Launcher:
    """The launcher of a testbed, as seen by the command that starts it. Methods may be called by many threads."""

    def __init__(self, driver: Driver, directory: Path, kinds: Iterable[tuple[str, Accelerator]]) -> None:
        self._ready: Future[str] = Future()
        self._answers: dict[str, Future[str]] = {_READY: self._ready}
        self._lock = threading.Lock()
        self._end: Failure | None = None
        # In a session of its own: Ctrl-C must not hit libvirt halfway through a start.
        self._process = subprocess.Popen(
            [python(), "-m", "testbed.launcher", f"{directory}/", driver, *(f"{arch}:{kind}" for arch, kind in kinds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="launcher", daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> tuple[str, ...]:
        """Until libvirt knows what the QEMUs can do; returns the security models that would confine a machine.

        Raises HostError when it cannot be used.
        """
        return tuple(self._ready.result().split())

    def start(self, order: Order) -> str:
        """Starts a machine; returns what its monitor says about its user-mode network.

        Raises GuestError when QEMU refuses it, HostError when libvirt cannot be used.
        """
        return self._ask(order)

    def save(self, order: Save) -> None:
        """Saves a machine, which is paused afterwards. Raises GuestError or HostError."""
        self._ask(order)

    def _ask(self, order: Order | Save) -> str:
        answer: Future[str] = Future()
        assert self._process.stdin is not None
        with self._lock:
            if self._end is not None:
                raise self._end
            self._answers[order.name] = answer
            # When it has ended just now, the reader sees that too and knows why.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(asdict(order)) + "\n")
                self._process.stdin.flush()
        return answer.result()

    def _read(self) -> None:
        end = self._take_answers()
        with self._lock:
            self._end = end
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(end)

    def _take_answers(self) -> Failure:
        """Returns when there will be no more, and why."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for line in self._process.stdout:
            try:
                answer = json.loads(line)
                if answer["name"] is None:
                    return HostError(answer["error"], answer["hint"])
                future = self._answers[answer["name"]]
                if "error" in answer:
                    future.set_exception(_refused(answer))
                else:
                    future.set_result(answer["answer"])
            except (ValueError, KeyError, TypeError):
                return HostError(f"libvirt's process said what is no answer: {line.strip()[:200]}")
        said = self._process.stderr.read().strip()
        return HostError(f"libvirt's process ended ({self._process.wait()}): {said[-2000:] or 'silently'}")

    def close(self) -> None:
        """Ends it, also in the middle of a start; machines that run go on."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not written yet has nobody to read it
                    pipe.close()


def _refused(answer: dict[str, Any]) -> GuestError:
    how = answer["command_line"]
    shown = f"\n  QEMU was: {how}" if how else ""
    return GuestError(
        f"{answer['error']}{shown}",
        "QEMU's own words stand above: does this QEMU know the machine and devices of its command line?"
        if how
        else "libvirt did not come as far as starting QEMU",
    )


def _carry_out(connection: Connection, order: Order | Save) -> dict[str, object]:
    answer: dict[str, object] = {"name": order.name}
    try:
        if isinstance(order, Save):
            connection.save(order.domain, Path(order.draft), Path(order.outgoing))
            return answer | {"answer": ""}
        state = (Path(order.state), Path(order.incoming)) if order.state else (None, None)
        return answer | {"answer": connection.start(order.xml, *state)}
    except HostError as error:
        return answer | {"error": error.message, "command_line": command_line(connection.log(order.domain))}


def main() -> int:
    """Returns the exit code."""
    directory, driver = Path(sys.argv[1]), Driver(sys.argv[2])
    lock = threading.Lock()

    def say(answer: dict[str, object]) -> None:
        with lock:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    try:
        connection = Connection(driver, directory)
        for arch, _, accelerator in (word.partition(":") for word in sys.argv[3:]):
            connection.prepare(emulator(arch), arch, Accelerator(accelerator))
        say({"name": _READY, "answer": " ".join(connection.confining_models())})
    except (HostError, OSError) as error:
        failure = error if isinstance(error, HostError) else of_host(error) or HostError(str(error))
        say({"name": None, "error": failure.message, "hint": failure.hint})
        return failure.exit_code
    with ThreadPoolExecutor(PARALLEL_STARTS_MAX) as pool:
        for line in sys.stdin:
            fields = json.loads(line)
            order = Order(**fields) if "xml" in fields else Save(**fields)
            pool.submit(_carry_out, connection, order).add_done_callback(lambda done: say(done.result()))
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
