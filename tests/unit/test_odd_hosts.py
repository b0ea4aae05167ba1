"""Commands where something of the host is odd: folders of somebody else, full or narrow output, impatient people."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli, signals
from orchestrator.output import begin, sheet
from orchestrator.results.summary_table import WIDTH_MAX
from testbed.errors import of_host

ROOT = Path(__file__).parents[2]


def python(program: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("variables", {})}  # type: ignore[dict-item]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-c", program], timeout=60, env=environment, **{"capture_output": True, **options}
    )
    return done


def end_of_ps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["testbed", "ps"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_a_home_that_is_none_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    code, said = end_of_ps(monkeypatch, capsys)
    assert code == 3
    assert said.startswith(f"testbed: error: {tmp_path / 'file' / 'testbed'}: cannot be used: Not a directory")
    assert "XDG_STATE_HOME" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: cannot be used: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "a file: cannot be opened: Too many open files"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: cannot be written: No space left"),
    ],
)
def test_what_the_host_refuses_is_told_as_its_refusal(error: OSError, words: str) -> None:
    failure = of_host(error)
    assert failure is not None
    assert failure.message.startswith(words)
    assert failure.hint


def test_what_nobody_refused_is_still_a_defect() -> None:
    assert of_host(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    assert of_host(FileNotFoundError(errno.ENOENT, "No such file")) is None  # the folder we are in is there
    assert of_host(ProcessLookupError(errno.ESRCH, "No such process")) is None


def test_a_folder_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        Path.cwd()
    failure = of_host(caught.value)
    assert failure is not None
    assert failure.message == "the folder that this was started in is gone"


def test_json_that_finds_no_room_ends_with_three_and_no_traceback(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "ps", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        )
    assert done.returncode == 3
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"? ?"), ("latin-1", b"\xb5 ?"), ("utf-8", b"\xc2\xb5 \xff")]
)
def test_what_a_locale_cannot_show_fails_nothing(encoding: str, shown: bytes) -> None:
    program = "from orchestrator.output import begin, put; begin(); put('\\xb5 \\udcff')"
    done = python(program, variables={"PYTHONIOENCODING": f"{encoding}:strict"})
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_a_second_signal_while_the_first_is_told_ends_without_a_traceback() -> None:
    program = """
import os, signal
from orchestrator import cli
def twice(_words):
    def end(**_options):
        os.kill(os.getpid(), signal.SIGINT)
    return end
cli.application = twice
cli.tell = lambda text: os.kill(os.getpid(), signal.SIGINT)
cli.main()
"""
    done = python(program)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_handlers_are_as_they_were_when_a_command_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in signals._ENDING]
    monkeypatch.setattr(sys, "argv", ["testbed", "schema"])
    with pytest.raises(SystemExit):
        cli.main()
    assert [signal.getsignal(number) for number in signals._ENDING] == before


def test_findings_go_to_standard_output_and_long_lines_stay_whole_while_a_terminal_shows_progress() -> None:
    """The terminal, 80 columns wide, is standard error; standard output is a pipe."""
    program = """
from orchestrator.progress import Progress
with Progress() as progress, progress.step("checking"):
    progress.put("ok first\\n")
    progress.say("long " * 40 + "end")
    progress.put("ok second\\n")
"""
    ours, theirs = pty.openpty()
    done = python(program, capture_output=False, stdout=subprocess.PIPE, stderr=theirs, variables={"TERM": "xterm"})
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"ok first\nok second\n")
    assert "long " * 40 + "end\r\n" in shown
    assert "ok" not in shown


def test_a_dumb_terminal_takes_nothing_away_from_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with (tmp_path / "text").open("w") as file:
        sheet(file, WIDTH_MAX, color=True).print("x" * 200, no_wrap=True)
    assert (tmp_path / "text").read_text() == "x" * 200 + "\n"


def test_a_file_without_end_is_no_experiment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["testbed", "validate", "/dev/zero", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["problems"] == ["/dev/zero: found more than 4194304 bytes, expected an experiment file"]


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sink:
        encoding = "utf-8"

    monkeypatch.setattr(sys, "stdout", Sink())
    begin()
    assert isinstance(sys.stdout, Sink)
