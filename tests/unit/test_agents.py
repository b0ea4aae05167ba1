"""What the host makes of its agents' answers, of their silence, and of their end."""

import io
import json
import os
import threading
from typing import Any, BinaryIO

import pytest

from orchestrator.stages.agents import Agents, Refused, answer_within
from testbed.deadline import Deadline
from testbed.errors import GuestError


class Scripted:
    """An agent that answers each command with the next of its lines; None ends its output."""

    def __init__(self, *lines: bytes | dict[str, Any] | threading.Event | None, said: str = "") -> None:
        self.lines = list(lines)
        self.told = threading.Event()
        """Whether the host has asked how it ended; another one can wait for that before its next line."""
        self.words = said
        self.closed = 0
        commands, self._stdin = os.pipe()
        self._out, answers = os.pipe()
        self.stdin: BinaryIO = os.fdopen(self._stdin, "wb")
        self.stdout: BinaryIO = os.fdopen(self._out, "rb")
        threading.Thread(target=self._answer, args=(commands, answers), daemon=True).start()

    def _answer(self, commands: int, answers: int) -> None:
        with os.fdopen(commands, "rb") as asked, os.fdopen(answers, "wb") as out:
            for _ in asked:
                if not self.lines:
                    continue
                line = self.lines.pop(0)
                if isinstance(line, threading.Event):
                    line.wait()
                    line = self.lines.pop(0)
                if line is None:
                    return
                out.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
                out.flush()

    def said(self) -> str:
        return self.words

    def ended(self) -> str:
        self.told.set()
        return "exit code 7"

    def close(self) -> None:
        self.closed += 1


HELLO = {"event": "hello", "op": "hello"}


def ask(agents: Agents, *names: str, seconds: float = 20.0) -> dict[str, dict[str, Any]]:
    return agents.ask({name: {"op": "hello"} for name in names}, Deadline(seconds))


def test_all_are_asked_before_any_answer_is_awaited() -> None:
    agents = Agents({"x86": Scripted(HELLO | {"isa": "x86_64"}), "arm": Scripted(HELLO | {"isa": "aarch64"})})
    assert {name: answer["isa"] for name, answer in ask(agents, "x86", "arm").items()} == {
        "x86": "x86_64",
        "arm": "aarch64",
    }


def test_an_error_names_the_node_and_what_it_said() -> None:
    refusal = {"event": "error", "op": "hello", "kind": "segment", "message": "magic 0x0", "hint": "format it"}
    agents = Agents({"x86": Scripted(HELLO), "arm": Scripted(refusal)})
    with pytest.raises(GuestError) as caught:
        ask(agents, "x86", "arm")
    assert caught.value.message == "node arm: 'hello' failed: segment: magic 0x0"
    assert caught.value.hint == "format it"
    assert caught.value.exit_code == 3


def test_a_node_that_only_suffered_does_not_hide_the_one_that_failed() -> None:
    suffered = {"event": "error", "op": "hello", "kind": "peer", "message": "kernel 1 ended early"}
    cause = {"event": "error", "op": "hello", "kind": "application", "message": "killed by SIGBUS"}
    agents = Agents({"x86": Scripted(suffered), "arm": Scripted(cause)})
    with pytest.raises(GuestError, match=r"node arm: .* killed by SIGBUS"):
        ask(agents, "x86", "arm")


def test_a_late_answer_is_not_taken_for_the_answer_to_the_next_question() -> None:
    late = json.dumps({"event": "error", "op": "run", "kind": "peer", "message": "kernel 1 ended early"}).encode()
    agents = Agents({"arm": Scripted(late + b"\n" + json.dumps(HELLO).encode() + b"\n")})
    assert ask(agents, "arm")["arm"] == HELLO


def test_what_a_node_says_that_is_not_asked_is_nobody_elses_answer() -> None:
    late = threading.Event()
    x86 = Scripted(late, HELLO | {"isa": "x86_64"})
    agents = Agents({"x86": x86, "arm": Scripted(HELLO | {"isa": "aarch64"})})
    with pytest.raises(GuestError, match="no answer to 'hello' from x86"):
        ask(agents, "x86", seconds=0.05)
    late.set()
    while agents._answers.empty():
        pass
    assert ask(agents, "arm") == {"arm": HELLO | {"isa": "aarch64"}}


