"""The coherency protocol as a table: which rule answers which event in which state of a page.

Two things hold for this file. All that decides what happens next *by the state of the page* stands here, and the
engine looks it up here at run time: change a line and the protocol changes. And nothing here knows how a rule is
carried out: a rule is a name, the states it may lead to, the messages it may send, and a sentence. The diagrams in
docs/protocol.md are drawn from this table, and the model checker compares it with what the engine really does, in
both directions: a transition that the table does not list is an error, a listed one that never happens is another.

What the protocol is about
--------------------------
Every kernel may keep its own *replica* of every page. Replicas may be read while nobody writes, and one kernel may
write while nobody else reads. Nobody directs: a kernel that wants a page asks the others, and a kernel that wants to
write takes a vote among them.

    U  unmapped         never touched here
    N  not replicated   the only copy in the system                   readable, writable
    M  modified         this kernel wrote last, all others are stale   readable, writable
    S  shared           valid, others may hold it too                 readable
    I  invalid          was here, is stale

First touch. A *fetch* asks every other kernel and waits for all of them. That is what makes everything later cheap
and safe: whoever holds the page learns of the newcomer before the newcomer holds anything, so every kernel's
*copyset* names all who ever touched the page. A page that nobody has is zero: N, or S when a peer is fetching too.

Writing. A copy has a *version*, the number of times the page was granted for writing. A writer in S sends INVALIDATE
with its version and a *timestamp* to the copyset. Whoever does not write himself grants and drops his copy; of two
writers the one with the larger timestamp grants. All granted: version + 1, M. One refusal: the vote is lost, and the
loser asks the refuser with the smallest timestamp for the page (*read for write*), then votes again with **the same**
timestamp, which by and by becomes the smallest of all.

The one rule of safety. *A kernel that granted the invalidation of version v never installs version v or an older one
again*: it keeps what it `granted` until a newer version comes. As each writer needs the grant of every kernel in the
copyset, a version that was not granted away here cannot have been overwritten anywhere. So the first copy newer than
all grants is the latest one, whoever sends it, however late.

Who waits for whom. While votes are awaited, requests for the page wait; votes themselves never wait. A winner stays in
M until each loser has asked, or else the readers would take the page away again at once, and the losers too. (A loser
is a voter whose own votes are under way; it asks as soon as they are counted.) A loser makes other losers wait only if
their timestamp is larger. Hence no circle.

Asking for what. A question says which version is needed at least: who holds an older one, and has not heard yet of the
write that makes it stale, answers when he has. A denial says which version was there: older copies are stale. A vote
about a version older than the voter's valid copy is refused.

Giving up. A writer that nobody waits for any more, and that lost its vote, tells the copyset (ABANDON): the winner need
not wait for it, and what was granted to its timestamp counts as never granted. The death of a kernel is the same for
all its writes, and every read or fetch in flight begins again, for the dead may have written what is still on its
way. When two rounds of questions find no copy, and no writer shows up in between, the page died with its kernel.
"""

from enum import IntEnum
from typing import NamedTuple

from guest.protocol.messages import MessageName


class State(IntEnum):
    """State of a page in one kernel. The numbers index the engine's dispatch."""

    U = 0
    """Unmapped: never touched here."""
    N = 1
    """Not replicated: the only copy in the system."""
    M = 2
    """Modified: this kernel wrote last, every other copy is invalid."""
    S = 3
    """Shared: valid, others may hold it too."""
    I = 4  # noqa: E741 - the field's letter
    """Invalid: was here, is stale."""


