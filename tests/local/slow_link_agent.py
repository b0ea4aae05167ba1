"""An agent whose link takes a while to be had, as a device of an emulated guest does."""

import select
from typing import Any

from guest import agent, commands
from guest.link.link import Link

TAKES_S = 0.6


def open_slowly(fields: dict[str, Any], kernel: int) -> Link:
    select.select([], [], [], TAKES_S)
    return commands.open_link(fields, kernel)


setattr(agent, "open_link", open_slowly)  # noqa: B010 - it is not exported
if __name__ == "__main__":
    agent.main()
