"""Production engines that talk to each other directly, one chosen order of events: for examples and message counts."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from guest.protocol.address_space import Operation
from guest.protocol.effects import Grant, Install, Poison, Send, Wake, Zero
from guest.protocol.engine import Engine
from guest.protocol.messages import Message
from guest.protocol.space import SpaceEngine
from guest.protocol.table import State
from guest.protocol.voting import VotingEngine


class Sent(NamedTuple):
    """A message, from whom and to whom."""

    sender: int
    receiver: int
    message: Message


class Rehearsal:
    """Kernels with in-order links and threads that only fault. Messages arrive in the order in which they were sent."""

    def __init__(self, kernels: int, pages: int, engine: Callable[[int, range, int], Engine] = VotingEngine) -> None:
        self.engines = [engine(kernel, range(kernels), pages) for kernel in range(kernels)]
        self.log: list[Sent] = []
        """All messages so far, in the order in which they were sent."""
        self.woken: list[tuple[int, int]] = []
        """(kernel, page) of every wake-up so far."""
        self._flying: deque[Sent] = deque()

    def access(self, kernel: int, page: int, write: bool) -> None:
        """A thread loads or stores; if the page's state does not allow it, the engine gets a fault."""
        state = self.engines[kernel].state(page)
        if state not in (State.N, State.M) and (write or state is not State.S):
            self.carry_out(kernel, self.engines[kernel].fault(page, write))

    def operate(self, kernel: int, operation: Operation) -> None:
        """A thread asks for an operation on the address space; the engines are `SpaceEngine`s."""
        engine = self.engines[kernel]
        assert isinstance(engine, SpaceEngine)
        self.carry_out(kernel, engine.operate(operation))

    def abandon(self, kernel: int, page: int) -> None:
        """Nobody on this kernel waits for the page any more."""
        self.carry_out(kernel, self.engines[kernel].abandon(page))

    def bury(self, kernel: int, dead: int) -> None:
        """The kernel hears that another one died."""
        self.carry_out(kernel, self.engines[kernel].peer_down(dead))

    def deliver(self) -> Sent | None:
        """Let the oldest message arrive; None if there is none."""
        if not self._flying:
            return None
        sent = self._flying.popleft()
        self.carry_out(sent.receiver, self.engines[sent.receiver].receive(sent.sender, sent.message))
        return sent

    def settle(self) -> None:
        """Let everything arrive."""
        while self.deliver():
            pass

    def states(self, page: int) -> str:
        """The page's states in all kernels, as in `SIM`."""
        return "".join(engine.state(page).name for engine in self.engines)

    def carry_out(self, kernel: int, effects: Iterable[object]) -> None:
        """Send what is to be sent, note who wakes."""
        for effect in effects:
            if isinstance(effect, Send):
                sent = Sent(kernel, effect.to, effect.message)
                self.log.append(sent)
                self._flying.append(sent)
            elif isinstance(effect, Grant | Zero | Wake | Poison) or (isinstance(effect, Install) and effect.wake):
                self.woken.append((kernel, effect.page))


def shared_array(
    roles: str, pages: int, iterations: int, *, at_once: bool = True, engine: type[Engine] = VotingEngine
) -> Rehearsal:
    """What the shared-array workload costs: in each iteration all writers (W) store to every page, then everyone loads
    from every page. `roles` has one letter a kernel. Writers fault at the same moment, or one after the other."""
    system = Rehearsal(len(roles), pages, engine)
    writers = [kernel for kernel, role in enumerate(roles) if role == "W"]
    for _ in range(iterations):
        for page in range(pages):
            for kernel in writers:
                system.access(kernel, page, write=True)
                if not at_once:
                    system.settle()
        system.settle()
        for page in range(pages):
            for kernel in range(len(roles)):
                system.access(kernel, page, write=False)
        system.settle()
    return system
