"""The rules of every kernel but the origin: ask it, and do what it says.

Each rule of the table `AWAY` is a method of the same name, called with the page, the sender (always the origin), the
message and the list that takes the effects. Methods with a leading underscore are steps that several rules share.
"""

from guest.protocol.effects import Discard, Effect, Grant, Install, Poison, Protect, Send, Zero
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.origin_page import AwayPage
from guest.protocol.origin_table import Event
from guest.protocol.page import READ, WRITE
from guest.protocol.table import I, M, N, S

_REQUEST, _DATA, _VOTE = int(MessageName.PAGE_REQUEST), int(MessageName.PAGE_DATA), int(MessageName.VOTE)
_FOR_WRITE, _LOST, _GRANTED = int(Flag.FOR_WRITE), int(Flag.LOST), int(Flag.GRANT)


class Away:
    """Rules of a kernel that has the origin elsewhere."""

    kernel: int
    epoch: int
    origin: int
    _orphaned: bool
    """Whether the origin has died."""

    # Our requests -----------------------------------------------------------------------------------------------------

    def ask(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """One request at a time; what is wanted beyond it is asked for when it is answered."""
        page.wanted |= WRITE if message.name == Event.WRITE_FAULT else READ
        self._go_on(page, effects)

    def _go_on(self, page: AwayPage, effects: list[Effect]) -> None:
        if not page.wanted or page.asking:
            return
        if self._orphaned:
            self._lose(page, effects)
            return
        page.asking = True
        page.request += 1
        flags = _FOR_WRITE if page.wanted & WRITE else 0
        effects.append(Send(self.origin, Message(_REQUEST, page.number, page.request, flags, epoch=self.epoch)))

    def _lose(self, page: AwayPage, effects: list[Effect]) -> None:
        """What is wanted cannot be had any more."""
        page.wanted = 0
        if page.state is S:
            page.state = I
            effects.append(Discard(page.number))
        effects.append(Poison(page.number))

    # The origin's answers ---------------------------------------------------------------------------------------------

    def install(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """A copy, or the only copy."""
        if not page.answered(message.request):
            return
        if message.flags & _FOR_WRITE:
            page.state = M
            page.wanted = 0
            effects.append(Install(page.number, True, True, False))
        else:
            page.state = S
            effects.append(Install(page.number, False, bool(page.wanted & READ), False))
            page.wanted &= WRITE
        self._settle(page, effects)

    def no_page(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """Nobody has it: nobody ever had, or those who had are dead."""
        if not page.answered(message.request):
            return
        if message.flags & _LOST:
            self._lose(page, effects)
        else:
            page.state = N
            page.wanted = 0
            effects.append(Zero(page.number, True))
            self._settle(page, effects)

    def write_on(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """Our copy is the only one."""
        if page.answered(message.request):
            page.state = M
            page.wanted = 0
            effects.append(Grant(page.number))
            self._settle(page, effects)

    def _settle(self, page: AwayPage, effects: list[Effect]) -> None:
        """A question that has overtaken the answer comes first, then what else is wanted here."""
        question, page.question = page.question, None
        if question is not None:
            if question.name == _REQUEST:
                self._hand_over(page, question, effects)
            else:
                self._drop(page, question, effects)
        self._go_on(page, effects)

    # The origin's questions -------------------------------------------------------------------------------------------

    def wait(self, page: AwayPage, sender: int, message: Message, _effects: list[Effect]) -> None:
        """The origin believes us to be further than we are: its last answer is still on its way."""
        if not page.asking:
            raise ProtocolError(
                f"kernel {sender} asks kernel {self.kernel} for page {page.number} ({MessageName(message.name).name}), "
                f"which is {page.state.name} there with nothing in flight"
            )
        page.question = message

    def hand_over(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """Home it goes."""
        self._hand_over(page, message, effects)

    def drop(self, page: AwayPage, _sender: int, message: Message, effects: list[Effect]) -> None:
        """Somebody is going to write."""
        self._drop(page, message, effects)

    def _hand_over(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        page.state = S
        flags = question.flags & _FOR_WRITE
        effects.append(Protect(page.number))
        message = Message(_DATA, page.number, question.request, flags, epoch=self.epoch)
        effects.append(Send(self.origin, message, discard=bool(flags)))
        if flags:
            page.state = I

    def _drop(self, page: AwayPage, question: Message, effects: list[Effect]) -> None:
        page.state = I
        effects.append(Discard(page.number))
        effects.append(Send(self.origin, Message(_VOTE, page.number, question.request, _GRANTED, epoch=self.epoch)))

    # Threads that give up, an origin that dies ------------------------------------------------------------------------

    def give_up(self, page: AwayPage, _sender: int, _message: Message, _effects: list[Effect]) -> None:
        """The directory will say that we have the page, so its answer is taken all the same."""
        page.wanted = 0

    def orphan(self, page: AwayPage, _sender: int, _message: Message, effects: list[Effect]) -> None:
        """Nothing will be answered any more, and nothing asked."""
        page.asking = False
        page.question = None
        self._go_on(page, effects)
