"""A trace as a message-sequence chart for a terminal: time runs down, every kernel has a column.

An arrow is a message that arrives, and ends in the states of the receiver's pages; a letter without an arrow is
something the kernel does of its own accord.
"""

from typing import Any

from orchestrator.checker.move import Move
from orchestrator.checker.saved import Replay
from orchestrator.checker.scenario import Scenario
from orchestrator.checker.system import DEAD
from orchestrator.checker.trace import describe

_COLUMN = 12
_INDENT = 6
"""Room for the numbers of the steps."""


def ladder(replay: Replay) -> str:
    """Draw the whole of a replay, down to the violation. Raises Misfit as `Replay.steps` does."""
    kernels = replay.scenario.kernels
    lines = [" " * _INDENT + "".join(f"{f'kernel {kernel}':^{_COLUMN}}" for kernel in range(kernels)).rstrip()]
    last: Any = None
    for number, (move, world) in enumerate(replay.steps()):
        letters = [kernel.letters for kernel in replay.system.view(world)]
        if move is None:
            lines.append(_row(number, [(_centre(kernel), mark) for kernel, mark in enumerate(letters)], "start"))
        else:
            before = last.locals if last else world.locals
            alive = [kernel for kernel in range(kernels) if before[kernel] != DEAD]
            marks = [(_centre(kernel), "│") for kernel in alive]
            marks += _marks(move, letters[move.kernel])
            lines.append(_row(number, marks, _says(move, replay)))
        last = world
    if last is not None:
        lines += [f"{'':{_INDENT}}still on its way: {text}" for text in _flying(last, replay)]
    return "\n".join([*lines, f"{'':{_INDENT}}{replay.violation or 'no violation'}"])


def _centre(kernel: int) -> int:
    return _INDENT + kernel * _COLUMN + _COLUMN // 2 - 1


def _marks(move: Move, letters: str) -> list[tuple[int, str]]:
    """What overwrites the vertical lines, as (column, text)."""
    receiver = _centre(move.kernel)
    if move.flight is None:
        return [(receiver, letters)]
    sender = _centre(move.flight[0])
    if sender < receiver:
        return [(sender, "├" + "─" * (receiver - sender - 2) + "▶" + letters)]
    tail = receiver + len(letters)
    return [(receiver, letters + "◀" + "─" * (sender - tail - 1) + "┤")]


def _row(number: int, marks: list[tuple[int, str]], says: str) -> str:
    width = max(column for column, _ in marks) + _COLUMN // 2
    cells = [" "] * max(width, *(column + len(text) + 2 for column, text in marks))
    for column, text in marks:
        cells[column : column + len(text)] = text
    return f"{number:4}" + "".join(cells)[4:] + says


def _says(move: Move, replay: Replay) -> str:
    if move.flight is None:
        return f"kernel {move.kernel} {move.says}"
    return _message(move.flight[2], replay)


def _message(parcel: int, replay: Replay) -> str:
    message = replay.parcels.values[parcel].message
    several = isinstance(replay.scenario, Scenario) and replay.scenario.pages > 1
    return describe(message) + (f", page {message.page}" if several else "")


def _flying(world: Any, replay: Replay) -> list[str]:
    return [f"{_message(parcel, replay)}, from {sender} to {to}" for sender, to, parcel in world.net]
