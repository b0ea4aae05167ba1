"""A run that pauses at a failure goes on when it is told to, when its machines are gone, and when there are none."""

import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.progress import Progress
from orchestrator.signals import signals_raise
from orchestrator.stages.pause import Pause

ROOT = Path(__file__).parents[2]


class Stage:
    """Machines that are there for so many looks; `at_look` is called at each."""

    def __init__(self, looks: int, at_look: Any = lambda: None) -> None:
        self.left = looks
        self.at_look = at_look

    def ways_in(self) -> list[str]:
        self.at_look()
        self.left -= 1
        return ["testbed ssh arm.mine"] if self.left >= 0 else []


@pytest.fixture
def progress() -> Progress:
    return Progress()


def pause(progress: Progress, looks: int, at_look: Any = lambda: None) -> Stage:
    stage: Any = Stage(looks, at_look)
    with progress:
        Pause(progress)(stage, "a value was wrong\nand more")
    left: Stage = stage
    return left


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdin", nothing)
        yield


def test_it_says_what_failed_and_how_to_get_in_and_ends_with_the_machines(
    progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pause(progress, looks=2).left == -1
    said = capsys.readouterr().err
    assert "paused at a failure: a value was wrong\n" in said
    assert "testbed ssh arm.mine" in said


def test_without_machines_there_is_nothing_to_wait_for(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    pause(progress, looks=0)
    assert capsys.readouterr().err == ""


def test_a_signal_while_the_ways_in_are_told_ends_no_run(
    progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    def hear(text: str) -> None:
        if "testbed ssh" in text:
            os.kill(os.getpid(), signal.SIGINT)

    with signals_raise(), progress.heard_by(hear):
        pause(progress, looks=5)
    assert "stopped by SIGINT: the run goes on to its end" in capsys.readouterr().err


def test_a_signal_ends_the_pause_and_not_the_run(progress: Progress, capsys: pytest.CaptureFixture[str]) -> None:
    looks = iter([False, False, True])

    def at_look() -> None:
        if next(looks):
            os.kill(os.getpid(), signal.SIGINT)

    with signals_raise():
        stage = pause(progress, 100, at_look)
    assert stage.left > 90
    assert "stopped by SIGINT: the run goes on to its end" in capsys.readouterr().err


def test_at_a_terminal_enter_is_enough(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, inner = pty.openpty()
    with os.fdopen(inner, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        os.write(keys, b"\n")
        assert pause(progress, looks=100).left == 98
    os.close(keys)


def test_only_guests_can_be_entered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", str(ROOT / "configs/quickstart.yaml"), "--stage", "local", "--pause-on-failure"]
    monkeypatch.setattr(sys, "argv", ["testbed", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "found --pause-on-failure on stage local, expected stage vm" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
