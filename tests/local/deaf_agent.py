"""An agent that reads nothing more of kernel 1 once it has sent it a thread for the second time.

So does one that suspects a kernel of being dead; it hears the rest when kernel 1 is dead.
"""

from guest import agent
from guest.daemon import daemon
from guest.daemon.daemon import Daemon
from guest.link.ring import Receiver
from guest.protocol.messages import Message, MessageName

migrations = 0
DEAF_FROM = 2


class Deaf(Receiver):
    """The ring is as if it were empty."""

    __slots__ = ()

    def pending(self) -> bool:
        return migrations < DEAF_FROM and super().pending()

    def receive(self) -> Message | None:
        return super().receive() if migrations < DEAF_FROM else None


def send(self: Daemon, to: int, message: Message, payload: bytes = b"") -> None:
    global migrations
    real_send(self, to, message, payload)
    migrations += self.kernel == 0 and to == 1 and message.name == MessageName.THREAD_MIGRATE


def hear_last_words(self: Daemon, kernel: int) -> None:
    global migrations
    migrations = 0
    real_hear_last_words(self, kernel)


real_send, real_hear_last_words = Daemon.send, Daemon._hear_last_words
setattr(daemon, "Receiver", Deaf)  # noqa: B010 - it is not exported
setattr(Daemon, "send", send)  # noqa: B010
setattr(Daemon, "_hear_last_words", hear_last_words)  # noqa: B010
if __name__ == "__main__":
    agent.main()
