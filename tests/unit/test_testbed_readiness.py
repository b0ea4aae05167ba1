import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import activity, readiness
from testbed.console import Console
from testbed.deadline import Deadline
from testbed.errors import GuestError
from testbed.process import ProcessId
from testbed.readiness import Boot, Cancelled, await_ready


class Guest:
    """Stands in for a machine: a process that lives, a console that is written, a port that answers when told to."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(["sleep", "1000"])
        self.console = folder / "x86.console"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.boot = Boot(
            node="x86",
            kind="x86_64, tcg",
            console=Console(self.console),
            qemu=ProcessId.of(self.process.pid),
            port=self.listener.getsockname()[1],
            started=time.monotonic(),
            command_line="qemu-system-x86_64 -S",
        )
        self.said: list[str] = []
        self.stages: list[dict[str, float]] = []
        self.on_say: Callable[[str], None] = lambda _line: None

    def writes(self, text: str) -> None:
        with self.console.open("a") as file:
            file.write(text)

    def answers(self, banner: bytes) -> None:
        """Sends `banner` to whoever connects, from now on."""

        def serve() -> None:
            while True:
                try:
                    connection, _ = self.listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(banner)

        threading.Thread(target=serve, daemon=True).start()

    def wait(self, seconds: float = 20.0, cancel: threading.Event | None = None) -> float:
        def say(line: str) -> None:
            self.said.append(line)
            self.on_say(line)

        return await_ready(self.boot, Deadline(seconds), say, cancel or threading.Event(), self.stages.append)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    yield made
    made.end()


READY = "testbed: stage=init t=1.5\ntestbed: stage=sshd t=2.5\n"


def test_ready_is_the_mark_and_the_banner(guest: Guest) -> None:
    guest.writes(READY)
    guest.answers(b"SSH-2.0-OpenSSH\r\n")
    took_s = guest.wait()
    assert 0 < took_s < 20
    assert guest.stages[-1] == {"init": 1.5, "sshd": 2.5}


def test_a_port_that_accepts_is_not_ready(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "BANNER_S", 0.05)
    guest.writes(READY)  # the listener accepts, as QEMU's forward does, and says nothing
    with pytest.raises(GuestError, match=r"is not ready after 0\.3 s"):
        guest.wait(0.3)


def test_something_else_at_the_port_is_not_ready(guest: Guest) -> None:
    guest.writes(READY)
    guest.answers(b"HTTP/1.1 400\r\n")
    with pytest.raises(GuestError, match=r"is not ready after 0\.3 s"):
        guest.wait(0.3)


def test_a_banner_without_the_mark_is_not_ready(guest: Guest) -> None:
    guest.writes("testbed: stage=init t=1.5\n")
    guest.answers(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(GuestError, match="last stage: init"):
        guest.wait(0.2)


def test_a_guest_that_dies_ends_the_wait_at_once_with_all_that_is_known(guest: Guest) -> None:
    guest.writes("testbed: stage=init t=1.5\nsomething odd\n")
    guest.process.kill()
    begin = time.monotonic()
    with pytest.raises(GuestError, match=r"node x86 \(x86_64, tcg\) ended") as caught:
        guest.wait(60)
    assert time.monotonic() - begin < 10
    for part in ("last stage: init", "    something odd", "QEMU was: qemu-system-x86_64 -S"):
        assert part in caught.value.message
    assert "ran out of memory" in caught.value.hint


def test_a_guest_that_died_before_anybody_looked_is_seen_too(guest: Guest) -> None:
    guest.process.kill()
    guest.process.wait()
    with pytest.raises(GuestError, match="ended") as caught:
        guest.wait(60)
    assert "(nothing)" in caught.value.message


def test_a_panic_is_an_end_though_the_process_lives(guest: Guest) -> None:
    guest.writes("[ 1.0] Kernel panic - not syncing: Attempted to kill init!\n")
    with pytest.raises(GuestError, match="panicked: Kernel panic - not syncing: Attempted to kill init!"):
        guest.wait(60)


def test_the_guests_own_reason_is_told(guest: Guest) -> None:
    guest.writes("testbed: stage=initramfs t=1.0\ntestbed: stage=failed reason=no disk: /dev/vda is not there\n")
    with pytest.raises(GuestError, match="cannot go on: no disk: /dev/vda is not there") as caught:
        guest.wait(60)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("last_words", "told"),
    [
        ("testbed: stage=failed reason=/dev/vda cannot be mounted\n", "cannot go on: /dev/vda cannot be mounted"),
        ("[ 1.0] Kernel panic - not syncing: no init found\n", "panicked: Kernel panic - not syncing: no init found"),
        ("testbed: stage=initramfs t=1.0\n", r"\(x86_64, tcg\) ended\n"),
    ],
)
@pytest.mark.parametrize("before_anybody_looked", [True, False])
def test_last_words_between_two_looks_are_heard(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, last_words: str, told: str, before_anybody_looked: bool
) -> None:
    def ends() -> None:
        guest.writes(last_words)
        guest.process.kill()
        guest.process.wait()

    if before_anybody_looked:
        ends()
    else:
        looked: list[Path] = []
        look = Console.update

        def looked_at_just_before(console: Console) -> list[str]:
            found = look(console)
            if not looked:
                looked.append(console.path)
                ends()
            return found

        monkeypatch.setattr(Console, "update", looked_at_just_before)
    with pytest.raises(GuestError, match=told):
        guest.wait(60)


def test_waiting_says_what_for(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "SAY_S", 0.0)
    guest.writes("testbed: stage=init t=1.5\n")
    cancel = threading.Event()
    guest.on_say = lambda _line: cancel.set()
    with pytest.raises(Cancelled):
        guest.wait(60, cancel)
    assert guest.said[0] == "x86: 0 s, stage init, waiting for stage sshd (60 s left)"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stillness is noticed within a moment."""
    monkeypatch.setattr(activity, "SAMPLE_S", 0.05)
    monkeypatch.setattr(readiness, "STILL_S", 0.1)
    monkeypatch.setattr(readiness, "HANG_S", 0.3)