def test_the_end_of_a_node_is_told_to_those_who_ask_that_node() -> None:
    agents = Agents({"x86": Scripted(HELLO), "arm": Scripted(None)})
    agents._send(agents._agents["arm"], {"op": "hello"})
    while agents._answers.empty():
        pass
    assert ask(agents, "x86") == {"x86": HELLO}
    for _ in range(2):
        with pytest.raises(GuestError, match="node arm: its agent was gone before it answered 'hello'"):
            ask(agents, "arm")


def test_an_agent_that_ends_shows_its_last_words() -> None:
    agents = Agents({"arm": Scripted(None, said="Traceback …\nMemoryError\n")}, "look into NODE")
    with pytest.raises(GuestError) as caught:
        ask(agents, "arm")
    assert "node arm: its agent was gone before it answered 'hello': exit code 7" in caught.value.message
    assert "    MemoryError" in caught.value.message
    assert caught.value.hint == "look into arm"


def test_noise_on_standard_output_is_no_answer_but_is_shown_when_things_go_wrong() -> None:
    agents = Agents({"arm": Scripted(b'warning: clock\n{"event": "hello", "op": "hello"}\n', None)})
    assert ask(agents, "arm")["arm"] == HELLO
    with pytest.raises(GuestError, match="warning: clock"):
        ask(agents, "arm")


def test_silence_ends_at_the_deadline_and_names_who_was_silent() -> None:
    agents = Agents({"x86": Scripted(HELLO), "arm": Scripted(said="stuck")})
    with pytest.raises(GuestError) as caught:
        ask(agents, "x86", "arm", seconds=0.2)
    assert "no answer to 'hello' from arm in 0.2 s" in caught.value.message
    assert "    stuck" in caught.value.message
    assert "timeout_s" in caught.value.hint


DONE = {"event": "finished", "op": "run", "dead_kernels": [], "dead_threads": [], "lost_pages": []}
WITHOUT_ARM = DONE | {"dead_kernels": [1]}


def run(seconds: float = 20.0, **processes: Scripted) -> tuple[dict[str, dict[str, Any]], dict[str, GuestError]]:
    agents = Agents(processes)
    return agents.ask_survivors({name: {"op": "run"} for name in processes}, list(processes), Deadline(seconds), 0.1)


def test_those_who_come_to_the_end_are_heard_though_a_node_is_gone() -> None:
    answers, failures = run(x86=Scripted(WITHOUT_ARM), arm=Scripted(None))
    assert answers == {"x86": WITHOUT_ARM}
    assert "node arm: its agent was gone before it answered 'run': exit code 7" in failures["arm"].message


def test_when_all_nodes_are_gone_each_is_named() -> None:
    with pytest.raises(GuestError) as caught:
        run(x86=Scripted(None), arm=Scripted(None))
    for node in ("x86", "arm"):
        assert f"node {node}: its agent was gone before it answered 'run': exit code 7" in caught.value.message


def test_a_node_that_the_others_have_declared_dead_says_so_itself() -> None:
    fenced = {"event": "error", "op": "run", "kind": "fenced", "message": "kernel 1 was declared dead by kernel 0"}
    answers, failures = run(x86=Scripted(WITHOUT_ARM), arm=Scripted(fenced))
    assert list(answers) == ["x86"]
    assert failures["arm"].message == "node arm: 'run' failed: fenced: kernel 1 was declared dead by kernel 0"


def test_a_node_that_is_dead_and_silent_is_not_waited_for_until_the_deadline() -> None:
    answers, failures = run(seconds=1000.0, x86=Scripted(WITHOUT_ARM), arm=Scripted())
    assert list(answers) == ["x86"]
    assert "no answer to 'run' from arm in 0.1 s" in failures["arm"].message


