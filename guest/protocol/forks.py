"""The protocol of forks: one kernel's side of a process that begins as a copy of another one.

    PROCESS_FORK     forker → destination   start a process with a copy of mine; its first thread's state comes along
    (a COPY of the address space, which the destination asks for: see `guest.protocol.space`)
    PROCESS_FORKED   destination → forker   there it is, by this number; or why not

Whoever carries out the copy knows of the new process, and that the kernel that has asked for it, the destination, is
its home; so nothing is left to be done when the forker dies meanwhile. When the destination dies, the forker is told.

Fields: of PROCESS_FORK the forking process in `page`; of PROCESS_FORKED the new one in `page`, the refusal in `flags`.

Pure, like the engine of threads.
"""

from collections.abc import Iterable
from typing import NamedTuple

from guest.protocol.address_space import Refusal
from guest.protocol.effects import Send
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName

_FORK, _FORKED = int(MessageName.PROCESS_FORK), int(MessageName.PROCESS_FORKED)
FORK_MESSAGES = frozenset((_FORK, _FORKED))
"""Which messages are this engine's."""


class Copy(NamedTuple):
    """Ask for a copy of a process's address space, and keep the state that is to begin in it. Answered by `copied`."""

    source: int
    """The kernel of the thread that forks."""
    request: int
    """Its number for this, which no other fork of that kernel has."""
    process: int


class Begin(NamedTuple):
    """The new process begins here, with the state that was kept."""

    source: int
    request: int
    process: int


class Forked(NamedTuple):
    """The thread that forks, here, may go on: there is the new process, or there is none."""

    request: int
    process: int
    refusal: Refusal


ForkEffect = Send | Copy | Begin | Forked
"""A Send of PROCESS_FORK takes the state along."""


class ForksEngine:
    """What one kernel knows of the forks under way."""

    def __init__(self, kernel: int, kernels: Iterable[int]) -> None:
        self.kernel = kernel
        self._others = {*kernels} - {kernel}
        self._asked: dict[int, int] = {}
        """By request, the destination."""
        self.requests = 0
        """How many forks were asked for here."""

    def fork(self, process: int, to: int) -> list[ForkEffect]:
        """A thread of the process forks, and waits; a Forked of the number it is given here (from 1) says when."""
        self.requests += 1
        if to == self.kernel:
            return [Copy(self.kernel, self.requests, process)]
        if to not in self._others:
            return [Forked(self.requests, 0, Refusal.DIED)]
        self._asked[self.requests] = to
        return [Send(to, Message(_FORK, process, self.requests))]

    def copied(self, source: int, request: int, process: int, refusal: Refusal) -> list[ForkEffect]:
        """There is a copy, and by it a new process on all kernels; or there is none. See `Copy`."""
        refusal = Refusal(refusal)
        effects: list[ForkEffect] = [Begin(source, request, process)] if refusal is Refusal.NONE else []
        if source == self.kernel:
            effects.append(Forked(request, process, refusal))
        elif source in self._others:
            effects.append(Send(source, Message(_FORKED, process, request, refusal)))
        return effects

    def receive(self, sender: int, message: Message) -> list[ForkEffect]:
        """One message of another kernel. Raises ProtocolError on one that is not of forks."""
        if message.name not in FORK_MESSAGES:
            raise ProtocolError(f"kernel {sender} sends message {message.name}, which is none of forks")
        if sender not in self._others:
            return []  # it is dead
        if message.name == _FORK:
            return [Copy(sender, message.request, message.page)]
        if self._asked.pop(message.request, None) is None:
            raise ProtocolError(f"kernel {sender} answers fork {message.request}, which was not asked for")
        return [Forked(message.request, message.page, Refusal(message.flags))]

    def peer_down(self, kernel: int) -> list[ForkEffect]:
        """Another kernel died."""
        self._others.discard(kernel)
        waiting = [request for request, to in self._asked.items() if to == kernel]
        for request in waiting:
            del self._asked[request]
        return [Forked(request, 0, Refusal.DIED) for request in waiting]