def monitor_says(monkeypatch: pytest.MonkeyPatch, guest: Guest, *states: str) -> list[str]:
    """The machine's monitor: a state for each time it is asked, the last one for ever; returns what it was asked."""
    answers = list(states)
    asked: list[str] = []

    class Asked:
        def __init__(self, node: str, path: Path) -> None:
            asked.append(f"{node} {path.name}")

        def __enter__(self) -> "Asked":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        @property
        def status(self) -> str:
            return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(readiness, "Monitor", Asked)
    guest.boot.monitor = Path("/run/x86.qmp")
    return asked


@pytest.mark.usefixtures("soon")
def test_a_guest_that_does_nothing_hangs_and_nobody_waits_for_the_time_out(guest: Guest) -> None:
    guest.writes("testbed: stage=init t=1.5\n")
    with pytest.raises(GuestError, match=r"node x86 \(x86_64, tcg\) hangs: it has done nothing for \d+ s") as caught:
        guest.wait(1000)
    assert "last stage: init" in caught.value.message
    assert "waits for something" in caught.value.hint


@pytest.mark.usefixtures("soon")
def test_a_guest_that_works_is_slow_and_does_not_hang(guest: Guest) -> None:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        guest.boot.qemu = ProcessId.of(busy.pid)
        with pytest.raises(GuestError, match="is not ready after 1 s"):
            guest.wait(1)
        busy.kill()


@pytest.mark.usefixtures("soon")
def test_a_machine_that_qemu_has_stopped_is_told_with_qemus_word(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = monitor_says(monkeypatch, guest, "internal-error")
    with pytest.raises(GuestError, match="has stopped: QEMU calls its state internal-error"):
        guest.wait(1000)
    assert asked == ["x86 x86.qmp"]


@pytest.mark.usefixtures("soon")
def test_a_machine_that_somebody_holds_is_waited_for(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = monitor_says(monkeypatch, guest, "paused", "paused", "paused", "paused", "running")
    with pytest.raises(GuestError, match="hangs"):
        guest.wait(1000)
    assert len(asked) > 4
