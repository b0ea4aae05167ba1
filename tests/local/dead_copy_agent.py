"""An agent that dies, if it is kernel 0, when two other kernels have said that they have copied the address space.

So it was copied everywhere, and the one that has asked for it is not told.
"""

import os
import signal

from guest import agent
from guest.daemon import daemon
from guest.link.ring import Receiver
from guest.link.segment import Segment
from guest.protocol.messages import Message, MessageName

COPIED = 2
done: list[int] = []


class Dying(Receiver):
    """Looks at what kernel 0 is told."""

    __slots__ = ("_me",)

    def __init__(self, segment: Segment, sender: int, me: int) -> None:
        super().__init__(segment, sender, me)
        self._me = me

    def receive(self) -> Message | None:
        message = super().receive()
        if message is not None and self._me == 0 and message.name == MessageName.SPACE_DONE:
            done.append(self.sender)
            if len(done) == COPIED:
                os.kill(os.getpid(), signal.SIGKILL)
        return message


setattr(daemon, "Receiver", Dying)  # noqa: B010 - it is not exported
if __name__ == "__main__":
    agent.main()
