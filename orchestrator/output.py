"""Writing where somebody may have stopped reading: `… | head` must neither end a run nor change its exit code."""

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from images.errors import HostError

if TYPE_CHECKING:  # rich costs 30 ms
    from rich.console import Console

_written = False
_left = False


def begin() -> None:
    """Nothing is written yet. Standard streams that were closed before (`2>&-`) become ones that nobody reads.

    What they cannot show (a µ in a locale without it) becomes a question mark, a file's name stays as it is: no run
    fails because of how it is told.
    """
    global _written, _left
    _written = _left = False
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - a standard stream
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "replace")


def put(text: str) -> None:
    """Write to standard output. Whoever left wanted no more. Raises HostError when there is no room for it."""
    global _written, _left
    _written = True
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _left = True
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise HostError(f"standard output cannot be written: {error.strerror}", "make room where it goes") from None
        raise


def reader_left() -> bool:
    """Whether nobody reads standard output any more: what makes it without an end may stop."""
    return _left


def anything_put() -> bool:
    """Whether standard output has something already: it is to hold one JSON document, not two."""
    return _written


def typed(text: str) -> str:
    """With commands as this user types them: `./tb up` where that is the way he came."""
    command = os.environ.get("TESTBED_COMMAND")
    return text.replace("`testbed ", f"`{command} ") if command else text


def printable(text: str) -> str:
    """Without characters that a terminal would obey: text of a file or a guest must not paint, move or ring."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def sheet(file: TextIO, width: int, *, color: bool = False) -> "Console":
    """What a table is printed on: `width` characters wide, also for TERM=dumb, which rich takes for 80 if it may."""
    from rich.console import Console

    return Console(file=file, force_terminal=color, width=width, height=1, highlight=False)


def tell(text: str) -> None:
    """Write to standard error; what cannot be told is not worth ending anything for."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """From now on all of it is dropped, what the interpreter flushes at its end too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns in line, numbers to the right."""
    texts = [["" if value is None else printable(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    numeric = [any(isinstance(row[column], int | float) for row in rows) for column in range(len(names))]
    lines = []
    for line in [names, *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)
