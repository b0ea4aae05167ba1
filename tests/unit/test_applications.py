"""The daemon's side of application processes: what becomes of those that end early."""

from collections.abc import Callable
from socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair
from types import SimpleNamespace
from typing import Any, cast

from guest.daemon.daemon import Daemon
from guest.programs.application import FAILED
from guest.runs.applications import Application, Applications
from guest.runs.launcher import Launcher
from guest.runs.offer import Offer


def test_one_that_ended_before_it_was_offered_its_memory_is_heard_all_the_same() -> None:
    handlers: list[Callable[[], object]] = []
    heard: list[bytes] = []
    ended: list[str] = []

    def launch(_thread: dict[str, Any], _program_fd: int | None) -> socket:
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        with theirs:
            theirs.send(FAILED + b"SyntaxError")
        return ours

    daemon = SimpleNamespace(node=SimpleNamespace(messages={}), watch=lambda _, handler: handlers.append(handler))
    launcher = SimpleNamespace(launch=launch, ended=lambda _: "exit code 0")
    applications: Applications[Application] = Applications(
        cast(Daemon, daemon),
        cast(Launcher, launcher),
        lambda _, kind, body: heard.append(kind + body),
        lambda _, how: ended.append(how),
    )
    applications.launch(Application(0), {}, Offer(b"M", ()), None)
    for _ in range(2):
        handlers[0]()
    assert heard == [FAILED + b"SyntaxError"]
    assert ended == ["exit code 0"]
