"""Short ways to bring engines into a state, and to say what they did."""

from guest.protocol.effects import Effect, Grant, Send
from guest.protocol.engine import Engine
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.voting import VotingEngine
from orchestrator.checker.rehearsal import Rehearsal

LOSER = 2 << 16 | 1
"""The timestamp of kernel 1's write."""


def shared(kernels: int, pages: int = 1, engine: type[Engine] = VotingEngine) -> Rehearsal:
    """All kernels hold valid copies of all pages; the log is empty."""
    system = Rehearsal(kernels, pages, engine)
    for page in range(pages):
        for kernel in range(kernels):
            system.access(kernel, page, write=False)
            system.settle()
    system.log.clear()
    return system


def names(effects: list[Effect]) -> list[str]:
    """Effects by their names, messages by theirs; with a + if the page is dropped before it goes out."""
    return [
        MessageName(effect.message.name).name + "+" * effect.discard
        if isinstance(effect, Send)
        else type(effect).__name__
        for effect in effects
    ]


def sent(effects: list[Effect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def winner_with_a_loser() -> VotingEngine:
    """Kernel 0 of three has won against kernel 1, which has not asked yet."""
    engine = VotingEngine(0, range(3), 1)
    request = sent(engine.fault(0, True))[0].request
    engine.receive(1, Message(MessageName.PAGE_DATA, 0, request, 0, 0, 0b111))
    vote = sent(engine.receive(2, Message(MessageName.PAGE_DATA, 0, request, 0, 0, 0b111)))[0].request
    engine.receive(1, Message(MessageName.VOTE, 0, vote, Flag.GRANT | Flag.ALSO_WRITING, 0, 0, LOSER))
    assert engine.receive(2, Message(MessageName.VOTE, 0, vote, Flag.GRANT, 0, 0, 2)) == [Grant(0)]
    return engine
