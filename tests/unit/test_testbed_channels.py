"""The files of an SSH channel: a real connection, both of its ends in this process."""

import gc
import socket
import sys
import threading
from collections.abc import Iterator

import paramiko
import pytest
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from testbed.channels import reader, writer


class _LetsIn(paramiko.ServerInterface):
    def get_allowed_auths(self, username: str) -> str:
        return "none"

    def check_auth_none(self, username: str) -> int:
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED


@pytest.fixture
def ends() -> Iterator[tuple[paramiko.Channel, paramiko.Channel]]:
    ours, theirs = (paramiko.Transport(end) for end in socket.socketpair())
    try:
        theirs.add_server_key(paramiko.ECDSAKey.generate())
        theirs.start_server(threading.Event(), _LetsIn())  # with an event it does not wait for the other end
        ours.start_client(timeout=30.0)
        ours.auth_none("somebody")
        here = ours.open_session(timeout=30.0)
        there = theirs.accept(30.0)
        assert there is not None
        yield here, there
    finally:
        ours.close()
        theirs.close()


def test_lines_and_whole_blocks_go_both_ways(ends: tuple[paramiko.Channel, paramiko.Channel]) -> None:
    here, there = ends
    to_there, from_here = writer(here), reader(there)
    block = bytes(range(256)) * 8000  # more than a packet, less than what may be on its way
    assert to_there.write(b'{"op": "run"}\n') == 14
    to_there.write(block)
    assert from_here.readline() == b'{"op": "run"}\n'
    assert from_here.read(len(block)) == block
    writer(there).write(memoryview(b"one\ntwo\n"))
    back = reader(here)
    assert [back.readline(), back.readline()] == [b"one\n", b"two\n"]


def test_closing_the_writer_is_the_readers_end_and_nothing_can_follow(
    ends: tuple[paramiko.Channel, paramiko.Channel],
) -> None:
    here, there = ends
    to_there = writer(here)
    to_there.write(b"the last")
    to_there.close()
    to_there.close()
    assert list(reader(there)) == [b"the last"]
    with pytest.raises(ValueError, match="closed"):
        to_there.write(b"more")


def test_a_closed_channel_is_an_os_error_for_who_writes(ends: tuple[paramiko.Channel, paramiko.Channel]) -> None:
    here, _ = ends
    to_there = writer(here)
    here.close()
    with pytest.raises(OSError, match="closed"):
        to_there.write(b"more")


def test_files_that_are_collected_in_a_cycle_say_nothing(
    ends: tuple[paramiko.Channel, paramiko.Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = ends
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    files = [writer(here), reader(here)]
    parts = [gc.get_referents(file) for file in files]
    cycle: list[object] = [files]
    cycle.append(cycle)
    del files
    gc.collect()  # leaves the parts before the files, which are then closed after them
    del parts
    del cycle
    here.close()
    gc.collect()
    assert not said
