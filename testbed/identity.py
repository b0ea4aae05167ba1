"""What makes a restored guest this node and no other: handed over on its serial console, where it waits for it.

The other side is images/files/await-identity, which says what is in it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ENTROPY_BYTES = 64
WAITING = "waiting"
"""The stage at which a guest may be saved."""
IDENTITY = "identity"
"""The stage at which it is a node."""


def line(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """The identity with `files` (name → mode, content), with the time and random numbers of this moment."""
    identity = {
        "clock": time.time(),
        "entropy": base64.b64encode(os.urandom(ENTROPY_BYTES)).decode(),
        "files": {name: [mode, base64.b64encode(content).decode()] for name, (mode, content) in files.items()},
    }
    return json.dumps(identity, separators=(",", ":")).encode() + b"\n"


@contextlib.contextmanager
def handed_over(console: Path, files: Mapping[str, tuple[int, bytes]]) -> Iterator[None]:
    """Writes it to the console's socket, which stays open for this block: a UART is not fast."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(console))
        connection.sendall(line(files))
        yield
