"""SIGINT, SIGTERM and SIGHUP: they end what is going on, but never the tidying up after it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from orchestrator.errors import Stopped
from orchestrator.progress import Say

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Meanwhile each of them raises `Stopped` in the main thread, and unwinds the stack."""
    before = {number: signal.signal(number, _raise) for number in _ENDING}
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def signals_leave() -> Iterator[None]:
    """Meanwhile each of them ends the process at once: for when all is tidied up and only the telling is left."""

    def leave(number: int, _frame: FrameType | None) -> None:
        os._exit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDING}
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def signals_wait(say_soon: Say) -> Iterator[None]:
    """Meanwhile the first of them is only remembered, and raised at the end; the second one is obeyed at once.

    `say_soon` is called from within the signal's handler, anywhere in the program: it must take no lock.
    """
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if arrived:
            _raise(number, frame)
        arrived.append(number)
        say_soon("stopping what was started; once more to leave it (`testbed down` then removes it)")

    before = {number: signal.signal(number, remember) for number in _ENDING}
    try:
        yield
    finally:
        _restore(before)
    if arrived:
        _raise(arrived[0], None)


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
