"""Agents that need no start: `python3 -S -m guest.resident PORT LOG`, which ends when they can be had.

The process that stays has everything imported, and forks an agent for each connection to the port on the guest's own
loopback. A guest's state is saved with it in memory: whoever restores that state has an agent at once. An agent's
standard error is the file LOG, with a last line that says how it ended.
"""

import gc
import os
import signal
import sys
from socket import IPPROTO_TCP, TCP_NODELAY, create_server, socket

from guest import agent
from guest.link.pci import load_drivers

ENDED = "agent ended: "


def main() -> None:
    """Listen, and go on in the background."""
    listener = create_server(("127.0.0.1", int(sys.argv[1])))
    load_drivers()
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    gc.collect()
    gc.freeze()  # forked processes share these pages; a collection would copy them
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            _supervise(connection, sys.argv[2])
        connection.close()


def _supervise(connection: socket, file: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    child = os.fork()
    if not child:
        connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        connection.close()
        agent.main()
        os._exit(0)
    connection.close()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    os.write(log, f"{ENDED}{how}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
