"""An agent that is slow to hear of kernel 0, if it is kernel 2, that the address space is copied.

So what kernel 1 says of a new process comes before the copy by which the process is born here.
"""

import time

from guest import agent
from guest.daemon import daemon
from guest.link.ring import Receiver
from guest.link.segment import Segment
from guest.protocol.address_space import Kind
from guest.protocol.messages import Message, MessageName
from guest.protocol.space import operation_of

SLOWLY_S = 0.3


class Slow(Receiver):
    """The ring of kernel 0 is as if it were empty for a while, where a copy is next."""

    __slots__ = ("_held", "_me", "_since")

    def __init__(self, segment: Segment, sender: int, me: int) -> None:
        super().__init__(segment, sender, me)
        self._me = me
        self._held: Message | None = None
        self._since = 0.0

    def pending(self) -> bool:
        return self._held is not None or super().pending()

    def receive(self) -> Message | None:
        message, self._held = self._held or super().receive(), None
        if message is None or (self.sender, self._me) != (0, 2) or message.name != MessageName.SPACE_OP:
            return message
        if operation_of(message).kind is Kind.COPY:
            self._since = self._since or time.monotonic()
            if time.monotonic() < self._since + SLOWLY_S:
                self._held = message
                return None
        return message


setattr(daemon, "Receiver", Slow)  # noqa: B010 - it is not exported
if __name__ == "__main__":
    agent.main()
