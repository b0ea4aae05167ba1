"""The memory of every kernel, page by page, and what must be true of all of them together at every step.

Checked where a page changes, for that page alone, with masks of kernels: (1) where it is writable, it is readable
nowhere else; (2) what becomes readable is what was stored last; and, as in the model checker, that effects fit the
memory they are carried out on. What a thread loads is besides compared with what the workload expects, in `world`.
"""

from collections.abc import Sequence

from guest.protocol import effects as fx
from orchestrator.simulator.setting import Content

NONE, READABLE, WRITABLE, POISONED = range(4)
"""What a kernel's memory lets threads do with a page."""


class Violation(Exception):
    """What must be true is not. `kind` names it in a word or two."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class StaleCopy(Exception):
    """A page is readable, but is not as it was stored last."""

    def __init__(self, page: int, expected: Content, found: Content) -> None:
        super().__init__(page)
        self.page, self.expected, self.found = page, expected, found


class Truth:
    """What all living kernels may do with each page, and what was stored to it last."""

    def __init__(self, names: Sequence[str], pages: int, blank: Content) -> None:
        self.names = names
        self.readable = [0] * pages
        """Masks of kernels; who may write may read."""
        self.writable = [0] * pages
        self.latest = [blank] * pages
        self.deaths = 0

    def bury(self, kernel: int) -> None:
        """The kernel's memory is gone."""
        self.deaths += 1
        others = ~(1 << kernel)
        self.readable = [mask & others for mask in self.readable]
        self.writable = [mask & others for mask in self.writable]


class Memory:
    """The pages of one kernel."""

    def __init__(self, kernel: int, pages: int, blank: Content, truth: Truth) -> None:
        self.access = [NONE] * pages
        self.content = [blank] * pages
        self._kernel = kernel
        self._bit = 1 << kernel
        self._blank = blank
        self._truth = truth
        self._kept: dict[int, Content] = {}

    def store(self, page: int, writer: int, stored: int) -> None:
        """A thread stores its elements of a page that it may write."""
        content = self.content[page]
        self.content[page] = self._truth.latest[page] = (*content[:writer], stored, *content[writer + 1 :])

    def payload(self, page: int) -> Content:
        """What a message takes along. Nobody can store to the page meanwhile."""
        self._expect(self.access[page] == READABLE, page, "sent while not write-protected")
        return self.content[page]

    def carry_out(self, effect: fx.Effect, arrived: Content | None) -> bool:
        """Do to the memory what the engine wants; true if those who wait for the page are to be woken."""
        match effect:
            case fx.Install(page, writable, wake, kept):
                content = self._kept.pop(page, None) if kept else arrived
                self._expect(self.access[page] == NONE, page, "installed over a present one")
                self._expect(content is not None, page, "installed without a payload")
                assert content is not None
                self._show(page, content, writable)
                return wake
            case fx.Keep(page):
                self._expect(arrived is not None, page, "kept without a payload")
                assert arrived is not None
                self._kept[page] = arrived
                return False
            case fx.Forget(page):
                self._expect(self._kept.pop(page, None) is not None, page, "forgotten though not kept")
                return False
            case fx.Zero(page, writable):
                self._zero(page, writable)
            case fx.Grant(page):
                self._expect(self.access[page] == READABLE, page, "granted while not write-protected")
                self._allow(page, WRITABLE)
            case fx.Protect(page):
                self._expect(self.access[page] == WRITABLE, page, "write-protected while not writable")
                self._allow(page, READABLE)
                return False
            case fx.Discard(page):
                self._expect(self.access[page] != NONE, page, "discarded while not present")
                self._allow(page, NONE)
                return False
            case fx.Poison(page):
                self._expect(self.access[page] in (NONE, POISONED), page, "given up as lost while present")
                self._expect(not self._truth.readable[page], page, "given up as lost while another kernel has it")
                self._allow(page, POISONED)
        return True

    def _zero(self, page: int, writable: bool) -> None:
        self._expect(self.access[page] == NONE and page not in self._kept, page, "zeroed while there is one")
        truth = self._truth
        if truth.deaths and not truth.readable[page]:
            truth.latest[page] = self._blank  # what the dead alone had touched is gone without a trace
        self._show(page, self._blank, writable)

    def _show(self, page: int, content: Content, writable: bool) -> None:
        latest = self._truth.latest[page]
        if content != latest:
            raise StaleCopy(page, latest, content)
        self.content[page] = content
        self._allow(page, WRITABLE if writable else READABLE)

    def _allow(self, page: int, access: int) -> None:
        truth, bit = self._truth, self._bit
        self.access[page] = access
        if access in (READABLE, WRITABLE):
            truth.readable[page] |= bit
        else:
            truth.readable[page] &= ~bit
        if access == WRITABLE:
            truth.writable[page] |= bit
        else:
            truth.writable[page] &= ~bit
        if truth.writable[page] and truth.readable[page] != truth.writable[page]:
            writers, readers = (self._list(mask) for mask in (truth.writable[page], truth.readable[page]))
            raise Violation("two copies", f"page {page} is writable in {writers} and readable in {readers}")

    def _list(self, kernels: int) -> str:
        return ", ".join(name for number, name in enumerate(self._truth.names) if kernels >> number & 1)

    def _expect(self, holds: bool, page: int, otherwise: str) -> None:
        if not holds:
            raise Violation("memory", f"node {self._truth.names[self._kernel]}, page {page}: {otherwise}")
