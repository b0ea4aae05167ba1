"""One command on many nodes at once, over the real ssh; what they write is told apart by the node's name."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from images.errors import Failure
from orchestrator.output import printable, put, reader_left, tell


@dataclass(frozen=True)
class Ended:
    """How the command ended on one node. `exit_code` is the command's, or 255 from ssh when the connection broke."""

    exit_code: int
    stdout: str
    stderr: str


def run_everywhere(commands: Mapping[str, list[str]], *, shown: bool) -> dict[str, Ended]:
    """Runs each node's command line, all at once, to their ends; with `shown`, every line as soon as it is complete.

    Whatever interrupts us ends all connections. Where nobody reads what is shown any more (`| head`), the command finds
    nobody who takes what it writes. Raises HostError when there is no room for it.
    """
    width = max(len(node) for node in commands)
    lock = threading.Lock()
    kept: dict[str, tuple[list[str], list[str]]] = {node: ([], []) for node in commands}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[Exception] = []
    all_read: list[threading.Event] = []
    with ExitStack() as ends:
        for node, words in commands.items():
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            processes[node] = ends.enter_context(process)
            pipes = ((process.stdout, put, sys.stdout), (process.stderr, tell, sys.stderr))
            for (pipe, write, stream), lines in zip(pipes, kept[node], strict=True):
                assert pipe is not None
                say = _sayer(f"{node:{width}} | ", write, lock, plain=not stream.isatty()) if shown else _silent
                read = threading.Event()
                arguments = (pipe, lines, say, failed, read)
                threading.Thread(target=_read, args=arguments, name=f"output of {node}", daemon=True).start()
                # Not the thread's end: Python 3.11 takes a thread whose `join` a signal has interrupted for ended.
                all_read.append(read)
                ends.callback(read.wait)  # before its pipe is closed by the process's end, which is after the kill
            ends.callback(process.kill)
        for read in all_read:
            read.wait()
        codes = {node: process.wait() for node, process in processes.items()}
    if failed:
        raise failed[0]
    codes = {node: code if code >= 0 else 128 - code for node, code in codes.items()}  # as a shell says it
    return {node: Ended(codes[node], "".join(out), "".join(err)) for node, (out, err) in kept.items()}


def _read(
    pipe: IO[bytes], lines: list[str], say: Callable[[str], None], failed: list[Exception], read: threading.Event
) -> None:
    try:
        with pipe:
            for raw in pipe:
                line = raw.decode("utf-8", "replace")
                lines.append(line)
                say(line)
                if reader_left():
                    return
    except (Failure, OSError) as error:
        failed.append(error)
    finally:
        read.set()


def _silent(_line: str) -> None:
    pass


def _sayer(prefix: str, write: Callable[[str], None], lock: threading.Lock, *, plain: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        text = line.rstrip("\r\n")
        # A guest's bytes are its own affair in a file; on a terminal they must not paint over another guest's lines.
        shown = text if plain else printable(text.expandtabs())
        with lock:
            write(f"{prefix}{shown}\n")

    return say
