"""Who may write: votes, writers that give up, kernels that die. The second half of the voting protocol's rules."""

from guest.protocol.copies import Copies, without
from guest.protocol.effects import Discard, Effect, Grant, Send
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.page import KERNEL_BITS, SIGN_OF_LIFE, WRITE, Page, Phase
from guest.protocol.table import I, M, S

_INVALIDATE, _VOTE, _ABANDON = int(MessageName.INVALIDATE), int(MessageName.VOTE), int(MessageName.ABANDON)
_GRANT, _ALSO_WRITING = int(Flag.GRANT), int(Flag.ALSO_WRITING)
_IDLE, _FETCH_PHASE, _READ_PHASE, _VOTE_PHASE = Phase


class Votes(Copies):
    """Rules about writing."""

    def write(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """A valid page is to be written."""
        if page.phase is _IDLE:
            self._start_vote(page, effects)

    def _start_vote(self, page: Page, effects: list[Effect]) -> None:
        if not page.stamp:
            self._clock += 1
            page.stamp = self._clock << 16 | self.kernel
        page.phase = _VOTE_PHASE
        page.losers = page.refusals = page.abandoned = ()
        page.awaiting = self._others(page)
        page.request += 1
        message = Message(_INVALIDATE, page.number, page.request, 0, page.version, 0, page.stamp, self.epoch)
        self._send(page.awaiting, message, effects)
        if not page.awaiting:
            self._decide(page, effects)

    def grant_unmapped(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """We may be fetching, and a copy of this version be on its way."""
        self._see(message.stamp)
        if page.phase is _FETCH_PHASE:
            page.owner = sender
            page.touched = True
            page.granted += ((message.version, message.stamp),)
        self._vote(page, sender, message, _GRANT, effects)

    def contradiction(self, page: Page, sender: int, message: Message, _effects: list[Effect]) -> None:
        """Somebody writes a page of which we hold the only copy."""
        raise ProtocolError(
            f"kernel {sender} invalidates version {message.version} of page {page.number}, "
            f"but kernel {self.kernel} holds its only copy"
        )

    def refuse(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """We have won already."""
        self._see(message.stamp)
        self._vote(page, sender, message, _ALSO_WRITING, effects)

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """Of two writes the older one goes first, and a write of a stale copy never."""
        self._see(message.stamp)
        if self._goes_first(page, message.stamp):
            self._vote(page, sender, message, _ALSO_WRITING, effects)
            return
        if page.state is S and message.version < page.version:
            self._vote(page, sender, message, 0, effects)
            return
        if page.state is S or page.lost:
            effects.append(Discard(page.number))
        page.state = I
        page.lost = False
        page.owner = sender
        page.barren = SIGN_OF_LIFE
        page.granted += ((message.version, message.stamp),)
        if page.phase is _VOTE_PHASE:
            self._vote(page, sender, message, _GRANT | _ALSO_WRITING, effects)
        else:
            self._vote(page, sender, message, _GRANT, effects)
            if page.waiting:
                self._serve(page, effects)

    def _vote(self, page: Page, kernel: int, message: Message, flags: int, effects: list[Effect]) -> None:
        """Without a write of our own the stamp is the smallest there is: who has the newest copy is asked first."""
        stamp = page.stamp or self.kernel
        vote = Message(_VOTE, page.number, message.request, flags, page.version, 0, stamp, self.epoch)
        effects.append(Send(kernel, vote))

    def count(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        """One vote for our write."""
        if not page.answered(sender, message.request):
            return
        stamp = message.stamp
        self._see(stamp)
        if not message.flags & _GRANT:
            page.refusals += (stamp,)
        elif message.flags & _ALSO_WRITING and stamp not in page.abandoned:
            page.losers += (stamp,)
        if not page.awaiting:
            self._decide(page, effects)

    def _decide(self, page: Page, effects: list[Effect]) -> None:
        page.phase = _IDLE
        if page.state is S and not page.refusals:
            self._win(page, effects)
            return
        refusals, page.refusals, page.losers, page.abandoned = page.refusals, (), (), ()
        if not page.wanted & WRITE:
            self._withdraw(page, effects)
            self._go_on(page, effects)
            return
        self._serve(page, effects)
        if refusals:
            self._ask(page, min(refusals) & KERNEL_BITS, effects)
        else:
            self._go_on(page, effects)

    def _win(self, page: Page, effects: list[Effect]) -> None:
        page.state = M
        page.version += 1
        page.owner = self.kernel
        page.wanted = 0
        page.abandoned = ()
        effects.append(Grant(page.number))
        if page.waiting:
            asked = [stamp for _, _, stamp, _ in page.waiting]
            page.losers = tuple(stamp for stamp in page.losers if stamp not in asked)
            self._release(page, effects)

    # Writers that give up, kernels that die ---------------------------------------------------------------------------

    def give_up(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """What is in flight goes on, and wakes nobody; a write that has lost its vote is withdrawn."""
        page.wanted = 0
        if page.stamp and page.state is not M and page.phase is not _VOTE_PHASE:
            self._withdraw(page, effects)

    def _withdraw(self, page: Page, effects: list[Effect]) -> None:
        """Our write will not be: whoever counts on it, or granted to it, must know."""
        if page.stamp:
            message = Message(_ABANDON, page.number, 0, 0, page.version, 0, page.stamp, self.epoch)
            self._send(self._others(page), message, effects)
            page.stamp = 0
        self._serve(page, effects)

    def void(self, page: Page, _sender: int, message: Message, effects: list[Effect]) -> None:
        """The write never was and never will be: the version it was to replace is the latest."""
        stamp = message.stamp
        granted = page.granted
        page.granted = tuple(entry for entry in granted if entry[1] != stamp)
        if page.phase is _READ_PHASE and page.granted != granted:
            self._ask_copyset(page, effects)
        elif page.phase is _VOTE_PHASE:
            page.losers = without(page.losers, stamp)
            page.abandoned += (stamp,)

    def release_loser(self, page: Page, _sender: int, message: Message, effects: list[Effect]) -> None:
        """One loser less."""
        page.losers = without(page.losers, message.stamp)
        self._release(page, effects)

    def fetch_again(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """The dead may have written a newer version than those that are on their way to us."""
        if page.phase is _FETCH_PHASE:
            self._drop_kept(page, effects)
            self._start_fetch(page, effects)

    def bury(self, _page: Page, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        """Nothing but the records, and those are done."""

    def bury_loser(self, page: Page, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """The dead may have been the last loser."""
        self._release(page, effects)

    def vote_without(self, page: Page, sender: int, _message: Message, effects: list[Effect]) -> None:
        """Votes go on without the dead; a loser votes again, for the winner may have died."""
        if page.phase is _VOTE_PHASE:
            self._recount(page, sender, effects)
        elif page.phase is _READ_PHASE:
            self._go_on(page, effects)

    def read_again(self, page: Page, sender: int, _message: Message, effects: list[Effect]) -> None:
        """The dead may have written a newer version than the one on its way to us."""
        if page.phase is _VOTE_PHASE:
            self._recount(page, sender, effects)
        elif page.phase is _READ_PHASE:
            page.barren = 0
            self._ask_copyset(page, effects)

    def _recount(self, page: Page, dead: int, effects: list[Effect]) -> None:
        page.awaiting &= ~(1 << dead)
        if not page.awaiting:
            self._decide(page, effects)
