"""The origin protocol as two tables: what the origin does about an event, and what every other kernel does.

As in `guest.protocol.table`: all that decides what happens next by the state of the page stands here and is looked up
here at run time, and nothing here knows how a rule is carried out. What is not listed cannot happen: the engine
raises ProtocolError.

What the protocol is about
--------------------------
One kernel, the *origin* (the lowest id of the kernel set), keeps a directory: for every page its *holders*, the kernels
that have a valid copy or have one on its way. Every other kernel asks the origin, and nobody but the origin: for a
copy, or for the right to write. One of two things always holds:

    the origin is a holder, and every holder's copy is valid,
    or there is one holder at most, and it may write (N or M).

So a page that others read is always at the origin too, and can be given away at once. A page that one kernel writes is
*brought home* first: PAGE_REQUEST to the holder, who keeps a read-only copy, or none if it is wanted for writing.
Before a write, all other holders get INVALIDATE and answer with a VOTE (always a grant: nothing is voted on here).
Then the asker gets the right to write: GRANT without the page if it holds a valid copy, else PAGE_DATA, and the origin
drops its own copy. A page that nobody ever touched is PAGE_ABSENT: a page of zeros, the asker's alone.

Who waits for whom. The origin serves the requests for a page one after the other, its own faults among them, in the
order in which they came. Its questions are answered at once, with one exception: a question may overtake the origin's
answer to the kernel that it asks. Then it waits there for that answer, which waits for nobody. Hence no circle.
(Popcorn's origin keeps no queue: of two faults that meet, it tells the loser to try again.)

How many questions. About one page the origin has one question in flight, and every other kernel one request. That is
why nobody needs versions or timestamps here: a question that does not fit a kernel's state can only have overtaken
the answer to its request.

Deaths. A dead kernel is taken out of the directory, the queue and all that is awaited. If it was the only holder, the
page is lost: whoever wants it gets SIGBUS. If the origin dies, the directory is gone: what a kernel has it keeps, but
it gets nothing new, and whoever waits for something gets SIGBUS.
"""

from enum import IntEnum

from guest.protocol import table
from guest.protocol.messages import MessageName
from guest.protocol.table import Rule, State


class Event(IntEnum):
    """What can happen to a page. Messages first, under their own numbers, then what happens locally."""

    PAGE_REQUEST = MessageName.PAGE_REQUEST
    PAGE_DATA = MessageName.PAGE_DATA
    PAGE_ABSENT = MessageName.PAGE_ABSENT
    INVALIDATE = MessageName.INVALIDATE
    VOTE = MessageName.VOTE
    GRANT = MessageName.GRANT
    READ_FAULT = table.Event.READ_FAULT
    WRITE_FAULT = table.Event.WRITE_FAULT
    GIVE_UP = table.Event.GIVE_UP
    PEER_DOWN = table.Event.PEER_DOWN


Table = dict[tuple[State, Event], Rule]

U, N, M, S, I = State  # noqa: E741 - the field's letters
_REQUEST, _DATA, _ABSENT = MessageName.PAGE_REQUEST, MessageName.PAGE_DATA, MessageName.PAGE_ABSENT
_INVALIDATE, _VOTE, _GRANT = MessageName.INVALIDATE, MessageName.VOTE, MessageName.GRANT
_SERVING = (_DATA, _GRANT, _REQUEST, _INVALIDATE)
"""What serving a queue may send."""


def _late(state: State) -> Rule:
    return Rule("late", (state,), (), "an answer to a question no longer asked: dropped")


def _allowed(state: State) -> Rule:
    return Rule("allowed", (state,), (), "the access is allowed by now: wake the thread")


def _give_up_home(state: State) -> Rule:
    return Rule("leave_queue", (state,), (), "our own faults leave the queue")


def _give_up(state: State) -> Rule:
    return Rule("give_up", (state,), (), "what is in flight goes on")


