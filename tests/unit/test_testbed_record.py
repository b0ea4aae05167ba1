import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed import Condition, find, list_all, machine, record, teardown
from testbed.errors import Failure, GuestError, HostError, NoTestbed
from testbed.process import ProcessId
from testbed.record import NodeRecord, Record, State
from testbed.spec import Accelerator, LinkKind, LinkSpec, NodeSpec, TestbedSpec

SPEC = TestbedSpec(
    "pair",
    (NodeSpec("x86", "x86_64", 512 << 20), NodeSpec("arm", "aarch64", 512 << 20)),
    (LinkSpec("shm0", LinkKind.IVSHMEM_DOORBELL, 64 << 20, 4, ("x86", "arm")),),
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    # pytest's folders have long names: sockets go to the short one, as for a user with a long home.
    monkeypatch.setattr(record, "RUN_PATH_MAX", 200)
    return tmp_path / "s" / "testbed"


def dead() -> ProcessId:
    """A process that has certainly ended."""
    return replace(ProcessId.of(os.getpid()), start_ticks=1)


def test_a_record_survives_being_written_and_read() -> None:
    journal = record.create(SPEC)
    me = ProcessId.of(os.getpid())
    journal.change_node(
        "x86",
        accelerator=Accelerator.TCG,
        accelerator_reason="asked for",
        qemu=me,
        ssh_port=40000,
        boot_s=6.5,
        stages={"init": 3.5},
    )
    journal.change(lambda old: replace(old, state=State.RUNNING, servers={"shm0": me}))
    assert record.read("pair") == journal.record
    assert find("pair").spec == SPEC
    assert journal.record.processes == [me, me]


def test_the_folder_exists_before_anything_is_started_and_nobody_else_can_look_into_it(state: Path) -> None:
    journal = record.create(SPEC)
    for private in (state, state / "pair", journal.record.run_directory):
        assert private.stat().st_mode & 0o777 == 0o700
    assert (state / "pair" / "record.json").stat().st_mode & 0o777 == 0o600
    assert [(each.name, each.condition) for each in list_all()] == [("pair", Condition.STARTING)]


def test_a_second_testbed_of_the_same_name_is_refused() -> None:
    record.create(SPEC)
    with pytest.raises(Failure, match="there is a testbed pair already") as caught:
        record.create(SPEC)
    assert "testbed down pair" in caught.value.hint


def test_only_one_of_many_that_start_at_once_gets_the_name() -> None:
    program = (
        "from testbed import record; from testbed.errors import Failure; import tests.unit.test_testbed_record as t\n"
        "record.RUN_PATH_MAX = 200\n"
        "try: record.create(t.SPEC); print('made')\n"
        "except Failure: print('refused')\n"
    )
    root = Path(__file__).parents[2]
    racers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(4)
    ]
    assert sorted(racer.communicate()[0].strip() for racer in racers) == ["made", "refused", "refused", "refused"]


def test_a_start_that_died_is_shown_as_left_over_and_can_be_removed(state: Path) -> None:
    journal = record.create(SPEC)
    journal.change(lambda old: replace(old, owner=dead()))
    assert list_all()[0].condition is Condition.LEFT_OVER
    find("pair").down()
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_start_that_died_before_its_record_was_complete_can_be_removed_too(state: Path, content: str | None) -> None:
    (state / "pair" / "run").mkdir(parents=True)
    if content is not None:
        (state / "pair" / "record.json").write_text(content)
    summary = list_all()[0]
    assert (summary.name, summary.condition, summary.nodes) == ("pair", Condition.LEFT_OVER, ())
    with pytest.raises(Failure, match="was interrupted at once") as caught:
        find("pair")
    assert "testbed down pair" in caught.value.hint
    from testbed.teardown import down

    down("pair", lambda _line: None)
    assert list(state.iterdir()) == []


def test_a_machine_that_has_ended_is_seen(state: Path) -> None:
    journal = record.create(SPEC)
    me = ProcessId.of(os.getpid())
    journal.change(lambda old: replace(old, state=State.RUNNING, servers={"shm0": me}))
    for node in ("x86", "arm"):
        journal.change_node(node, qemu=me)
    assert list_all()[0].condition is Condition.RUNNING
    journal.change_node("arm", qemu=dead())
    summary = list_all()[0]
    assert summary.condition is Condition.DEGRADED
    assert [(node.name, node.alive) for node in summary.nodes] == [("x86", True), ("arm", False)]