class Event(IntEnum):
    """What can happen to a page. Messages first, under their own numbers, then what happens locally."""

    PAGE_REQUEST = MessageName.PAGE_REQUEST
    PAGE_DATA = MessageName.PAGE_DATA
    PAGE_ABSENT = MessageName.PAGE_ABSENT
    INVALIDATE = MessageName.INVALIDATE
    VOTE = MessageName.VOTE
    ABANDON = MessageName.ABANDON
    READ_FAULT = 32
    """A local thread loads from the page and cannot."""
    WRITE_FAULT = 33
    """A local thread stores to the page and cannot."""
    GIVE_UP = 34
    """No local thread waits for the page any more."""
    PEER_DOWN = 35
    """Another kernel died."""


class Rule(NamedTuple):
    """What is done about one event in one state."""

    name: str
    """The engine's method."""
    to: tuple[State, ...]
    """States the page may be in afterwards."""
    sends: tuple[MessageName, ...]
    """Messages that may be sent."""
    says: str
    """The rule in a sentence."""


U, N, M, S, I = State  # noqa: E741 - the field's letters
_REQUEST, _DATA, _ABSENT = MessageName.PAGE_REQUEST, MessageName.PAGE_DATA, MessageName.PAGE_ABSENT
_INVALIDATE, _VOTE, _ABANDON = MessageName.INVALIDATE, MessageName.VOTE, MessageName.ABANDON


def _late(state: State) -> Rule:
    return Rule("late", (state,), (), "an answer to a question no longer asked: dropped")


def _spurious(state: State) -> Rule:
    return Rule("spurious", (state,), (), "the access is allowed by now: wake the thread")


