"""`run --pause-on-failure`: everything stays as it was at the failure until the person in front of it has seen it."""

import select
import sys
import time

from orchestrator.errors import Stopped
from orchestrator.progress import Progress
from orchestrator.stages.stage import Stage

LOOK_S = 0.5
"""Between two looks whether the testbed is still there: another command may have taken it down."""


def no_pause(_stage: Stage, _what: str) -> None:
    """The failure takes its course at once."""


class Pause:
    """Called with what failed; returns when somebody has looked. Agents stay connected, and the guests run on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, stage: Stage, what: str) -> None:
        """Returns at Enter or a signal, or when the testbed was taken down; at once when no machine is up."""
        ways = stage.ways_in()
        if not ways:
            return
        at_terminal = sys.stdin is not None and sys.stdin.isatty()
        progress = self._progress
        until = "Enter" if at_terminal else "SIGINT, or until the testbed is taken down"
        try:
            progress.say(f"paused at a failure: {what.splitlines()[0]}")
            for way in ways:
                progress.say(f"  {way}")
            with progress.step(f"paused until {until}"):
                while stage.ways_in() and not _told_to_go_on(at_terminal):
                    pass
        except Stopped as stopped:
            progress.say(f"{stopped}: the run goes on to its end")


def _told_to_go_on(at_terminal: bool) -> bool:
    """Whether Enter was typed within the time of a look."""
    if not at_terminal:
        time.sleep(LOOK_S)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], LOOK_S)
    if ready:
        sys.stdin.readline()
    return bool(ready)