HOME: Table = {
    # Our own faults stand in the same queue as the others' requests
    (U, Event.READ_FAULT): Rule(
        "fault_home", (U, N), (_REQUEST,), "never touched: a page of zeros; else bring it home"
    ),
    (U, Event.WRITE_FAULT): Rule(
        "fault_home", (U, N), (_REQUEST,), "never touched: a page of zeros; else bring it home"
    ),
    (N, Event.READ_FAULT): _allowed(N),
    (N, Event.WRITE_FAULT): _allowed(N),
    (M, Event.READ_FAULT): _allowed(M),
    (M, Event.WRITE_FAULT): _allowed(M),
    (S, Event.READ_FAULT): _allowed(S),
    (S, Event.WRITE_FAULT): Rule("fault_home", (S, M), (_INVALIDATE,), "invalidate the other holders"),
    (I, Event.READ_FAULT): Rule("fault_home", (I,), (_REQUEST,), "bring it home"),
    (I, Event.WRITE_FAULT): Rule("fault_home", (I,), (_REQUEST,), "bring it home, and let nobody keep it"),
    # Requests of the others
    (U, Event.PAGE_REQUEST): Rule(
        "enter_queue", (U,), (_ABSENT, _REQUEST), "never touched: it is the asker's; else bring it home"
    ),
    (N, Event.PAGE_REQUEST): Rule("enter_queue", (S, I), (_DATA,), "give a copy, keep none if it is to be written"),
    (M, Event.PAGE_REQUEST): Rule("enter_queue", (S, I), (_DATA,), "give a copy, keep none if it is to be written"),
    (S, Event.PAGE_REQUEST): Rule(
        "enter_queue",
        (S, I),
        (_DATA, _GRANT, _INVALIDATE),
        "give a copy; a write waits until the others are invalidated",
    ),
    (I, Event.PAGE_REQUEST): Rule("enter_queue", (I,), (_REQUEST, _ABSENT), "bring it home; a lost page is absent"),
    # Answers to our questions
    (U, Event.PAGE_DATA): Rule("come_home", (S, M, I), _SERVING, "install it, serve the queue"),
    (N, Event.PAGE_DATA): _late(N),
    (M, Event.PAGE_DATA): _late(M),
    (S, Event.PAGE_DATA): _late(S),
    (I, Event.PAGE_DATA): Rule("come_home", (S, M, I), _SERVING, "install it, serve the queue"),
    (U, Event.VOTE): _late(U),
    (N, Event.VOTE): _late(N),
    (M, Event.VOTE): _late(M),
    (S, Event.VOTE): Rule("count_out", (S, M, I), _SERVING, "when the last one has answered: serve the queue"),
    (I, Event.VOTE): _late(I),
    # Threads that give up, kernels that die
    (U, Event.GIVE_UP): _give_up_home(U),
    (N, Event.GIVE_UP): _give_up_home(N),
    (M, Event.GIVE_UP): _give_up_home(M),
    (S, Event.GIVE_UP): _give_up_home(S),
    (I, Event.GIVE_UP): _give_up_home(I),
    (U, Event.PEER_DOWN): Rule("bury", (U,), (_ABSENT,), "the only holder: the page is lost"),
    (N, Event.PEER_DOWN): Rule("bury", (N,), (), "nobody else had it"),
    (M, Event.PEER_DOWN): Rule("bury", (M,), (), "nobody else had it"),
    (S, Event.PEER_DOWN): Rule("bury", (S, M, I), _SERVING, "wait no longer for the dead, serve the queue"),
    (I, Event.PEER_DOWN): Rule("bury", (I,), (_ABSENT,), "the only holder: the page is lost"),
}
"""At the origin."""