TABLE: dict[tuple[State, Event], Rule] = {
    # Local faults
    (U, Event.READ_FAULT): Rule("fetch", (U, N, I), (_REQUEST,), "ask every other kernel, wait for all"),
    (N, Event.READ_FAULT): _spurious(N),
    (M, Event.READ_FAULT): _spurious(M),
    (S, Event.READ_FAULT): _spurious(S),
    (I, Event.READ_FAULT): Rule("read", (I,), (_REQUEST,), "ask the owner, then the copyset"),
    (U, Event.WRITE_FAULT): Rule("fetch", (U, N, I), (_REQUEST,), "ask every other kernel, wait for all"),
    (N, Event.WRITE_FAULT): _spurious(N),
    (M, Event.WRITE_FAULT): _spurious(M),
    (S, Event.WRITE_FAULT): Rule("write", (S, M), (_INVALIDATE,), "take a timestamp, ask the copyset to vote"),
    (I, Event.WRITE_FAULT): Rule("read", (I,), (_REQUEST,), "as a read, then as a write from S"),
    # Requests of others
    (U, Event.PAGE_REQUEST): Rule(
        "absent_here", (U,), (_ABSENT,), "say so, and whether we fetch it too; readers wait for our fetch"
    ),
    (N, Event.PAGE_REQUEST): Rule("share", (S,), (_DATA,), "write-protect, give a copy"),
    (M, Event.PAGE_REQUEST): Rule("queue", (M, S), (_DATA,), "once every loser has asked: write-protect, give copies"),
    (S, Event.PAGE_REQUEST): Rule("give", (S,), (_DATA,), "give a copy; while we vote, when that is decided"),
    (I, Event.PAGE_REQUEST): Rule(
        "absent_stale", (I,), (_ABSENT,), "name the copyset; a later loser waits for our write"
    ),
    # Answers to our requests
    (U, Event.PAGE_DATA): Rule(
        "collect",
        (U, S, I),
        (_REQUEST, _INVALIDATE, _DATA, _ABSENT),
        "keep the highest version until all have answered",
    ),
    (N, Event.PAGE_DATA): _late(N),
    (M, Event.PAGE_DATA): _late(M),
    (S, Event.PAGE_DATA): Rule("still_valid", (S,), (_INVALIDATE,), "we lost a vote but not the copy: vote again"),
    (I, Event.PAGE_DATA): Rule(
        "accept", (S, I), (_REQUEST, _INVALIDATE), "install it if newer than every grant, else ask the copyset"
    ),
    (U, Event.PAGE_ABSENT): Rule(
        "collect_absence",
        (U, N, S, M, I),
        (_REQUEST, _INVALIDATE, _DATA, _ABSENT),
        "when nobody has it: a page of zeros, unless it may have died",
    ),
    (N, Event.PAGE_ABSENT): _late(N),
    (M, Event.PAGE_ABSENT): _late(M),
    (S, Event.PAGE_ABSENT): Rule("ask_on", (S,), (_INVALIDATE,), "whoever refused us has nothing: vote again"),
    (I, Event.PAGE_ABSENT): Rule("ask_on", (I,), (_REQUEST, _ABANDON, _ABSENT), "ask the whole copyset"),
    # Votes
    (U, Event.INVALIDATE): Rule("grant_unmapped", (U,), (_VOTE,), "grant; a copy of that version on its way is stale"),
    (N, Event.INVALIDATE): Rule("contradiction", (), (), "cannot happen: nobody else has a copy"),
    (M, Event.INVALIDATE): Rule("refuse", (M,), (_VOTE,), "refuse: this version is stale, its writer must ask us"),
    (S, Event.INVALIDATE): Rule(
        "judge", (S, I), (_VOTE, _ABSENT), "grant and drop the copy, unless our own write is older or our copy newer"
    ),
    (I, Event.INVALIDATE): Rule("judge", (I,), (_VOTE,), "grant, unless our own write is older"),
    (U, Event.VOTE): _late(U),
    (N, Event.VOTE): _late(N),
    (M, Event.VOTE): _late(M),
    (S, Event.VOTE): Rule(
        "count", (S, M), (_REQUEST, _DATA, _ABANDON), "all granted: M; a refusal: ask the oldest writer"
    ),
    (I, Event.VOTE): Rule(
        "count", (I,), (_REQUEST, _ABSENT, _ABANDON), "we granted to another meanwhile: ask for the page"
    ),
    # Writers that give up
    (U, Event.ABANDON): Rule("void", (U,), (), "what was granted to this writer counts no more"),
    (N, Event.ABANDON): _late(N),
    (M, Event.ABANDON): Rule("release_loser", (M, S), (_DATA,), "one loser less to wait for"),
    (S, Event.ABANDON): Rule("void", (S,), (), "what was granted to this writer counts no more"),
    (I, Event.ABANDON): Rule("void", (I,), (_REQUEST,), "as in S; a read in flight asks again"),
    (U, Event.GIVE_UP): Rule("give_up", (U,), (), "the fetch goes on as a read"),
    (N, Event.GIVE_UP): Rule("give_up", (N,), (), "nothing was in flight"),
    (M, Event.GIVE_UP): Rule("give_up", (M,), (), "nothing was in flight"),
    (S, Event.GIVE_UP): Rule("give_up", (S,), (_ABANDON, _DATA), "a vote goes on; a loser tells the copyset"),
    (I, Event.GIVE_UP): Rule("give_up", (I,), (_ABANDON, _ABSENT), "a vote goes on; a loser tells the copyset"),
    # Deaths
    (U, Event.PEER_DOWN): Rule("fetch_again", (U, N, S, M, I), (_REQUEST,), "a fetch in flight begins again"),
    (N, Event.PEER_DOWN): Rule("bury", (N,), (), "nobody else had it"),
    (M, Event.PEER_DOWN): Rule("bury_loser", (M, S), (_DATA,), "nobody waits for the dead"),
    (S, Event.PEER_DOWN): Rule(
        "vote_without", (S, M), (_REQUEST, _INVALIDATE, _DATA, _ABANDON), "the dead refuse nothing; ask no dead winner"
    ),
    (I, Event.PEER_DOWN): Rule(
        "read_again", (I,), (_REQUEST, _ABSENT, _ABANDON), "a read in flight begins again, of the whole copyset"
    ),
}
"""Every state and event has its rule; `tests/unit/test_protocol_table.py` sees to it."""
