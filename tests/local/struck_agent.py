"""An agent that sends itself a signal at the very page fault that the test names when it opens the memory.

`"struck": {"kernel": 1, "faults": 99, "signal": 9}` in the command `open`: kernel 1 dies when its 99th fault is served,
and before it sees another one.
"""

import os
from collections.abc import Callable
from typing import Any

from guest import agent
from guest.agent import Agent
from guest.commands import Answer
from guest.daemon import daemon
from guest.memory.faults import FaultsInFlight

struck: dict[str, int] = {}


class Struck(FaultsInFlight):
    """Faults are counted as they are served."""

    def __init__(self, count: Callable[[int], None]) -> None:
        super().__init__(count)
        self._left = struck.get("faults", 0)

    def served(self, page: int, end_ns: int, local: bool) -> None:
        super().served(page, end_ns, local)
        self.settle()
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), struck["signal"])


def opened(self: Agent, fields: dict[str, Any]) -> Answer:
    struck.clear()
    wanted = fields.get("struck", {})
    if wanted.get("kernel") == fields["kernel"]:
        struck.update(wanted)
    return real_open(self, fields)


real_open = Agent._open
setattr(Agent, "_open", opened)  # noqa: B010
setattr(daemon, "FaultsInFlight", Struck)  # noqa: B010 - it is not exported
if __name__ == "__main__":
    agent.main()
