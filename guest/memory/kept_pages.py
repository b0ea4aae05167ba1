"""Page payloads kept aside while other answers to the same request are awaited.

Their page slots go back to the sender at once; the copies live in buffers that are used again and again, as many as
there were ever fetches in flight at a time.
"""

import ctypes

from guest.link.segment import PAGE_BYTES

_Page = ctypes.c_char * PAGE_BYTES


class KeptPages:
    """At most one payload for each page."""

    __slots__ = ("_free", "_kept")

    def __init__(self) -> None:
        self._kept: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._free: list[ctypes.Array[ctypes.c_char]] = []

    def keep(self, page: int, address: int) -> None:
        """Copy the page at `address`, in place of what was kept for `page` before."""
        buffer = self._kept.get(page)
        if buffer is None:
            buffer = self._kept[page] = self._free.pop() if self._free else _Page()
        ctypes.memmove(buffer, address, PAGE_BYTES)

    def address(self, page: int) -> int:
        """Where the kept payload of `page` lies, until it is forgotten. Raises KeyError when there is none."""
        return ctypes.addressof(self._kept[page])

    def forget(self, page: int) -> None:
        """Drop the payload of `page`, if there is one."""
        buffer = self._kept.pop(page, None)
        if buffer is not None:
            self._free.append(buffer)
