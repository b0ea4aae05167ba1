"""What can go wrong with machines: the host's part comes from `images.errors`, the guests' part is here."""

import errno
from pathlib import Path

from images.errors import Failure, HostError, no_room

__all__ = ["Failure", "GuestError", "HostError", "NoTestbed", "of_host"]

_NO_WAY = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What is said of a path that this user cannot use: a folder of somebody else, or what is no folder."""
_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE})


class GuestError(Failure):
    """A guest did not come up, died, or did not answer. The message holds its last console lines."""


class NoTestbed(Failure):
    """There is no testbed of that name: not any more, perhaps."""


def of_host(error: OSError, path: Path | None = None) -> HostError | None:
    """The host's failure that `error` is: no room, no permission, too many open files; None for one of anything else.

    `path` is what was written, where the kernel does not say it.
    """
    if failure := no_room(error, path):
        return failure
    where, what = error.filename or path, error.strerror
    if error.errno in _NO_WAY and where:
        return HostError(
            f"{where}: cannot be used: {what}",
            "whose is it? HOME, or XDG_STATE_HOME and XDG_CACHE_HOME, say where testbed's folders are",
        )
    if error.errno in _NO_MORE:
        return HostError(f"{where or 'a file'}: cannot be opened: {what}", "allow more of them: `ulimit -n 1024`")
    if error.errno == errno.ENOENT and where is None and not _here():
        return HostError("the folder that this was started in is gone", "`cd` to one that is there")
    return None


def _here() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True
