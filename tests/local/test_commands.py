"""Command lines as a workload: where they run, what they are given, what is kept of them, and how they may fail."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.local.test_resume import events, started
from tests.local.test_run_local import ROOT, command, environment, run, summary_of

HEAD = "name: own\ntestbed:\n  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the folders of this test's commands: other tests' come and go at the same time."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("folders")))


def folders() -> list[Path]:
    return list(Path(os.environ["TMPDIR"]).glob("testbed-*"))


def test_what_is_sent_is_there_and_what_is_left_is_collected(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "commands.yaml").read_text()
    (tmp_path / "programs").mkdir()
    numbers = (ROOT / "configs" / "programs" / "numbers.txt").read_bytes()
    (tmp_path / "programs" / "numbers.txt").write_bytes(numbers)
    summary = summary_of(run(tmp_path, text + "repeat: 2\n", "--json"))
    assert [point["roles"] for point in summary["points"]] == [{"x86": ["command"], "arm": ["command"]}] * 2
    for number in (1, 2):
        output = Path(summary["results"]) / "output" / str(number)
        assert (output / "x86" / "sorted.txt").read_text() == "4\n5\n9\n15\n26\n31\n"
        assert (output / "arm" / "sum.txt").read_text().startswith(hashlib.sha256(numbers).hexdigest())
        assert (output / "arm.txt").read_text() == os.uname().machine + "\n"
    assert folders() == []


def test_no_word_reaches_a_shell_and_every_point_has_a_clean_folder(tmp_path: Path) -> None:
    text = HEAD + "workload:\n  kind: command\n  commands:\n    x86:\n"
    text += '      - [echo, "$HOME; *", ">x"]\n      - [ls]\n      - [env]\n      - [touch, left]\n'
    text += "  environment: {COLOUR: red}\nseed: 7\nrepeat: 2\n"
    summary = summary_of(run(tmp_path, text, "--json"))
    for number, seed in ((1, 7), (2, 8)):
        said = (Path(summary["results"]) / f"output/{number}/x86.txt").read_text().splitlines()
        assert said[0] == "$HOME; * >x"
        assert "left" not in said
        assert {"COLOUR=red", f"TESTBED_SEED={seed}", "TESTBED_NODE=x86"} <= set(said)
        assert any(line.startswith(f"HOME={os.environ['TMPDIR']}/testbed-") for line in said)


@pytest.mark.parametrize(
    ("commands", "code", "said"),
    [
        (
            "[[echo, before], [sh, -c, 'echo why >&2; exit 4'], [echo, after]]",
            1,
            "exit 4` ended: exit code 4\n        before",
        ),
        ("[no-such-program]", 1, "no-such-program: No such file or directory"),
        ("[sh, -c, 'kill -9 $$']", 1, "ended: killed by SIGKILL"),
        ("[sleep, '1000']", 3, "`sleep 1000` is not over in time"),
    ],
)
def test_a_command_that_fails_fails_its_point_alone(tmp_path: Path, commands: str, code: int, said: str) -> None:
    text = HEAD + f"workload: {{kind: command, commands: {{x86: [echo, fine], arm: {commands}}}}}\n"
    text += f"matrix: {{workload.commands.arm: [{commands}, [echo, fine]]}}\ntimeout_s: 5\n"
    done = run(tmp_path, text, "--json")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "\n        after" not in done.stderr
    assert [point["verified"] for point in json.loads(done.stdout)["points"]] == [False, True]
    assert folders() == []


def test_a_file_that_is_not_left_fails_the_point_and_says_what_is_there(tmp_path: Path) -> None:
    text = HEAD + "workload: {kind: command, commands: {arm: [touch, other.txt]}, collect: {arm: result.txt}}\n"
    done = run(tmp_path, text)
    assert done.returncode == 1
    assert "file 'result.txt': No such file or directory; there is: other.txt" in done.stderr


def test_large_files_go_and_come_in_pieces(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(content)
    text = (
        HEAD
        + "workload: {kind: command, commands: {arm: [cp, large, copy]}, send: {arm: large}, collect: {arm: copy}}\n"
    )
    summary = summary_of(run(tmp_path, text, "--json"))
    assert (Path(summary["results"]) / "output/1/arm/copy").read_bytes() == content


def test_a_signal_ends_commands_and_all_that_they_started(tmp_path: Path) -> None:
    text = HEAD + "workload: {kind: command, commands: {arm: [sh, -c, 'echo $$ > pid; sleep 1000; true']}}\n"
    (tmp_path / "quick.yaml").write_text(text)
    line = command("run", "quick.yaml", "--stage", "local")
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if "running 1 point" in told:
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert started(tmp_path) in ([], [0])
    assert events(tmp_path)[-1]["event"] == "run_finished"
    assert folders() == []


def test_what_commands_leave_running_ends_with_their_point(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    text = HEAD + "workload:\n  kind: command\n  commands:\n    x86:\n"
    text += f"      - [sh, -c, 'if [ -e {place} ]; then ! kill -0 $(cat {place}); fi']\n"
    text += f"      - [sh, -c, 'setsid sleep 1000 & echo $! >{place}']\n"
    summary_of(run(tmp_path, text + "repeat: 2\n", "--json"))
    assert not Path(f"/proc/{place.read_text().strip()}").exists()


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ("{commands: {amr: [ls]}}", "found the node 'amr', which is not in testbed.nodes, expected x86 or arm"),
        ("{commands: {arm: ls}}", "found 'ls', expected a list"),
        ("{commands: {arm: []}}", "found an empty list, expected at least 1 value"),
        ("{commands: {arm: [ls]}, send: {arm: gone.txt}}", "found 'gone.txt': No such file or directory"),
        ("{commands: {arm: [ls]}, send: {x86: quick.yaml}}", "found send for 'x86', which runs no command"),
        ("{commands: {arm: [ls]}, collect: {arm: ../x}}", "found '../x', expected the name of a file in the commands'"),
        ("{commands: {arm: [ls]}, thread: {arm: a}}", "found unknown key 'thread', expected collect, commands"),
    ],
)
def test_what_makes_no_sense_is_a_problem_of_the_file(tmp_path: Path, workload: str, said: str) -> None:
    done = run(tmp_path, HEAD + "workload: " + workload.replace("{", "{kind: command, ", 1) + "\n")
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
