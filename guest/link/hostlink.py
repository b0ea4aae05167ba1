"""A link between processes of one host: a memfd for the memory and an eventfd for each doorbell, all inherited."""

import mmap
import os
from collections.abc import Sequence

from guest.errors import LinkError
from guest.link.segment import address_of


class HostLink:
    """Kernel `kernel`'s end. `doorbells[k]` are the eventfds of kernel k, of which the first is rung.

    The descriptors stay the caller's; `close` unmaps the memory only. Raises LinkError for unusable descriptors.
    """

    def __init__(self, memory_fd: int, doorbells: Sequence[Sequence[int]], kernel: int) -> None:
        if not 0 <= kernel < len(doorbells) or not all(doorbells):
            raise LinkError(
                f"kernel {kernel} in a host link with doorbells {[list(fds) for fds in doorbells]}, "
                "expected one list per kernel with one eventfd at least",
                "the ids of kernels are 0 to their number less one",
            )
        self._bells = [fds[0] for fds in doorbells]
        self._own = self._bells[kernel]
        self.peer = kernel
        self.mappable = memory_fd, 0
        self.doorbell_fds: tuple[int, ...] = (self._own,)
        try:
            self._mapping = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
            for bell in self._bells:
                os.set_blocking(bell, False)
        except (OSError, ValueError) as error:
            raise LinkError(
                f"memory fd {memory_fd} or doorbell fds {self._bells} cannot be used: {error}",
                "they must be inherited: pass them in pass_fds and do not close them",
            ) from error
        self.memory = memoryview(self._mapping)
        self.address = address_of(self.memory)

    def ring(self, peer: int) -> None:
        """Ring kernel `peer`."""
        try:
            os.eventfd_write(self._bells[peer], 1)
        except BlockingIOError:
            pass  # the counter is full: it has been rung

    def drain(self) -> None:
        """Forget that this kernel was rung."""
        try:
            os.eventfd_read(self._own)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the memory back, as far as no view of it is left."""
        self.memory.release()
        try:
            self._mapping.close()
        except BufferError:
            pass  # a view is still held somewhere: the mapping goes with the last one
