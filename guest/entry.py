"""What the memory of a process keeps of each of its threads: whether it has ended, and its result."""

import pickle
from contextlib import suppress
from functools import partial
from typing import Any

from guest.errors import ThreadError
from guest.memory.region import BASE
from guest.memory.reserved import ENTRY_BYTES
from guest.state import packed
from guest.synchronization import WORD_BYTES, Event, WaitBroken, here

RESULT_BYTES = ENTRY_BYTES - 4 * WORD_BYTES
"""What the pickled result of a thread may be, in bytes."""
_dumps = partial(pickle.dumps, protocol=pickle.HIGHEST_PROTOCOL)


class Entry:
    """What the memory keeps of a thread: a word that becomes 1 at its end, the length of its result, the result."""

    def __init__(self, memory: memoryview, offset: int) -> None:
        self.address = BASE + offset
        self._words = memory[offset : offset + 4 * WORD_BYTES].cast("Q")
        self._room = memory[offset + 4 * WORD_BYTES : offset + ENTRY_BYTES]

    def ended(self) -> bool:
        """Whether it says that the thread has ended; an entry that is lost says nothing."""
        try:
            return Event(self.address).is_set()
        except WaitBroken:
            return False

    def result(self) -> Any:
        """Raises WaitBroken if it was lost since."""
        data = bytes(self._room[: self._words[1]])
        here().load(self.address)
        return pickle.loads(data)

    def end(self, result: Any) -> bytes:
        """The thread has ended: what it stored before can be seen by those who see this. Returns the
        result, pickled."""
        data = packed(_dumps, result, "result")
        if len(data) > RESULT_BYTES:
            raise ThreadError(
                f"a result of {len(data)} bytes, pickled; {RESULT_BYTES} are the most",
                "put it into an array of the process, and return that",
            )
        self._words[1] = len(data)
        self._room[: len(data)] = data
        with suppress(WaitBroken):  # who joins it hears of it by its kernel
            Event(self.address).set()
        return data
