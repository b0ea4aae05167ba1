"""Processes that programs have started and left behind, in sessions of their own perhaps: they end with the run.

Who calls `adopt` becomes the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER), so
that none is lost sight of.
"""

import os
import signal
from collections.abc import Collection
from ctypes import CDLL
from pathlib import Path

MARK = "TESTBED_AGENT"
"""Variable by which whoever started the agent knows its descendants if it is killed: it goes along to all of them."""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt() -> None:
    """Be the parent of strays from now on."""
    CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_strays(spared: Collection[int]) -> None:
    """End all children of this process but these, and what they leave behind; returns when they are gone."""
    while strays := [pid for pid in _children() if pid not in spared]:
        for pid in strays:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children() -> list[int]:
    """Of this process, which has one thread."""
    me = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{me}/task/{me}/children").read_text().split()]