def test_a_silent_node_that_nobody_missed_is_waited_for_until_the_deadline() -> None:
    with pytest.raises(GuestError, match=r"no answer to 'run' from arm in 0\.2 s"):
        run(seconds=0.2, x86=Scripted(DONE), arm=Scripted())


def test_when_nobody_comes_to_the_end_the_node_that_is_gone_is_named_first() -> None:
    suffered = {"event": "error", "op": "run", "kind": "peer", "message": "kernel 1 died"}
    with pytest.raises(GuestError, match="node arm: its agent was gone"):
        run(x86=Scripted(suffered), arm=Scripted(None))


def test_other_errors_end_a_run_at_once() -> None:
    broken = {"event": "error", "op": "run", "kind": "region", "message": "page 3 was to be granted, but is absent"}
    with pytest.raises(GuestError, match="page 3 was to be granted"):
        run(x86=Scripted(), arm=Scripted(broken))


def test_closing_asks_every_agent_to_leave_and_then_ends_it() -> None:
    agent, gone = Scripted(), Scripted()
    gone.stdin.close()
    gone.stdin = io.BytesIO()
    gone.stdin.close()
    agents = Agents({"x86": agent, "arm": gone})
    agents.close()
    assert (agent.closed, gone.closed) == (1, 1)


@pytest.mark.parametrize("first", ["arm", "x86"])
def test_all_nodes_say_what_they_waited_for_when_time_is_over(first: str) -> None:
    late = {"event": "error", "op": "run", "kind": "deadline", "message": "it is not over in time: nobody is here"}
    told = {"event": "error", "op": "run", "kind": "peer", "message": "kernel 0 ended the run early; thread 3 sleeps"}
    processes = {"x86": Scripted(late), "arm": Scripted(told)}
    agents = Agents({name: processes[name] for name in sorted(processes, key=lambda name: name != first)})
    commands = {name: {"op": "run", "deadline_s": 300.0} for name in processes}
    with pytest.raises(Refused) as caught:
        agents.ask_survivors(commands, list(processes), Deadline(20.0), 0.1)
    assert caught.value.kind == "deadline"
    assert caught.value.message.splitlines() == [
        "not over in 300 s, which is all that it may take",
        "node x86: 'run' failed: deadline: it is not over in time: nobody is here",
        "node arm: 'run' failed: peer: kernel 0 ended the run early; thread 3 sleeps",
    ]


def test_a_node_that_is_gone_is_told_of_when_time_is_over() -> None:
    late = {"event": "error", "op": "run", "kind": "deadline", "message": "it is not over in time: thread 0 waits"}
    with pytest.raises(
        Refused, match=r"(?s)not over in time\nnode arm: its agent was gone .* exit code 7.*thread 0 waits"
    ):
        run(x86=Scripted(late), arm=Scripted(None))


def test_a_node_that_is_gone_is_told_of_beside_what_another_one_fails_with() -> None:
    broken = {"event": "error", "op": "run", "kind": "application", "message": "thread 0: WaitBroken"}
    gone = Scripted(None)
    with pytest.raises(Refused, match=r"(?s)x86: 'run' failed: application: .*\nnode arm: its agent was gone"):
        run(x86=Scripted(gone.told, broken), arm=gone)


def test_a_cause_is_told_rather_than_that_time_is_over() -> None:
    late = {"event": "error", "op": "run", "kind": "deadline", "message": "it is not over in time"}
    broken = {"event": "error", "op": "run", "kind": "application", "message": "thread 1: ValueError: no"}
    with pytest.raises(Refused, match="node arm: 'run' failed: application: thread 1: ValueError: no"):
        run(x86=Scripted(late), arm=Scripted(broken))
    with pytest.raises(Refused, match="not over in time\nnode x86: 'run' failed: deadline: it is not over in time"):
        run(seconds=0.2, x86=Scripted(late), arm=Scripted())


@pytest.mark.parametrize(("seconds", "expected"), [(1, 4), (30, 33), (300, 330)])
def test_agents_have_all_the_time_that_they_may_take_and_then_are_waited_for(seconds: float, expected: float) -> None:
    assert answer_within(seconds).seconds == pytest.approx(expected)
