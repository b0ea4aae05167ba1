"""What the origin, and every other kernel, know about one page in the origin protocol."""

from typing import NamedTuple

from guest.protocol.messages import Message
from guest.protocol.table import State


class Asker(NamedTuple):
    """A request in the origin's queue: of another kernel, or a fault of its own (request 0)."""

    kernel: int
    request: int
    write: bool


class HomePage:
    """The origin's record of a page, made when the page is first heard of: its entry in the directory."""

    __slots__ = ("awaiting", "holders", "lost", "number", "queue", "request", "state")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.U
        self.holders = 0
        """Mask of the kernels that have a valid copy, or have one on its way."""
        self.queue: tuple[Asker, ...] = ()
        """Who is to be served, in this order."""
        self.awaiting = 0
        """Mask of the kernels that must answer before the queue goes on."""
        self.request = 0
        """Id of the question in flight."""
        self.lost = False
        """The only valid copy died with its kernel."""

    @property
    def busy(self) -> bool:
        """Whether the queue waits for answers."""
        return self.awaiting != 0

    def answered(self, kernel: int, request: int) -> bool:
        """Whether `kernel` gives an awaited answer to the question in flight; if so, it is awaited no more."""
        if request != self.request or not self.awaiting >> kernel & 1:
            return False
        self.awaiting ^= 1 << kernel
        return True

    def freeze(self) -> tuple[object, ...]:
        """All but the number, as a value, in the order of `thaw`."""
        return self.state, self.holders, self.queue, self.awaiting, self.request, self.lost

    @classmethod
    def thaw(cls, number: int, frozen: tuple) -> "HomePage":  # type: ignore[type-arg]  # one type per field
        """A page that `freeze` described."""
        page = cls(number)
        page.state, page.holders, page.queue, page.awaiting, page.request, page.lost = frozen
        return page


class AwayPage:
    """Any other kernel's record of a page, made when the page is first heard of."""

    __slots__ = ("asking", "number", "question", "request", "state", "wanted")

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.U
        self.wanted = 0
        """READ | WRITE: what local threads wait for."""
        self.asking = False
        """Whether a request to the origin is in flight."""
        self.request = 0
        """Id of that request, repeated by its answer."""
        self.question: Message | None = None
        """The origin's question that has overtaken its answer to us."""

    @property
    def busy(self) -> bool:
        """Whether something is in flight."""
        return self.asking

    def answered(self, request: int) -> bool:
        """Whether this answers the request in flight; if so, it is in flight no more."""
        if request != self.request or not self.asking:
            return False
        self.asking = False
        return True

    def freeze(self) -> tuple[object, ...]:
        """All but the number, as a value, in the order of `thaw`."""
        return self.state, self.wanted, self.asking, self.request, self.question

    @classmethod
    def thaw(cls, number: int, frozen: tuple) -> "AwayPage":  # type: ignore[type-arg]  # one type per field
        """A page that `freeze` described."""
        page = cls(number)
        page.state, page.wanted, page.asking, page.request, page.question = frozen
        return page
