"""One command on many nodes; here the nodes are shells of this host."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from images.errors import HostError
from orchestrator.commands import copying, everywhere
from orchestrator.commands.copying import scp_command
from orchestrator.commands.everywhere import run_everywhere
from orchestrator.errors import InputError


def shell(line: str) -> list[str]:
    return ["sh", "-c", line]


def test_lines_are_told_apart_and_each_keeps_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {"x86": shell("echo one; echo two; echo wrong >&2; exit 3"), "big-arm": shell("printf 'no end'")}
    ended = run_everywhere(commands, shown=True)
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("x86")] == ["x86     | one", "x86     | two"]
    assert "big-arm | no end\n" in out
    assert err == "x86     | wrong\n"
    assert {node: each.exit_code for node, each in ended.items()} == {"x86": 3, "big-arm": 0}
    assert (ended["x86"].stdout, ended["x86"].stderr, ended["big-arm"].stdout) == ("one\ntwo\n", "wrong\n", "no end")


def test_they_run_side_by_side_and_not_one_after_the_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    wait = "mkfifo {0} 2>/dev/null; echo met > {0}"
    meet = "until [ -p {0} ]; do :; done; cat {0}"
    ended = run_everywhere(
        {
            "a": shell(f"{wait.format(one)}; {meet.format(two)}"),
            "b": shell(f"{meet.format(one)}; {wait.format(two)}"),
        },
        shown=False,
    )
    assert [each.stdout for each in ended.values()] == ["met\n", "met\n"]


def test_nothing_is_shown_when_only_the_answers_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_everywhere({"x86": shell("echo one; echo wrong >&2")}, shown=False)["x86"].stdout == "one\n"
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_guest_cannot_paint_over_anothers_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    run_everywhere({"x86": shell(r"printf 'a\tb \033[2Jc\rd\n'")}, shown=True)
    assert capsys.readouterr().out == "x86 | a       b \\x1b[2Jc\\rd\n"


def test_who_writes_without_end_ends_when_the_reader_has_left() -> None:
    program = """
from orchestrator.output import begin
from orchestrator.commands.everywhere import run_everywhere
begin()
ended = run_everywhere({"x86": ["sh", "-c", "yes; true"], "arm": ["yes"]}, shown=True)
assert ended["arm"].exit_code == 141, ended["arm"]
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = f"timeout 20 {shlex.quote(sys.executable)} -c {shlex.quote(program)} | head -n 2; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr.count("Traceback")) == (0, 2, 0), done.stderr


def test_who_is_stopped_while_much_is_written_sees_no_traceback() -> None:
    program = """
import os, signal, threading
from orchestrator.commands.everywhere import run_everywhere
from orchestrator.signals import signals_raise
from orchestrator.errors import Stopped
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
try:
    with signals_raise():
        run_everywhere({"x86": ["yes"], "arm": ["yes"]}, shown=True)
except Stopped:
    pass
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_finds_no_room_is_an_error_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_text: str) -> None:
        raise HostError("no room")

    monkeypatch.setattr(everywhere, "put", full)
    with pytest.raises(HostError, match="no room"):
        run_everywhere({"x86": ["yes"]}, shown=True)


class Life:
    """A node as `scp_command` sees it."""

    def __init__(self, name: str, testbed: str) -> None:
        self.name, self.testbed = name, testbed

    def ssh_command(self) -> list[str]:
        return ["ssh", "-F", f"/state/{self.testbed}/ssh_config", f"{self.name}.{self.testbed}"]


def scp(monkeypatch: pytest.MonkeyPatch, *words: str, recursive: bool = False) -> list[str]:
    def the_nodes(hosts: list[str], name: str | None) -> list[Life]:
        return [Life(*(host.split(".") if "." in host else (host, name or "mine"))) for host in hosts]

    monkeypatch.setattr(copying, "the_nodes", the_nodes)
    command = scp_command(words[:-1], words[-1], None, recursive=recursive)
    assert command[:4] == ["scp", "-3", "-F", "/state/mine/ssh_config"]
    return command[4:]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["file", "arm:/tmp/"], ["--", "./file", "arm.mine:/tmp/"]),
        (["-rf", "arm:"], ["--", "./-rf", "arm.mine:"]),
        (["a b", "./c:d", "/e:f", "arm:x y:z"], ["--", "./a b", "./c:d", "/e:f", "arm.mine:x y:z"]),
        (["dir/c:d", "arm:"], ["--", "./dir/c:d", "arm.mine:"]),
        (["arm:/a", "x86:/b"], ["--", "arm.mine:/a", "x86.mine:/b"]),
        (["arm.mine:/a", "."], ["--", "arm.mine:/a", "."]),
    ],
)
def test_places_reach_scp_as_they_are_meant(
    monkeypatch: pytest.MonkeyPatch, words: list[str], given: list[str]
) -> None:
    assert scp(monkeypatch, *words) == given
    assert scp(monkeypatch, *words, recursive=True) == ["-r", *given]


def test_one_place_is_on_a_node_and_all_nodes_are_of_one_testbed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="found a and b, expected one of them on a node"):
        scp_command(["a"], "b", None, recursive=False)
    with pytest.raises(InputError, match="found nodes of one and two"):
        scp(monkeypatch, "arm.one:/a", "arm.two:/b")
