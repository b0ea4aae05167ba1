"""What has become of a thread, for those who ask once a kernel has died.

As long as no kernel has, the end of a thread is a word of the coherent memory, and who waits for it sleeps until it is
woken (`guest.protocol.futex`). A thread that died with its kernel never gets there, and nobody is woken any more. But
the kernel where it began has the thread or its placeholder for as long as it lives, and loses it by the roll if it is
lost:

    THREAD_WATCH   anybody → where it began    what has become of this thread?
    THREAD_WATCH   where it began → asker      (ALIVE) it lives, and you will hear of its end; (GONE) it is no more

Whether a thread that is no more has ended or was lost, its word tells. When the kernel where it began dies, nobody
else can say what has become of it.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Self

from guest.protocol.thread_effects import Fate, Life, ThreadEffect
from guest.protocol.thread_messages import WATCH, send


class Watch:
    """One kernel's side: what it was asked, and what it has asked."""

    def __init__(self, kernel: int) -> None:
        self._kernel = kernel
        self._askers: dict[int, int] = {}
        """By thread that began here and lives, a mask of the kernels that will hear of its end."""
        self._asked: dict[int, tuple[int, bool]] = {}
        """By thread, where it began, and whether that has said that the thread lives."""

    def ask(self, thread: int, began: int) -> list[ThreadEffect]:
        """Somebody here wants to know, and it began on that kernel, which is another one, and not dead."""
        if thread in self._asked:
            return [Fate(thread, Life.ALIVE)] if self._asked[thread][1] else []
        self._asked[thread] = began, False
        return [send(began, WATCH, thread, 0)]

    def tell(self, asker: int, thread: int, lives: bool) -> ThreadEffect:
        """The kernel, which may be this one, asks after a thread that began here."""
        if lives:
            self._askers[thread] = self._askers.get(thread, 0) | 1 << asker
        return self._says(asker, thread, Life.ALIVE if lives else Life.GONE)

    def told(self, thread: int, life: Life) -> list[ThreadEffect]:
        """The kernel where it began says so."""
        if thread not in self._asked:
            return []
        began, _ = self._asked.pop(thread)
        if life is Life.ALIVE:
            self._asked[thread] = began, True
        return [Fate(thread, life)]

    def gone(self, thread: int, living: Iterable[int]) -> list[ThreadEffect]:
        """A thread that may have begun here is no more."""
        askers = self._askers.pop(thread, 0)
        return [self._says(each, thread, Life.GONE) for each in (self._kernel, *living) if askers >> each & 1]

    def peer_down(self, kernel: int) -> list[ThreadEffect]:
        """The kernel died."""
        unknown = [thread for thread, (began, _) in self._asked.items() if began == kernel]
        for thread in unknown:
            del self._asked[thread]
        return [Fate(thread, Life.UNKNOWN) for thread in unknown]

    def clear(self) -> None:
        """The group has ended."""
        self._askers, self._asked = {}, {}

    def _says(self, asker: int, thread: int, life: Life) -> ThreadEffect:
        return Fate(thread, life) if asker == self._kernel else send(asker, WATCH, thread, life)

    def freeze(self) -> Hashable:
        """The whole state as a value."""
        return tuple(sorted(self._askers.items())), tuple(sorted(self._asked.items()))

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave."""
        askers, asked = frozen
        self._askers, self._asked = dict(askers), dict(asked)
        return self
