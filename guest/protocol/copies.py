"""How a page gets from one kernel to another: faults, requests, answers.

The first half of the voting protocol's rules; `guest.protocol.votes` is the second. Each rule of the table is a method
of the same name, called with the page, the sender, the message and the list that takes the effects. Methods with a
leading underscore are steps that several rules share.
"""

from abc import abstractmethod
from collections.abc import Iterator

from guest.protocol.effects import Effect, Forget, Install, Keep, Poison, Protect, Send, Wake, Zero
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.page import NOBODY, NOTHING_KEPT, READ, SIGN_OF_LIFE, WRITE, Page, Phase
from guest.protocol.table import I, N, S

_REQUEST, _DATA, _ABSENT = int(MessageName.PAGE_REQUEST), int(MessageName.PAGE_DATA), int(MessageName.PAGE_ABSENT)
_FETCH, _FOR_WRITE, _FETCHING = int(Flag.FETCH), int(Flag.FOR_WRITE), int(Flag.FETCHING)
_LOST, _ASSURED = int(Flag.LOST), int(Flag.ASSURED)
_IDLE, _FETCH_PHASE, _READ_PHASE, _VOTE_PHASE = Phase

_BARREN_ROUNDS = 2
"""A copy can move from a kernel not yet asked to one already asked, but only by a write, and its writer makes the
second round wait until we have voted for it. Two rounds without a copy and without a vote: there is none."""


