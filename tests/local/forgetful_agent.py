"""An agent whose protocol has one rule broken: it grants a write to another kernel, and reads on from its own copy."""

from guest import agent
from guest.protocol.effects import Effect
from guest.protocol.messages import Flag, Message
from guest.protocol.page import Page
from guest.protocol.registry import PROTOCOLS
from guest.protocol.table import S
from guest.protocol.voting import VotingEngine


class KeepsTheCopy(VotingEngine):
    """An invalidation is granted, and the copy kept."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        if page.state is S and not page.stamp:
            self._vote(page, sender, message, Flag.GRANT, effects)
        else:
            super().judge(page, sender, message, effects)


PROTOCOLS["voting"] = KeepsTheCopy
if __name__ == "__main__":
    agent.main()
