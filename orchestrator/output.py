"""Writing where somebody may have stopped reading: `… | head` must neither end a run nor change its exit code."""

import errno
import os
import sys
from typing import TextIO

from images.errors import HostError

_written = False


def begin() -> None:
    """Nothing is written yet. Standard streams that were closed before (`2>&-`) become ones that nobody reads."""
    global _written
    _written = False
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - a standard stream


def put(text: str) -> None:
    """Write to standard output. Whoever left wanted no more. Raises HostError when there is no room for it."""
    global _written
    _written = True
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
    except OSError as error:
        _silence(sys.stdout)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise HostError(f"standard output cannot be written: {error.strerror}", "make room where it goes") from None
        raise


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
