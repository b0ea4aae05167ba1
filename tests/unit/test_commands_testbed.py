"""The commands about testbeds, on records that a test has written. Real machines are in tests/vm."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.experiments.experiment import Testbed
from testbed import machine, record, teardown
from testbed.errors import HostError
from testbed.process import ProcessId
from testbed.record import State
from testbed.spec import Accelerator, NodeSpec, TestbedSpec
from tests.unit.test_experiment_errors import GOOD


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setattr(record, "RUN_PATH_MAX", 200)
    return tmp_path / "s" / "testbed"


def running(name: str, *, kept: bool = True, owner: ProcessId | None = None) -> record.Journal:
    """A testbed with one node `arm`, whose machine is this very process."""
    me = ProcessId.of(os.getpid())
    journal = record.create(TestbedSpec(name, (NodeSpec("arm", "aarch64", 512 << 20),), ()), kept=kept)
    journal.change_node("arm", accelerator=Accelerator.TCG, qemu=me, ssh_port=40000)
    journal.change(lambda old: replace(old, state=State.RUNNING, owner=owner or me))
    return journal


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["testbed", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


class Replaced(SystemExit):
    """The process became the ssh of these words."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(0)
        self.words = words


def ssh(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What ssh is given behind its configuration."""

    def become(_program: str, words: list[str]) -> None:
        raise Replaced(words)

    monkeypatch.setattr(os, "execvp", become)
    monkeypatch.setattr(machine.Node, "check", lambda _self: None)
    monkeypatch.setattr(sys, "argv", ["testbed", "ssh", *words])
    with pytest.raises(Replaced) as end:
        cli.main()
    return end.value.words[3:]


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["arm"], ["arm.mine"]),
        (["arm", "ls", "-la", "/"], ["arm.mine", "--", "ls -la /"]),
        (["arm", "df", "-h"], ["arm.mine", "--", "df -h"]),
        (["arm", "--", "sh", "-c", "exit 37"], ["arm.mine", "--", "sh -c 'exit 37'"]),
        (["arm", "echo one | wc -l"], ["arm.mine", "--", "echo one | wc -l"]),
        (["arm", "printf", "%s\n", "a  b", ""], ["arm.mine", "--", "printf '%s\n' 'a  b' ''"]),
        (["--name", "mine", "arm", "ps", "--name"], ["arm.mine", "--", "ps --name"]),
        (["arm", "--name", "mine", "--", "id"], ["arm.mine", "--", "id"]),
        (["--name=mine", "arm", "id", "--", "x"], ["arm.mine", "--", "id -- x"]),
    ],
)
def test_words_behind_the_node_reach_the_command_as_they_are(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], given: list[str]
) -> None:
    running("mine")
    assert ssh(monkeypatch, *typed) == given


def test_help_of_ssh_is_ours_only_before_the_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running("mine")
    assert command(monkeypatch, "ssh", "--help") == 0
    assert "Examples:" in capsys.readouterr().out
    assert ssh(monkeypatch, "arm", "ls", "--help") == ["arm.mine", "--", "ls --help"]


def test_of_two_testbeds_the_one_meant_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running("one")
    running("two")
    assert command(monkeypatch, "ssh", "arm") == 2
    said = capsys.readouterr().err
    assert "found 2 testbeds: one, two" in said
    assert "--name NAME" in said
    assert "--all" not in said
    assert ssh(monkeypatch, "--name", "two", "arm") == ["arm.two"]
    assert command(monkeypatch, "down") == 2
    assert "--all" in capsys.readouterr().err


def test_guests_of_a_run_that_was_killed_are_left_over_and_kept_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = replace(ProcessId.of(os.getpid()), start_ticks=1)
    running("by-hand", owner=dead)
    running("at-work", kept=False)
    machine.Testbed(running("kept", kept=False, owner=dead).record).keep()
    running("killed", kept=False, owner=dead)
    assert command(monkeypatch, "ps") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert {name: "left over" in line for name, line in lines.items()} == {
        "by-hand": False, "at-work": False, "kept": False, "killed": True,
    }  # fmt: skip


def test_a_node_that_was_not_started_yet_has_not_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record.create(TestbedSpec("fresh", (NodeSpec("arm", "aarch64", 512 << 20),), ()))
    journal.change_node("arm", accelerator=Accelerator.TCG)
    assert command(monkeypatch, "ps") == 0
    assert "arm (aarch64, not started)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["it's", "a b", "a,b", 'say "x"', "a:b", "é"])
def test_paths_that_mean_something_to_libvirt_or_qemu_are_kept_from_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
    journal = record.create(TestbedSpec("odd", (NodeSpec("arm", "aarch64", 512 << 20),), ()))
    run = journal.record.run_directory
    assert name not in str(run)
    assert command(monkeypatch, "down", "odd", "--quiet") == 0
    assert not run.exists()
    assert list((tmp_path / name / "testbed").iterdir()) == []


def test_a_testbed_that_cannot_be_written_down_leaves_no_folder(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    def full(_record: record.Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write", full)
    with pytest.raises(HostError, match="No space left on device"):
        running("full")
    assert list(state.iterdir()) == []


def test_what_up_has_started_is_told_as_ps_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[Testbed] = []

    def brought_up(name: str, shape: Testbed, *_: object, **__: object) -> None:
        asked.append(shape)
        running(name)

    monkeypatch.setattr("orchestrator.stages.machines.bring_up", brought_up)
    file = tmp_path / "pair.yaml"
    file.write_text(GOOD)
    assert command(monkeypatch, "up", str(file), "--name", "mine", "--json", "--set", "testbed.nodes.arm.cpus=2") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["condition"]) == ("mine", "running")
    assert [node.cpus for node in asked[0].nodes.values()] == [1, 2]
    assert command(monkeypatch, "ps", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    for said in (listed, told):  # one after the other, and the machine, this very process, may have grown meanwhile
        assert said.pop("age_s") < 60
        assert said["nodes"][0].pop("resident_bytes") > 0
    assert listed == told


def test_down_of_all_goes_on_when_another_command_has_removed_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    for name in ("one", "two"):
        running(name).change_node("arm", qemu=None)
    remove = teardown.down

    def after_another(name: str, say: Callable[[str], None]) -> None:
        if name == "one":
            remove(name, say)
        remove(name, say)

    monkeypatch.setattr(teardown, "down", after_another)
    assert command(monkeypatch, "down", "--all") == 0
    assert list(state.iterdir()) == []
    assert command(monkeypatch, "down", "one") == 2
    assert "one" in capsys.readouterr().err
