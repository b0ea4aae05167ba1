"""What is said on the way: plain lines on standard error, nothing with --quiet, and all of it to the event log."""

import contextlib
import signal
import threading

import pytest

from orchestrator.errors import Stopped
from orchestrator.progress import Progress
from orchestrator.signals import signals_raise, signals_wait


def test_each_step_and_word_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress, progress.step("starting x86"):
        progress.say("x86: [ready]")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" s  ")[1] for line in err.splitlines()] == ["starting x86", "x86: [ready]"]


def test_quiet_says_nothing_but_the_log_hears_it(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with Progress(quiet=True) as progress, progress.heard_by(heard.append), progress.step("starting"):
        progress.say("x86 is ready")
        progress.detail("with 3 threads")
    assert capsys.readouterr() == ("", "")
    assert heard == ["starting", "x86 is ready", "with 3 threads"]


def test_details_are_for_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        with Progress(verbose=verbose) as progress:
            progress.detail("a detail")
    assert capsys.readouterr().err.count("a detail") == 1


def test_a_signal_that_interrupts_a_word_is_told_of_nevertheless(capsys: pytest.CaptureFixture[str]) -> None:
    """The handler runs between two instructions of `say`, while the log it writes to is locked."""
    log = threading.Lock()

    def hear(text: str) -> None:
        assert log.acquire(timeout=5), f"{text!r} waits for a lock that the interrupted line holds"
        with contextlib.ExitStack() as stack:
            stack.callback(log.release)
            if text == "collecting":
                signal.raise_signal(signal.SIGTERM)

    def collect() -> None:
        with Progress() as progress, signals_raise(), progress.heard_by(hear), signals_wait(progress.say_soon):
            progress.say("collecting")

    with pytest.raises(Stopped):
        collect()
    assert "once more" in capsys.readouterr().err


def end_this_process(number: int, times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unwinds_the_stack_and_leaves_handlers_as_they_were(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, signals_raise():
        end_this_process(number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_tidying_up_is_finished_before_a_signal_is_obeyed() -> None:
    done: list[str] = []

    def tidy_up() -> None:
        with signals_raise(), signals_wait(done.append):
            end_this_process(signal.SIGTERM)
            done.append("tidied up")

    with pytest.raises(Stopped):
        tidy_up()
    assert done[-1] == "tidied up"
    assert "once more" in done[0]


def test_a_second_signal_ends_even_the_tidying_up() -> None:
    done: list[str] = []

    def tidy_up() -> None:
        with signals_raise(), signals_wait(done.append):
            end_this_process(signal.SIGINT, times=2)
            done.append("tidied up")

    with pytest.raises(Stopped):
        tidy_up()
    assert "tidied up" not in done
