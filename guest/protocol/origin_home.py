"""The origin's rules: a directory, and a queue for every page.

Each rule of the table `HOME` is a method of the same name, called with the page, the sender, the message and the list
that takes the effects. Methods with a leading underscore are steps that several rules share.
"""

from guest.protocol.effects import Discard, Effect, Grant, Install, Poison, Protect, Send, Wake, Zero
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.origin_page import Asker, HomePage
from guest.protocol.origin_table import Event
from guest.protocol.table import I, M, N, S

_REQUEST, _DATA, _ABSENT = int(MessageName.PAGE_REQUEST), int(MessageName.PAGE_DATA), int(MessageName.PAGE_ABSENT)
_INVALIDATE, _GRANT = int(MessageName.INVALIDATE), int(MessageName.GRANT)
_FOR_WRITE, _LOST = int(Flag.FOR_WRITE), int(Flag.LOST)


class Home:
    """Rules of the kernel that keeps the directory."""

    kernel: int
    epoch: int
    _bit: int
    """Mask of this kernel alone."""
    _orphaned: bool
    """Whether this kernel died and came back, so that its directory is gone."""

    # Who is to be served ----------------------------------------------------------------------------------------------

    def fault_home(self, page: HomePage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """Our own threads queue like everybody else; of their faults the queue holds each kind once."""
        write = message.name == Event.WRITE_FAULT
        if any(asker.kernel == self.kernel and asker.write >= write for asker in page.queue):
            return
        page.queue += (Asker(self.kernel, 0, write),)
        self._serve(page, effects)

    def enter_queue(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        """At the end; it is served at once if nobody is before it and nothing is missing."""
        page.queue += (Asker(sender, message.request, bool(message.flags & _FOR_WRITE)),)
        self._serve(page, effects)

    def leave_queue(self, page: HomePage, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        """Questions asked for us go on: the next in the queue makes use of their answers."""
        page.queue = tuple(asker for asker in page.queue if asker.kernel != self.kernel)

    def _serve(self, page: HomePage, effects: list[Effect]) -> None:
        """One after the other, until something must be asked for first."""
        while page.queue and not page.awaiting:
            if self._answer(page, page.queue[0], effects):
                page.queue = page.queue[1:]

    def _answer(self, page: HomePage, asker: Asker, effects: list[Effect]) -> bool:
        """Serve the asker if that is possible now; else ask for what is missing."""
        if page.lost or self._orphaned:
            self._deny(page, asker, effects)
        elif not page.holders:
            self._give_zeros(page, asker, effects)
        elif not page.holders & self._bit:
            self._ask(page, page.holders, _REQUEST, _FOR_WRITE if asker.write else 0, effects)
            return False
        elif not asker.write:
            self._let_read(page, asker, effects)
        else:
            others = page.holders & ~self._bit & ~(1 << asker.kernel)
            if others:
                self._ask(page, others, _INVALIDATE, 0, effects)
                return False
            self._let_write(page, asker, effects)
        return True

    # How they are served ----------------------------------------------------------------------------------------------

    def _deny(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        if asker.kernel == self.kernel:
            effects.append(Poison(page.number))
        else:
            self._tell(page, asker, _ABSENT, _LOST, effects)

    def _give_zeros(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        page.holders = 1 << asker.kernel
        if asker.kernel == self.kernel:
            page.state = N
            effects.append(Zero(page.number, True))
        else:
            self._tell(page, asker, _ABSENT, 0, effects)

    def _let_read(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        if asker.kernel == self.kernel:
            effects.append(Wake(page.number))
        else:
            self._protect(page, effects)
            self._tell(page, asker, _DATA, 0, effects)
            page.holders |= 1 << asker.kernel

    def _let_write(self, page: HomePage, asker: Asker, effects: list[Effect]) -> None:
        """Nobody but we and the asker has a copy, and in the end the asker alone."""
        if asker.kernel == self.kernel:
            page.state = M
            effects.append(Grant(page.number))
            return
        if page.holders >> asker.kernel & 1:
            effects.append(Discard(page.number))
            self._tell(page, asker, _GRANT, 0, effects)
        else:
            self._protect(page, effects)
            message = Message(_DATA, page.number, asker.request, _FOR_WRITE, epoch=self.epoch)
            effects.append(Send(asker.kernel, message, discard=True))
        page.state = I
        page.holders = 1 << asker.kernel

    def _protect(self, page: HomePage, effects: list[Effect]) -> None:
        if page.state is not S:
            page.state = S
            effects.append(Protect(page.number))

    def _tell(self, page: HomePage, asker: Asker, name: int, flags: int, effects: list[Effect]) -> None:
        message = Message(name, page.number, asker.request, flags, epoch=self.epoch)
        effects.append(Send(asker.kernel, message))

    # What must be asked for first -------------------------------------------------------------------------------------

    def _ask(self, page: HomePage, kernels: int, name: int, flags: int, effects: list[Effect]) -> None:
        page.awaiting = kernels
        page.request += 1
        message = Message(name, page.number, page.request, flags, epoch=self.epoch)
        while kernels:
            low = kernels & -kernels
            effects.append(Send(low.bit_length() - 1, message))
            kernels ^= low

    def come_home(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        """The page that one kernel wrote; he keeps a copy unless it is wanted for writing."""
        if not page.answered(sender, message.request):
            return
        alone = bool(message.flags & _FOR_WRITE)
        page.holders = self._bit if alone else page.holders | self._bit
        ours = bool(page.queue) and page.queue[0].kernel == self.kernel
        served = ours and page.queue[0].write <= alone
        writable = served and page.queue[0].write
        page.state = M if writable else S
        effects.append(Install(page.number, writable, served, False))
        page.queue = page.queue[served:]
        self._serve(page, effects)

    def count_out(self, page: HomePage, sender: int, message: Message, effects: list[Effect]) -> None:
        """One holder less."""
        if page.answered(sender, message.request):
            page.holders &= ~(1 << sender)
            self._serve(page, effects)

    def bury(self, page: HomePage, sender: int, _message: Message, effects: list[Effect]) -> None:
        """The dead ask for nothing, answer nothing and hold nothing."""
        dead = 1 << sender
        page.queue = tuple(asker for asker in page.queue if asker.kernel != sender)
        page.awaiting &= ~dead
        page.lost |= page.holders == dead
        page.holders &= ~dead
        self._serve(page, effects)
