"""A machine's monitor, spoken to over a real socket; the other end is QEMU's protocol in a few lines."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.monitor_session import ask
from orchestrator.errors import InputError
from testbed import sockets
from testbed.deadline import Deadline
from testbed.errors import GuestError
from testbed.machine import Node
from testbed.monitor import Monitor, Refused
from testbed.process import ProcessId
from testbed.record import NodeRecord
from testbed.spec import NodeSpec

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}


@contextmanager
def qemu(path: Path, answer: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Iterator[None]:
    """A monitor that serves one client, in small pieces, and leaves when it has no answer."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as lines:

            def say(message: dict[str, Any]) -> None:
                text = json.dumps(message) + "\r\n"
                for piece in (text[:7], text[7:]):
                    connection.sendall(piece.encode())

            say(GREETING)
            for line in lines:
                answers = answer(json.loads(line))
                for message in answers:
                    say(message)
                if not answers:
                    return

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        yield
    finally:
        server.join(10)
        listener.close()
        assert not server.is_alive()


def answers(command: dict[str, Any]) -> list[dict[str, Any]]:
    match command:
        case {"execute": "qmp_capabilities"}:
            return [{"return": {}}]
        case {"execute": "query-status"}:
            return [{"event": "STOP", "data": {}}, {"return": {"status": "paused", "running": False}}]
        case {"execute": "human-monitor-command", "arguments": {"command-line": line}}:
            return [{"return": f"you said {line}\r\n"}]
    return [{"error": {"class": "CommandNotFound", "desc": f"The command {command['execute']} has not been found"}}]


def test_answers_are_told_from_events_and_refusals_from_answers(tmp_path: Path) -> None:
    with qemu(tmp_path / "m", answers), Monitor("arm", tmp_path / "m") as monitor:
        assert monitor.status == "paused"
        assert monitor.human('info "x"') == 'you said info "x"\n'
        with pytest.raises(Refused, match="node arm: QEMU refuses 'fly': The command fly has not been found"):
            monitor.execute("fly")
        assert monitor.status == "paused"


def test_whoever_logs_in_to_a_machine_that_is_held_is_told_so_at_once(tmp_path: Path) -> None:
    node = Node(
        "mine", NodeSpec("arm", "aarch64", 512 << 20), NodeRecord(qemu=ProcessId.of(os.getpid()), ssh_port=1), tmp_path
    )
    assert node.ssh_command()[-1] == "arm.mine"  # no monitor there: ssh has to find out
    path = sockets.monitor(tmp_path, "arm")
    with qemu(path, answers), pytest.raises(GuestError, match="node arm is paused") as caught:
        node.ssh_command()
    assert "testbed fault resume arm.mine" in caught.value.hint


def test_a_question_may_be_hmp_or_qmp_by_name_or_as_json(tmp_path: Path) -> None:
    with qemu(tmp_path / "m", answers), Monitor("arm", tmp_path / "m") as monitor:
        assert ask(monitor, "info registers", qmp=False) == "you said info registers"
        assert json.loads(ask(monitor, "query-status", qmp=True))["status"] == "paused"
        said = '{"execute": "human-monitor-command", "arguments": {"command-line": "info"}}'
        assert json.loads(ask(monitor, said, qmp=True)) == "you said info\r\n"
        for wrong in ("{", '{"command": 1}', '{"execute": "a", "arguments": 1}'):
            with pytest.raises(InputError, match="expected"):
                ask(monitor, wrong, qmp=True)


def test_a_monitor_that_is_taken_does_not_answer_and_says_why(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "m"))
        listener.listen(1)
        with pytest.raises(GuestError, match=r"node arm: its monitor does not answer in 0\.05 s") as caught:
            Monitor("arm", tmp_path / "m", Deadline(0.05))
        assert "one at a time" in caught.value.hint


def test_a_monitor_that_is_not_there_or_goes_is_the_guests_failure(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no monitor at"):
        Monitor("arm", tmp_path / "m")

    def leave(_command: dict[str, Any]) -> list[dict[str, Any]]:
        return []

    with qemu(tmp_path / "m", leave), pytest.raises(GuestError, match="its monitor has gone"):
        Monitor("arm", tmp_path / "m")


@pytest.mark.parametrize("said", [b"hello\n", b"[1]\n", b"\xff\n"])
def test_what_is_no_monitor_is_told_from_one(tmp_path: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "m"))
        listener.listen(1)

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)

        speaker = threading.Thread(target=speak)
        speaker.start()
        with pytest.raises(GuestError, match="expected an object of JSON"):
            Monitor("arm", tmp_path / "m")
        speaker.join()


def test_sockets_are_taken_from_everybody_else_and_files_are_left_as_they_are(tmp_path: Path) -> None:
    deep = tmp_path / "l" / "lib"
    deep.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two:
        one.bind(str(tmp_path / "a.sock"))
        two.bind(str(deep / "b.sock"))
        for path in (tmp_path / "a.sock", deep / "b.sock"):
            path.chmod(0o775)
        (tmp_path / "file").touch(0o664)
        (tmp_path / "link").symlink_to(tmp_path / "file")
        before = (tmp_path / "file").stat().st_mode
        sockets.make_private(tmp_path)
        assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a.sock", deep / "b.sock")] == [0o600, 0o600]
        assert (tmp_path / "file").stat().st_mode == before
        assert os.access(tmp_path / "a.sock", os.W_OK)
