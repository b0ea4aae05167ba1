"""A person at a console: the terminal is a real one, the machine's end of the line is a socket."""

import os
import pty
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.commands.console_session import attach
from orchestrator.errors import InputError
from testbed import sockets
from testbed.errors import GuestError
from testbed.machine import Node
from testbed.process import ProcessId
from testbed.record import NodeRecord
from testbed.spec import NodeSpec


@pytest.fixture
def node(tmp_path: Path) -> Node:
    known = NodeRecord(qemu=ProcessId.of(os.getpid()), ssh_port=40000)
    node = Node("mine", NodeSpec("arm", "aarch64", 512 << 20), known, tmp_path)
    node.console.write_text("testbed: stage=sshd t=2.0\n")
    return node


class Terminal:
    """A terminal whose keys and screen the test has; the session runs on another thread."""

    def __init__(self, node: Node) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(sockets.console(node.directory, node.name)))
        self.listener.listen(1)
        self.keys, self.inner = pty.openpty()
        self.ended: list[BaseException | None] = []
        self.session = threading.Thread(target=self._run, args=(node,), daemon=True)
        self.session.start()
        self.machine, _ = self.listener.accept()

    def _run(self, node: Node) -> None:
        try:
            attach(node, self.inner, self.inner)
            self.ended.append(None)
        except Exception as error:  # noqa: BLE001 - told to the test
            self.ended.append(error)

    def end(self) -> BaseException | None:
        self.session.join(10)
        (how,) = self.ended
        return how

    def close(self) -> None:
        self.machine.close()
        self.listener.close()
        self.session.join(10)
        os.close(self.keys)
        os.close(self.inner)


@pytest.fixture
def terminal(node: Node) -> Iterator[Terminal]:
    terminal = Terminal(node)
    yield terminal
    terminal.close()


def test_keys_go_in_as_they_are_and_words_come_out_until_the_person_lets_go(terminal: Terminal) -> None:
    terminal.machine.sendall(b"login \xff")
    assert os.read(terminal.keys, 100) == b"login \xff"
    os.write(terminal.keys, b"ls\x03\r")
    assert terminal.machine.recv(100) == b"ls\x03\r"
    os.write(terminal.keys, b"last\x1dnot this")
    assert terminal.machine.recv(100) == b"last"
    assert terminal.end() is None


def test_a_machine_that_ends_says_so(terminal: Terminal) -> None:
    terminal.machine.close()
    how = terminal.end()
    assert isinstance(how, GuestError)
    assert "node arm: its console has closed" in how.message


def test_a_second_one_is_sent_away_and_told_about_the_log(terminal: Terminal, node: Node) -> None:
    with pytest.raises(InputError, match="found somebody at the console of arm already") as caught:
        attach(node, 0, 1)
    assert "--log" in caught.value.hint
