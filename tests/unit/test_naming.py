"""What the words of a command mean, on records that a test has written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.commands.naming import (
    complete_node,
    complete_place,
    complete_testbed,
    the_node,
    the_nodes,
    the_testbed,
)
from orchestrator.commands.top import top
from orchestrator.errors import InputError
from testbed import record
from testbed.process import ProcessId
from testbed.spec import NodeSpec, TestbedSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setattr(record, "RUN_PATH_MAX", 200)


def testbed(name: str, *nodes: str) -> None:
    journal = record.create(TestbedSpec(name, tuple(NodeSpec(node, "aarch64", 512 << 20) for node in nodes)))
    for node in nodes:
        journal.change_node(node, qemu=ProcessId.of(os.getpid()), ssh_port=40000)


testbed.__test__ = False  # type: ignore[attr-defined]


def test_the_only_testbed_needs_no_name() -> None:
    testbed("mine", "arm", "x86")
    assert the_testbed(None).name == "mine"
    assert [node.name for node in the_nodes([])] == ["arm", "x86"]


def test_of_several_the_one_that_has_all_the_nodes_is_meant() -> None:
    testbed("one", "arm", "left")
    testbed("two", "arm", "right")
    assert the_node("left").testbed == "one"
    assert [node.testbed for node in the_nodes(["right", "arm"])] == ["two", "two"]
    with pytest.raises(InputError, match="found 2 testbeds: one, two") as caught:
        the_node("arm")
    assert "NODE.NAME" in caught.value.hint


def test_a_command_without_nodes_says_how_it_is_told_which_testbed() -> None:
    testbed("one", "arm")
    testbed("two", "arm")
    with pytest.raises(InputError, match="found 2 testbeds") as caught:
        top()
    assert caught.value.hint == "`testbed top NAME`"
    with pytest.raises(InputError, match=r"found --interval nan, expected seconds from 0\.1 to 3600"):
        top(interval=float("nan"))


def test_a_node_can_be_named_with_its_testbed_in_any_command() -> None:
    testbed("one", "arm")
    testbed("two", "arm")
    assert [(node.testbed, node.name) for node in the_nodes(["arm.two", "arm.one", "arm.two"])] == [
        ("two", "arm"),
        ("one", "arm"),
    ]
    assert the_node("arm.two", "two").testbed == "two"
    with pytest.raises(InputError, match=r"found node arm\.two with --name one"):
        the_node("arm.two", "one")


def test_what_does_not_exist_is_told_with_what_is_near() -> None:
    testbed("mine", "arm", "x86")
    for word, near in (("amr", "arm"), ("x68.mine", "x86"), ("arm.mien", "mine")):
        with pytest.raises(InputError) as caught:
            the_node(word)
        assert caught.value.hint == f"did you mean '{near}'?"


def test_completion_offers_the_testbed_only_where_the_name_alone_is_not_enough() -> None:
    testbed("one", "arm", "left")
    testbed("two", "arm")
    assert complete_testbed("t") == ["two"]
    assert complete_node("") == ["arm.one", "left", "arm.two"]
    assert complete_node("left.") == ["left.one"]
    assert complete_place("l") == ["left:"]
    assert complete_place("/l") == complete_place("left:/") == []


def test_without_any_testbed_nothing_is_offered() -> None:
    assert complete_node("") == complete_testbed("") == []
    with pytest.raises(InputError, match="found no testbed"):
        the_node("arm")


@pytest.mark.parametrize(
    ("shell", "asked"),
    [
        ("bash", {"COMP_WORDS": "testbed fault pause a", "COMP_CWORD": "3"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "testbed fault pause a"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "testbed fault pause a", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_shells_complete_what_is_there(shell: str, asked: dict[str, str]) -> None:
    testbed("mine", "arm", "x86")
    program = "import sys; sys.argv = ['testbed']; from orchestrator.cli import main; main()"
    environment = os.environ | asked | {"_TESTBED_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert "arm" in done.stdout, done.stderr
    assert "x86" not in done.stdout