def members(mask: int) -> Iterator[int]:
    """The kernels in a copyset mask."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def without(stamps: tuple[int, ...], stamp: int) -> tuple[int, ...]:
    """All stamps but this one."""
    return tuple(other for other in stamps if other != stamp)


class Copies:
    """Rules about copies. The engine adds the events, `Votes` the decisions between writers."""

    kernel: int
    epoch: int
    _bit: int
    """Mask of this kernel alone."""
    _alive: int
    """Mask of all living kernels, this one included."""
    _clock: int
    """Lamport's: the largest counter seen in a timestamp."""
    _dead: int
    """Mask of the kernels known to be dead."""
    _died: bool
    """Whether a kernel ever died: only then can a page be lost."""
    _latecomer: bool
    """Whether others may have fetched pages before this kernel was there to hear of it."""
    _unsure: bool
    """Whether one of them may have died since."""

    @abstractmethod
    def _start_vote(self, page: Page, effects: list[Effect]) -> None: ...

    @abstractmethod
    def _withdraw(self, page: Page, effects: list[Effect]) -> None: ...

    # Faults -----------------------------------------------------------------------------------------------------------

    def spurious(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """Another thread's fault brought the page meanwhile."""
        page.wanted = page.wanted & WRITE if page.state is S else 0
        effects.append(Wake(page.number))

    def fetch(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """First touch."""
        if page.phase is _IDLE:
            self._start_fetch(page, effects)

    def read(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """A stale page is wanted again, for a write too: that begins once the page is valid."""
        if page.lost:
            page.wanted = 0
            effects.append(Poison(page.number))
        elif page.phase is _IDLE:
            page.barren = 0
            self._start_read(page, effects)

    def _start_fetch(self, page: Page, effects: list[Effect]) -> None:
        page.copyset |= self._bit
        page.assured = False
        self._question(page, _FETCH_PHASE, self._alive & ~self._bit, _FETCH, effects)
        if not page.awaiting:
            self._end_fetch(page, effects)

    def _start_read(self, page: Page, effects: list[Effect]) -> None:
        if page.owner == NOBODY:
            self._ask_copyset(page, effects)
        else:
            self._ask(page, page.owner, effects)

    def _ask(self, page: Page, kernel: int, effects: list[Effect]) -> None:
        page.wide = False
        self._question(page, _READ_PHASE, 1 << kernel, _FOR_WRITE if page.stamp else 0, effects)

    def _ask_copyset(self, page: Page, effects: list[Effect]) -> None:
        page.wide = True
        self._question(page, _READ_PHASE, self._others(page), _FOR_WRITE if page.stamp else 0, effects)
        if not page.awaiting:
            self._lose(page, effects)

    def _question(self, page: Page, phase: Phase, kernels: int, flags: int, effects: list[Effect]) -> None:
        page.phase = phase
        page.awaiting = kernels
        page.request += 1
        needed = 0 if flags == _FETCH else page.needed()
        message = Message(_REQUEST, page.number, page.request, flags, needed, self._dead, page.stamp, self.epoch)
        self._send(kernels, message, effects)

    def _send(self, kernels: int, message: Message, effects: list[Effect]) -> None:
        while kernels:  # `members`, without the generator: this runs in every remote fault
            low = kernels & -kernels
            effects.append(Send(low.bit_length() - 1, message))
            kernels ^= low

    def _go_on(self, page: Page, effects: list[Effect]) -> None:
        """Nothing is in flight: begin what is still wanted."""
        page.phase = _IDLE
        page.awaiting = 0
        if page.state is S:
            if page.wanted & WRITE:
                self._start_vote(page, effects)
            else:
                page.wanted = 0
        elif page.wanted:
            self._start_read(page, effects)

    def _see(self, stamp: int) -> None:
        """Lamport's rule: what we write from now on is later than what we know of. The answers to a first touch tell
        what time it is, so that a newcomer's write is younger than all that were begun without asking it to vote."""
        if stamp >> 16 > self._clock:
            self._clock = stamp >> 16

    def _others(self, page: Page) -> int:
        return page.copyset & self._alive & ~self._bit

    # Requests ---------------------------------------------------------------------------------------------------------

    def absent_here(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """We never had the page; if we fetch it at this moment, it becomes a page of both. Whoever reads, and so knows
        that it exists, waits until our fetch has ended: we may be given a copy yet. We remember who fetched it: he may
        be the only one who has it, and may write without telling anybody."""
        lost = _LOST if page.touched and self._died else 0
        if page.phase is _IDLE:
            flags = lost if self._latecomer else lost | _ASSURED
            effects.append(Send(sender, Message(_ABSENT, page.number, message.request, flags, 0, 0, 0, self.epoch)))
            if message.flags & _FETCH:
                page.visitors |= 1 << sender
            return
        if not message.flags & _FETCH:
            page.wait(sender, message)
            return
        page.copyset |= 1 << sender
        page.fetched_by_others = True
        self._deny(page, sender, message.request, _FETCHING | lost, effects)

    def share(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """The only copy becomes one of two."""
        page.state = S
        effects.append(Protect(page.number))
        self._give(page, sender, message.request, effects)

    def queue(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """A loser that asks has counted all its votes: none of them can meet a newer version any more."""
        page.wait(sender, message)
        if message.stamp:
            page.losers = without(page.losers, message.stamp)
        self._release(page, effects)

    def give(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """A valid copy may be handed on at any time, except while the votes that make it stale are under way. Who needs
        a newer one has granted a write that we have not heard of yet: it will come, and asking on would not help."""
        if page.phase is _VOTE_PHASE or message.version > page.version or self._goes_first(page, message.stamp):
            page.wait(sender, message)
        else:
            self._give(page, sender, message.request, effects)

    def absent_stale(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """We know who has been here; a loser that asks us, because we refused it, gets the page from us in the end."""
        page.copyset |= 1 << sender
        if self._goes_first(page, message.stamp):
            page.wait(sender, message)
        else:
            self._deny(page, sender, message.request, 0, effects)

    def _goes_first(self, page: Page, stamp: int) -> bool:
        """Whether our own write in flight is older than that of the loser which asks (0: not a loser)."""
        return 0 < page.stamp < stamp

    def _give(self, page: Page, kernel: int, request: int, effects: list[Effect]) -> None:
        page.copyset |= 1 << kernel
        now = self._clock << 16 | self.kernel
        message = Message(_DATA, page.number, request, 0, page.version, page.copyset, now, self.epoch)
        effects.append(Send(kernel, message))

    def _deny(self, page: Page, kernel: int, request: int, flags: int, effects: list[Effect]) -> None:
        now = self._clock << 16 | self.kernel
        message = Message(_ABSENT, page.number, request, flags, page.version, page.copyset, now, self.epoch)
        effects.append(Send(kernel, message))

    def _release(self, page: Page, effects: list[Effect]) -> None:
        """In M: all who wait get a copy, once every loser has asked."""
        if page.losers or not page.waiting:
            return
        page.state = S
        page.stamp = 0
        effects.append(Protect(page.number))
        self._serve(page, effects)

    def _serve(self, page: Page, effects: list[Effect]) -> None:
        """In S or I, with no vote under way: answer those who wait, as if they asked now."""
        waiting, page.waiting = page.waiting, ()
        for entry in waiting:
            kernel, request, stamp, needed = entry
            page.copyset |= 1 << kernel
            if self._goes_first(page, stamp) or (page.state is S and needed > page.version):
                page.waiting += (entry,)
            elif page.state is S:
                self._give(page, kernel, request, effects)
            else:
                self._deny(page, kernel, request, 0, effects)

    # Answers ----------------------------------------------------------------------------------------------------------

    def late(self, _page: Page, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        """Nobody asks this any more."""

    def collect(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """A copy for a fetch: the newest of all answers counts."""
        if not page.answered(sender, message.request):
            return
        self._see(message.stamp)
        page.copyset |= message.copyset & self._alive
        version = message.version
        if page.awaiting:
            if version > page.kept:
                page.kept = version
                effects.append(Keep(page.number))
        elif version <= page.kept:
            self._end_fetch(page, effects)
        else:
            page.assured, page.visitors = False, 0
            self._drop_kept(page, effects)
            self._arrive(page, version, False, effects)

    def collect_absence(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """No copy there. That nobody has one does not make it a page of zeros if somebody once had, and the version he
        had makes older ones stale: he may have written it unknown to whoever gave us his copy."""
        if not page.answered(sender, message.request):
            return
        self._see(message.stamp)
        if message.flags & _LOST:
            page.touched = self._died = True
        page.assured |= message.flags & _ASSURED != 0
        page.copyset |= message.copyset & self._alive
        page.version = max(page.version, message.version)
        if message.flags & _FETCHING:
            page.fetched_by_others = True
        elif message.copyset:
            page.touched = True
        if not page.awaiting:
            self._end_fetch(page, effects)

    def _end_fetch(self, page: Page, effects: list[Effect]) -> None:
        """All have answered, the last one without the newest copy."""
        assured, page.assured, page.visitors = page.assured, False, 0
        if page.kept != NOTHING_KEPT:
            version, page.kept = page.kept, NOTHING_KEPT
            self._arrive(page, version, True, effects)
        elif page.touched or page.granted or (self._unsure and not assured):
            page.state = I
            self._serve(page, effects)
            self._go_on(page, effects)
        else:
            page.state = S if page.fetched_by_others or page.waiting else N
            page.wanted &= WRITE if page.state is S else 0
            effects.append(Zero(page.number, page.state is N))
            self._serve(page, effects)
            self._settle(page, effects)

    def _settle(self, page: Page, effects: list[Effect]) -> None:
        """In N: done. In S: a writer may wait."""
        page.phase = _IDLE
        if page.wanted:
            self._go_on(page, effects)

    def _drop_kept(self, page: Page, effects: list[Effect]) -> None:
        if page.kept != NOTHING_KEPT:
            page.kept = NOTHING_KEPT
            effects.append(Forget(page.number))

    def _arrive(self, page: Page, version: int, kept: bool, effects: list[Effect]) -> None:
        """A fetch ends with this copy; if it was invalidated on its way, a read begins."""
        if version < page.needed():
            if kept:
                effects.append(Forget(page.number))
            page.state = I
            self._serve(page, effects)
            self._go_on(page, effects)
        else:
            self._install(page, version, kept, effects)

    def _install(self, page: Page, version: int, kept: bool, effects: list[Effect]) -> None:
        page.state = S
        page.version = version
        page.granted = ()
        effects.append(Install(page.number, False, bool(page.wanted & READ), kept))
        page.wanted &= WRITE
        if page.waiting:
            self._serve(page, effects)
        self._go_on(page, effects)

    def accept(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """A copy for a read. What we granted away may not come back: its writer may have changed it by now."""
        if not page.answered(sender, message.request):
            return
        page.copyset |= message.copyset & self._alive
        if message.version >= page.needed():
            self._install(page, message.version, False, effects)
            return
        page.barren = SIGN_OF_LIFE
        if not page.awaiting:
            self._ask_copyset(page, effects)

    def still_valid(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """Whoever refused us gave up and answers with the version that we have."""
        if page.answered(sender, message.request):
            page.copyset |= message.copyset & self._alive
            self._go_on(page, effects)

    def ask_on(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """No copy there."""
        if not page.answered(sender, message.request):
            return
        page.copyset |= message.copyset & self._alive
        if page.awaiting:
            return
        if page.state is S:
            self._go_on(page, effects)
            return
        page.barren += page.wide
        if page.barren >= _BARREN_ROUNDS and self._died:
            self._lose(page, effects)
        else:
            self._ask_copyset(page, effects)

    def _lose(self, page: Page, effects: list[Effect]) -> None:
        """No living kernel has a copy."""
        page.phase = _IDLE
        page.wanted = 0
        page.lost = True
        effects.append(Poison(page.number))
        self._withdraw(page, effects)
