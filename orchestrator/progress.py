"""What a command tells the person in front of it, on standard error: live on a terminal, plain lines elsewhere."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from orchestrator.output import printable, put, tell, typed

if TYPE_CHECKING:  # rich costs 30 ms, which a quiet command need not pay
    from rich.status import Status

Say = Callable[[str], None]

REMINDER_S = 20.0
"""A wait without news is mentioned again after this long: silence looks like a hang."""


class Progress:
    """`say` prints a line; `step` names what is going on until it is over."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._live = not quiet and sys.stderr.isatty()
        self._status: Status | None = None
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._doing = ""
        self._doing_since = self._spoke = time.monotonic()
        self._reminder: threading.Thread | None = None
        self._soon: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._hear: Say | None = None

    def __enter__(self) -> "Progress":
        if not self._quiet:
            self._reminder = threading.Thread(target=self._remind, name="progress", daemon=True)
            self._reminder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._soon.put(None)
        if self._reminder is not None:
            self._reminder.join()
        with self._lock:
            if self._status is not None:
                self._status.stop()

    @contextmanager
    def heard_by(self, hear: Say) -> Iterator[None]:
        """Everything said meanwhile goes to `hear` too, even with --quiet."""
        self._hear = hear
        try:
            yield
        finally:
            self._hear = None

    def say(self, text: str) -> None:
        """One line that stays."""
        with self._lock:
            if self._hear is not None:
                self._hear(text)
            if self._quiet:
                return
            self._spoke = time.monotonic()
            line = f"{self._spoke - self._started:6.1f} s  {printable(typed(text))}"
            if self._status is not None:
                # The terminal breaks long lines: a command that it names can be copied whole.
                self._status.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                tell(line + "\n")

    def put(self, text: str) -> None:
        """Text for standard output: what is live gives way, as its terminal may not be where that goes."""
        with self._lock:
            if self._status is not None:
                self._status.stop()
            put(text)
            if self._status is not None and self._doing:
                self._status.start()

    def say_soon(self, text: str) -> None:
        """`say`, from another thread a moment later: the one for signal handlers, which may interrupt `say` itself."""
        self._soon.put(text)

    def detail(self, text: str) -> None:
        """One line for those who asked with --verbose; the event log has it in any case."""
        if self._verbose:
            self.say(text)
        elif self._hear is not None:
            self._hear(text)

    @contextmanager
    def step(self, doing: str, *, announced: bool = True) -> Iterator[None]:
        """`doing` is shown while it lasts: live on a terminal; elsewhere as a line when it begins, if `announced`."""
        with self._lock:
            outer, self._doing, self._doing_since = self._doing, doing, time.monotonic()
            self._show()
            if announced and not self._live:
                self.say(doing)
        try:
            yield
        finally:
            with self._lock:
                self._doing = outer
                self._show()

    def now(self, doing: str) -> None:
        """What the step is at by now."""
        with self._lock:
            self._doing = doing

    def _show(self) -> None:
        if not self._live:
            return
        if self._status is None:
            from rich.console import Console
            from rich.status import Status

            self._status = Status("", console=Console(stderr=True, highlight=False))
        if self._doing:
            self._status.update(_escaped(self._doing))
            self._status.start()
        else:
            self._status.stop()

    def _remind(self) -> None:
        while True:
            try:
                text = self._soon.get(timeout=1.0)
            except queue.Empty:
                text = ""
            if text is None:
                return
            with self._lock:
                if text:
                    self.say(text)
                elapsed_s = time.monotonic() - self._doing_since
                if self._doing and self._status is not None and elapsed_s > 2:
                    self._status.update(f"{_escaped(self._doing)} ({elapsed_s:.0f} s)")
                elif self._doing and not self._live and time.monotonic() - self._spoke > REMINDER_S:
                    self.say(f"still: {self._doing} ({elapsed_s:.0f} s)")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
