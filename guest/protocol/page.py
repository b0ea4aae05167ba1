"""What one kernel knows about one page."""

from enum import IntEnum

from guest.protocol.messages import Message
from guest.protocol.table import State

READ = 1
WRITE = 2
"""Bits of `Page.wanted`."""

NOBODY = -1
"""An owner that is not known, or dead."""

NOTHING_KEPT = -1
"""`Page.kept` without a payload."""

SIGN_OF_LIFE = -1
"""`Page.barren` of a round that does not count, whatever its other answers are."""


KERNEL_BITS = 0xFFFF
"""The part of a timestamp that names the kernel."""


class Phase(IntEnum):
    """What this kernel has in flight for the page: one thing at a time."""

    IDLE = 0
    FETCHING = 1
    """First touch: every other kernel is asked, all answers are awaited."""
    READING = 2
    """A copy is asked for: of one kernel, or of the whole copyset."""
    VOTING = 3
    """INVALIDATE is out, votes are awaited."""


FrozenPage = tuple[object, ...]


class Page:
    """The record of one page, made when the page is first heard of.

    A `stamp` names a write: `counter << 16 | kernel`. It is set while a write of this kernel is in flight, from its
    first vote on, and in M (where it is the last write's); zero otherwise.
    """

    __slots__ = (
        "abandoned",
        "assured",
        "awaiting",
        "barren",
        "copyset",
        "fetched_by_others",
        "granted",
        "kept",
        "losers",
        "lost",
        "number",
        "owner",
        "phase",
        "refusals",
        "request",
        "stamp",
        "state",
        "touched",
        "version",
        "visitors",
        "waiting",
        "wanted",
        "wide",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.U
        self.version = 0
        """Of the copy held here, or last held; before there was one, the newest that others say they had."""
        self.owner = NOBODY
        """Whom an invalidation was granted to last: he should have the page."""
        self.copyset = 0
        """Mask of all living kernels that ever touched the page."""
        self.granted: tuple[tuple[int, int], ...] = ()
        """(version, stamp) of every invalidation granted since the page was last valid here."""
        self.wanted = 0
        """READ | WRITE: what local threads wait for."""
        self.phase = Phase.IDLE
        self.request = 0
        """Id of the questions in flight, repeated by their answers."""
        self.awaiting = 0
        """Mask of the kernels whose answer is awaited."""
        self.stamp = 0
        self.losers: tuple[int, ...] = ()
        """Stamps of the writers that granted us their vote: in M, those that have not asked yet."""
        self.refusals: tuple[int, ...] = ()
        """Stamps of the writers that refused us in this vote."""
        self.abandoned: tuple[int, ...] = ()
        """Stamps given up by voters whose vote is still awaited."""
        self.waiting: tuple[tuple[int, int, int, int], ...] = ()
        """(kernel, request, stamp, version needed) of requests to be answered later; a stamp says read-for-write."""
        self.kept = NOTHING_KEPT
        """Version of the payload laid aside while a fetch awaits further answers."""
        self.fetched_by_others = False
        """While fetching: a peer fetches too."""
        self.touched = False
        """In U: a peer had the page once, so it is not a page of zeros."""
        self.visitors = 0
        """In U: mask of the living kernels that have fetched the page. With one that dies the only copy may die."""
        self.assured = False
        """While fetching: who has heard of all fetches of the page has told of them."""
        self.wide = False
        """While reading: the whole copyset is asked."""
        self.barren = 0
        """Rounds of questions in a row that found neither a copy nor a writer; SIGN_OF_LIFE if this round found one."""
        self.lost = False
        """The only valid copy died with its kernel."""

    def answered(self, kernel: int, request: int) -> bool:
        """Whether `kernel` gives an awaited answer to the question in flight; if so, it is awaited no more."""
        if request != self.request or not self.awaiting >> kernel & 1:
            return False
        self.awaiting ^= 1 << kernel
        return True

    def needed(self) -> int:
        """The lowest version not known to be stale: newer than every grant, not older than what was heard of."""
        needed = self.version
        for version, _ in self.granted:
            if version >= needed:
                needed = version + 1
        return needed

    def wait(self, kernel: int, message: Message) -> None:
        """Answer this request later; of one kernel only the newest counts."""
        others = []
        for entry in self.waiting:
            if entry[0] != kernel:
                others.append(entry)
            elif entry[1] > message.request:
                return
        self.waiting = (*others, (kernel, message.request, message.stamp, message.version))

    def bury(self, kernel: int) -> None:
        """Take a dead kernel out of everything remembered, but for the answers awaited from it."""
        self.copyset &= ~(1 << kernel)
        if self.visitors >> kernel & 1:
            self.visitors ^= 1 << kernel
            self.touched = True
        if self.owner == kernel:
            self.owner = NOBODY
        self.granted = tuple(entry for entry in self.granted if entry[1] & KERNEL_BITS != kernel)
        self.losers = tuple(stamp for stamp in self.losers if stamp & KERNEL_BITS != kernel)
        self.refusals = tuple(stamp for stamp in self.refusals if stamp & KERNEL_BITS != kernel)
        self.abandoned = tuple(stamp for stamp in self.abandoned if stamp & KERNEL_BITS != kernel)
        self.waiting = tuple(entry for entry in self.waiting if entry[0] != kernel)

    def freeze(self) -> FrozenPage:
        """All but the number, as a value, in the order of `thaw`."""
        return (
            self.state,
            self.version,
            self.owner,
            self.copyset,
            self.granted,
            self.wanted,
            self.phase,
            self.request,
            self.awaiting,
            self.stamp,
            self.losers,
            self.refusals,
            self.abandoned,
            self.waiting,
            self.kept,
            self.fetched_by_others,
            self.touched,
            self.visitors,
            self.assured,
            self.wide,
            self.barren,
            self.lost,
        )

    @classmethod
    def thaw(cls, number: int, frozen: tuple) -> "Page":  # type: ignore[type-arg]  # one type per field, listed above
        """A page that `freeze` described."""
        page = cls.__new__(cls)
        page.number = number
        (
            page.state,
            page.version,
            page.owner,
            page.copyset,
            page.granted,
            page.wanted,
            page.phase,
            page.request,
            page.awaiting,
            page.stamp,
            page.losers,
            page.refusals,
            page.abandoned,
            page.waiting,
            page.kept,
            page.fetched_by_others,
            page.touched,
            page.visitors,
            page.assured,
            page.wide,
            page.barren,
            page.lost,
        ) = frozen
        return page
