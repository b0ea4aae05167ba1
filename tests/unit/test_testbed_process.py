import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import process
from testbed.process import ProcessId, end, naming, spawn_detached

# Says when it is ready, so that nobody has to guess; "stubborn" ignores the request to end.
SLEEPER = """
import signal, sys
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def sleeper(children: list[subprocess.Popen[bytes]], *words: str) -> ProcessId:
    child = subprocess.Popen([sys.executable, "-c", SLEEPER, *(words or ("gentle",))], stdout=subprocess.PIPE)
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return ProcessId.of(child.pid)


def test_a_process_is_alive_until_it_ends_and_not_while_it_waits_to_be_reaped(
    children: list[subprocess.Popen[bytes]],
) -> None:
    one = sleeper(children)
    assert one.alive()
    children[0].kill()
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert Path(f"/proc/{one.pid}").exists()
    assert not one.alive()


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another life of the host"}])
def test_a_pid_that_belongs_to_another_process_now_is_never_signalled(
    children: list[subprocess.Popen[bytes]], change: dict[str, object]
) -> None:
    actual = sleeper(children)
    recorded = replace(actual, **change)  # type: ignore[arg-type]
    assert not recorded.alive()
    assert recorded.open() is None
    assert end([recorded]) == []
    assert actual.alive()


def test_ending_asks_first_and_kills_who_does_not_listen(children: list[subprocess.Popen[bytes]]) -> None:
    gentle, stubborn = sleeper(children), sleeper(children, "stubborn")
    assert end([gentle, stubborn], grace_s=0.2) == []
    assert not gentle.alive()
    assert not stubborn.alive()


def test_who_is_killed_without_grace_has_ended_when_that_returns(children: list[subprocess.Popen[bytes]]) -> None:
    stubborn = [sleeper(children, "stubborn") for _ in range(8)]
    assert end(stubborn, grace_s=0.0) == []
    assert not any(each.alive() for each in stubborn)


def test_ending_what_has_ended_does_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    one = ProcessId(child.pid, 1, process.boot_id())
    child.wait()
    assert end([one]) == []
    with pytest.raises(ProcessLookupError):
        ProcessId.of(child.pid)


def test_a_name_with_blanks_and_brackets_does_not_confuse_the_start_time(
    children: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    children.append(subprocess.Popen([odd, "1000"], stdout=subprocess.PIPE))
    one = ProcessId.of(children[0].pid)
    assert one.alive()
    assert one.start_ticks >= ProcessId.of(os.getpid()).start_ticks


def test_only_machines_and_servers_that_name_the_folder_are_found(
    children: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    mine = f"{tmp_path}/run/"
    # Their first word is the one given here, whatever program they are.
    for name, file in (
        ("qemu-system-odd", mine + "a.initramfs"),
        ("qemu-system-odd", f"{tmp_path}/run2/a"),
        ("vim", mine),
    ):
        argv = [name, "-c", SLEEPER, "gentle", file]
        child = subprocess.Popen(argv, executable=sys.executable, stdout=subprocess.PIPE)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    assert [each.pid for each in naming(mine)] == [children[0].pid]


def test_a_detached_process_has_its_own_session_its_log_and_only_the_files_it_was_given(tmp_path: Path) -> None:
    code = (
        "import os,sys; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd'))); os.write(5, b'hello')"
    )
    read, write = os.pipe()
    spare = os.open(tmp_path, os.O_RDONLY)
    one = spawn_detached([sys.executable, "-c", code], {5: write}, tmp_path / "log")
    os.close(write)
    os.waitpid(one.pid, 0)
    assert os.read(read, 100) == b"hello"
    # 0, 1, 2, the one that was given, and the listing itself.
    assert (tmp_path / "log").read_text() == "True ['0', '1', '2', '3', '5']\n"
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    os.close(read)
    os.close(spare)


def test_descriptors_that_change_places_are_not_lost(tmp_path: Path) -> None:
    (one_in, one), (two_in, two) = os.pipe(), os.pipe()
    code = f"import os; os.write({one}, b'one'); os.write({two}, b'two')"
    child = spawn_detached([sys.executable, "-c", code], {one: two, two: one}, tmp_path / "log")
    os.waitpid(child.pid, 0)
    for descriptor in (one, two):
        os.close(descriptor)
    assert (os.read(one_in, 9), os.read(two_in, 9)) == (b"two", b"one")
    for descriptor in (one_in, two_in):
        os.close(descriptor)
