"""The line in ~/.ssh/config by which ssh knows all testbeds."""

import os
from pathlib import Path

from images.errors import writing
from testbed.keys import write_private


def install(line: str) -> tuple[Path, bool]:
    """Puts `line` at the top of the user's configuration unless it is there: the file, and whether it was changed.

    At the top, because a line below `Host` belongs to that host alone. A configuration that is a link to another place
    stays one. Raises HostError when there is no room.
    """
    file = Path("~/.ssh/config").expanduser()
    with writing(file):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        place = file.resolve()
        text = place.read_text() if place.exists() else ""
        if line in text.splitlines():
            return file, False
        mode = place.stat().st_mode & 0o777 if text else 0o600
        draft = place.with_name(f".{place.name}.{os.getpid()}")
        write_private(draft, f"{line}\n{text}".encode())
        draft.chmod(mode)
        draft.replace(place)
    return file, True