AWAY: Table = {
    # Local faults
    (U, Event.READ_FAULT): Rule("ask", (U,), (_REQUEST,), "ask the origin"),
    (U, Event.WRITE_FAULT): Rule("ask", (U,), (_REQUEST,), "ask the origin"),
    (N, Event.READ_FAULT): _allowed(N),
    (N, Event.WRITE_FAULT): _allowed(N),
    (M, Event.READ_FAULT): _allowed(M),
    (M, Event.WRITE_FAULT): _allowed(M),
    (S, Event.READ_FAULT): _allowed(S),
    (S, Event.WRITE_FAULT): Rule("ask", (S, I), (_REQUEST,), "ask the origin; without one, the page is given up"),
    (I, Event.READ_FAULT): Rule("ask", (I,), (_REQUEST,), "ask the origin"),
    (I, Event.WRITE_FAULT): Rule("ask", (I,), (_REQUEST,), "ask the origin"),
    # The origin's answers
    (U, Event.PAGE_DATA): Rule("install", (S, M, I), (_DATA, _VOTE, _REQUEST), "install it; then what waited for that"),
    (N, Event.PAGE_DATA): _late(N),
    (M, Event.PAGE_DATA): _late(M),
    (S, Event.PAGE_DATA): _late(S),
    (I, Event.PAGE_DATA): Rule("install", (S, M, I), (_DATA, _VOTE, _REQUEST), "install it; then what waited for that"),
    (U, Event.PAGE_ABSENT): Rule("no_page", (U, N, S, I), (_DATA,), "a page of zeros; or SIGBUS if it is lost"),
    (N, Event.PAGE_ABSENT): _late(N),
    (M, Event.PAGE_ABSENT): _late(M),
    (S, Event.PAGE_ABSENT): _late(S),
    (I, Event.PAGE_ABSENT): Rule("no_page", (I,), (), "it is lost: SIGBUS"),
    (U, Event.GRANT): _late(U),
    (N, Event.GRANT): _late(N),
    (M, Event.GRANT): _late(M),
    (S, Event.GRANT): Rule("write_on", (S, M, I), (_DATA,), "write; then what waited for that"),
    (I, Event.GRANT): _late(I),
    # The origin's questions
    (U, Event.PAGE_REQUEST): Rule("wait", (U,), (), "our page is on its way: answer when it is here"),
    (N, Event.PAGE_REQUEST): Rule("hand_over", (S, I), (_DATA,), "give the page, keep none if it is to be written"),
    (M, Event.PAGE_REQUEST): Rule("hand_over", (S, I), (_DATA,), "give the page, keep none if it is to be written"),
    (S, Event.PAGE_REQUEST): Rule("wait", (S,), (), "our grant is on its way: answer when it is here"),
    (I, Event.PAGE_REQUEST): Rule("wait", (I,), (), "our page is on its way: answer when it is here"),
    (U, Event.INVALIDATE): Rule("wait", (U,), (), "our page is on its way: answer when it is here"),
    (S, Event.INVALIDATE): Rule("drop", (I,), (_VOTE,), "drop the copy, say so"),
    (I, Event.INVALIDATE): Rule("wait", (I,), (), "our page is on its way: answer when it is here"),
    # Threads that give up, an origin that dies
    (U, Event.GIVE_UP): _give_up(U),
    (N, Event.GIVE_UP): _give_up(N),
    (M, Event.GIVE_UP): _give_up(M),
    (S, Event.GIVE_UP): _give_up(S),
    (I, Event.GIVE_UP): _give_up(I),
    (U, Event.PEER_DOWN): Rule("orphan", (U,), (), "the origin: whoever waits gets SIGBUS"),
    (N, Event.PEER_DOWN): Rule("orphan", (N,), (), "the page stays ours"),
    (M, Event.PEER_DOWN): Rule("orphan", (M,), (), "the page stays ours"),
    (S, Event.PEER_DOWN): Rule("orphan", (S, I), (), "the origin: a writer gets SIGBUS, readers go on"),
    (I, Event.PEER_DOWN): Rule("orphan", (I,), (), "the origin: whoever waits gets SIGBUS"),
}
"""Everywhere else."""
