"""Messages of the protocol of threads (`guest.protocol.threads`): their names, and what their fields say.

Fields: the thread in `page`; of MIGRATE the placeholders in `copyset`; of PLACED the placement in `flags`; of EXIT
whether it was the kernel's last thread in `flags`; of COUNT the round in `request`, threads in `version`, arrivals in
`stamp`; of ROLL the dead in `copyset`, and in `flags` whether that is all, or only that they are known to be dead; of
WATCH in `flags` what is known, nothing in a question.
"""

from guest.protocol.effects import Send
from guest.protocol.messages import Message, MessageName, new_tuple

MIGRATE, PLACED = int(MessageName.THREAD_MIGRATE), int(MessageName.THREAD_PLACED)
EXIT, COUNT, ROLL = int(MessageName.THREAD_EXIT), int(MessageName.THREAD_COUNT), int(MessageName.THREAD_ROLL)
GROUP_EXIT, WATCH = int(MessageName.GROUP_EXIT), int(MessageName.THREAD_WATCH)

LAST = 1
"""`Message.flags` of THREAD_EXIT: no thread is left on the sender. Of THREAD_ROLL: all have been named."""
HEARD = 2
"""`Message.flags` of THREAD_ROLL: the sender has heard of these deaths, and has still to call its roll."""
ANSWER = 1
"""`Message.flags` of THREAD_COUNT: this is what was counted; for readers of traces."""

THREAD_MESSAGES = frozenset((MIGRATE, PLACED, EXIT, COUNT, ROLL, GROUP_EXIT, WATCH))
"""Which messages are of threads."""
THREAD_MESSAGES_WITH_STATE = frozenset((MIGRATE, EXIT, WATCH))
"""Which of them carry bytes in a page slot: a thread's state, or its result, if there is one."""


def send(to: int, name: int, thread: int, flags: int, copyset: int = 0) -> Send:
    """On the way of every migration."""
    return new_tuple(Send, (to, new_tuple(Message, (name, thread, 0, flags, 0, copyset, 0, 0, 0)), False))
