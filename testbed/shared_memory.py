"""A link's memory as an onlooker sees it: read-only, and neither guests nor server notice."""

from __future__ import annotations

import mmap
import os

from testbed import process
from testbed.errors import HostError
from testbed.machine import Testbed
from testbed.spec import SHARED

MEMFD = "/memfd:ivshmem"


def watch(testbed: Testbed, link: str) -> mmap.mmap:
    """A mapping of the memory of an ivshmem link that nothing can be written to.

    The server's own descriptor is opened once more (man 5 proc, /proc/PID/fd), so that no peer joins. Raises HostError
    when the server has ended, KeyError when there is no such link.
    """
    assert testbed.spec.link(link).kind in SHARED
    server = testbed.record.servers.get(link)
    held = server.open() if server else None
    if server is None or held is None:
        raise HostError(
            f"link {link}: its server has ended", f"`testbed down {testbed.name}` removes what is left of the testbed"
        )
    try:
        folder = process.PROC / str(server.pid) / "fd"
        for entry in folder.iterdir():
            if str(entry.readlink()).startswith(MEMFD):
                descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
                finally:
                    os.close(descriptor)
    except OSError as error:
        raise HostError(f"link {link}: its memory cannot be looked at: {error}") from error
    finally:
        os.close(held)
    raise HostError(f"link {link}: its server has no memory")