def test_after_the_host_was_restarted_nothing_is_taken_for_alive() -> None:
    journal = record.create(SPEC)
    earlier = replace(ProcessId.of(os.getpid()), boot_id="another life of the host")
    journal.change(lambda old: replace(old, state=State.RUNNING, servers={"shm0": earlier}))
    assert list_all()[0].condition is Condition.ENDED
    find("pair").down()  # must not signal us
    assert list_all() == []


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    record.create(SPEC)
    with pytest.raises(Failure, match="no testbed 'pari'; there are: pair"):
        find("pari")


def test_a_record_that_was_removed_meanwhile_does_not_come_back(state: Path) -> None:
    journal = record.create(SPEC)
    find("pair").down()
    journal.change_node("x86", ssh_port=1)
    assert list(state.iterdir()) == []


def test_a_reader_never_sees_half_a_record(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = record.create(SPEC)
    before = (state / "pair" / "record.json").read_text()

    def interrupted(self: Record) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "to_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.change_node("x86", ssh_port=1)
    assert (state / "pair" / "record.json").read_text() == before


def test_sockets_go_elsewhere_when_the_path_would_be_too_long(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(record, "RUN_PATH_MAX", 52)
    monkeypatch.setenv("XDG_STATE_HOME", str(state / ("x" * 60)))
    journal = record.create(SPEC)
    run = journal.record.run_directory
    assert len(str(run)) <= 52
    assert run.stat().st_mode & 0o777 == 0o700
    find("pair").down()
    assert not run.exists()
    assert list_all() == []


def test_what_is_unknown_is_null_and_not_a_guess() -> None:
    plain = json.loads(record.create(SPEC).record.to_json())
    assert plain["nodes"]["x86"] == {
        "accelerator": None,
        "accelerator_reason": "",
        "qemu": None,
        "ssh_port": None,
        "warm": False,
        "warm_reason": "",
        "boot_s": None,
        "stages": {},
    }
    assert NodeRecord().qemu is None


def test_what_another_command_is_creating_or_has_removed_is_not_seen_half(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.create(SPEC)
    (state / "half").mkdir()
    found: list[str] = []
    lists = threading.Thread(target=lambda: found.extend(each.name for each in list_all()))
    with record.locked():  # as whoever creates one has it
        lists.start()
        lists.join(0.2)
        assert found == []
        (state / "half").rmdir()
    lists.join()
    assert found == ["pair"]
    removed: list[list[str]] = []
    sees = threading.Thread(target=lambda: removed.append([each.name for each in list_all()]))

    def rmtree(folder: Path) -> None:
        if folder == state / "pair":
            (folder / "record.json").unlink()
            sees.start()
            sees.join(0.2)
            assert removed == []
        remove(folder)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    find("pair").down()
    sees.join()
    assert removed == [[]]


def test_what_another_command_removes_is_removed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.create(SPEC)
    ours, theirs = find("pair"), find("pair")
    theirs.down()
    ours.down()
    with pytest.raises(NoTestbed):
        teardown.down("pair", lambda _line: None)
    assert list(state.iterdir()) == []


def test_a_file_that_comes_while_a_testbed_is_removed_is_removed_too(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another command that removes it notes that at any time."""
    record.create(SPEC)
    remove, come = os.rmdir, list[str]()

    def rmdir(*arguments: Any, **more: Any) -> None:
        if not come and (state / "pair").exists() and not list((state / "pair").iterdir()):
            come.append("pair")
            record.note_end("pair")
        remove(*arguments, **more)

    monkeypatch.setattr(os, "rmdir", rmdir)
    find("pair").down()
    assert come
    assert list(state.iterdir()) == []


def test_a_machine_that_panics_and_ends_while_it_is_looked_at_has_panicked(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = record.create(SPEC)
    journal.change_node("arm", accelerator=Accelerator.TCG, qemu=ProcessId.of(os.getpid()))
    node = find("pair").nodes["arm"]

    def ends_now(_node: machine.Node) -> bool:
        node.console.write_text("[ 1.0] Kernel panic - not syncing: no init found\n")
        return False

    monkeypatch.setattr(machine.Node, "alive", property(ends_now))
    with pytest.raises(GuestError, match="panicked: Kernel panic - not syncing: no init found"):
        node.check()


def test_a_machine_that_is_about_to_end_is_given_time_for_that() -> None:
    journal = record.create(SPEC)
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        journal.change_node("arm", accelerator=Accelerator.TCG, qemu=ProcessId.of(sleeper.pid))
        node = find("pair").nodes["arm"]
        node.check(0.01)
        ends = threading.Timer(0.1, sleeper.kill)
        ends.start()
        with pytest.raises(GuestError, match=r"node arm .* has ended"):
            node.check(20)


def test_a_testbed_whose_folder_does_not_go_is_said_to_be_there(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.create(SPEC)

    def rmdir(*_arguments: Any, **_more: Any) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(HostError, match=r"cannot be removed: .*not empty"):
        find("pair").down()
