"""The two words every error of the project has: what was seen, and a hint what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
"""What a write says when the place is full, over its quota, read-only or broken: of the host, whoever writes."""


class Failure(Exception):
    """An end that the user is told about: `message` says what was seen, where, and what was expected."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class HostError(Failure):
    """The host cannot do it: a package, a permission, space, the accelerator, libvirt."""


def no_room(error: OSError, path: Path | None = None) -> HostError | None:
    """The host's failure that `error` is when something cannot be written for want of room; None for other errors.

    The kernel does not say which file a write(2) was for: `path` does.
    """
    if error.errno not in _NO_ROOM:
        return None
    where = error.filename or path or "a file"
    return HostError(f"{where}: cannot be written: {error.strerror}", "make room there (`df -h`), then start it again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever is written to or below `path`: raises HostError when there is no room for it."""
    try:
        yield
    except OSError as error:
        if failure := no_room(error, path):
            raise failure from error
        raise
