"""Round trips over TCP between two guests: what `testbed bench` compares the rings of shared memory with.

    python3 -m guest.bench.tcp_round_trip serve ADDRESS          prints the port it listens on, answers one peer, ends
    python3 -m guest.bench.tcp_round_trip measure ADDRESS PORT COUNT
                                                           prints {"samples_us": [...]}, one sample a round trip

A message is 64 bytes, as in a ring; each end blocks in the kernel between messages, as a program on a network does.
"""

import json
import socket
import sys
from time import perf_counter_ns

MESSAGE_BYTES = 64
WARM_UP = 16
"""Round trips that are not counted: address resolution, the first page faults of the interpreter."""
PATIENCE_S = 60.0
"""A peer that is silent for so long is gone; a round trip takes milliseconds at most."""


def _receive(connection: socket.socket, buffer: memoryview) -> bool:
    """Fill the buffer; False when the peer closed the connection before its first byte."""
    filled = 0
    while filled < len(buffer):
        count = connection.recv_into(buffer[filled:])
        if count == 0:
            if filled:
                raise ConnectionError(f"the peer closed inside a message, after {filled} of {len(buffer)} bytes")
            return False
        filled += count
    return True


def serve(listener: socket.socket) -> int:
    """Answer one peer until it closes. Returns the number of messages."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, served = memoryview(bytearray(MESSAGE_BYTES)), 0
        while _receive(connection, buffer):
            connection.sendall(buffer)
            served += 1
    return served


def measure(address: str, port: int, count: int) -> list[float]:
    """Microseconds of each of `count` round trips."""
    samples: list[float] = []
    with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(MESSAGE_BYTES))
        for _ in range(WARM_UP + count):
            start = perf_counter_ns()
            connection.sendall(buffer)
            if not _receive(connection, buffer):
                raise ConnectionError(f"{address}:{port} closed after {len(samples)} round trips")
            samples.append((perf_counter_ns() - start) / 1e3)
    return samples[WARM_UP:]


def main(arguments: list[str]) -> int:
    """The command line above."""
    match arguments:
        case ["serve", address]:
            with socket.create_server((address, 0)) as listener:
                listener.settimeout(PATIENCE_S)
                sys.stdout.write(f"{listener.getsockname()[1]}\n")
                sys.stdout.flush()
                serve(listener)
        case ["measure", address, port, count]:
            sys.stdout.write(json.dumps({"samples_us": measure(address, int(port), int(count))}) + "\n")
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
