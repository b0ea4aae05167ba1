"""An agent whose link takes a while to be had, as a device of an emulated guest does.

When it has it, it says so in the file that `LINK_OPENED` of its environment names, in seconds of CLOCK_MONOTONIC.
"""

import os
import select
import time
from pathlib import Path
from typing import Any

from guest import agent, commands
from guest.link.link import Link

TAKES_S = 0.6


def open_slowly(fields: dict[str, Any], kernel: int) -> Link:
    select.select([], [], [], TAKES_S)
    link = commands.open_link(fields, kernel)
    with Path(os.environ["LINK_OPENED"]).open("a") as opened:
        print(time.monotonic(), file=opened)
    return link


setattr(agent, "open_link", open_slowly)  # noqa: B010 - it is not exported
if __name__ == "__main__":
    agent.main()
