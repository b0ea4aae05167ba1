"""Saved states on disk, their keys, and how they go in and out of QEMU; QEMU itself is in tests/vm/test_warm.py."""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from images import Image
from testbed import identity, migration, states
from testbed.domain import Domain, SharedMemory
from testbed.spec import Accelerator
from testbed.states import Resident, State
from testbed.warm import Mode, Template, missing
from tests.unit.test_testbed_domain import DOMAIN

STATE = State("k1", "x86_64", "tcg", 512 << 20, 1, "image", "qemu", 1.0)
STREAM = bytes(range(256)) * 5000 + b"\n"
RESIDENT = Resident(b"tar", "/opt/x", ("run", "it"))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def saved(state: State = STATE) -> None:
    with states.draft(state) as draft, draft.open("ab") as file:
        file.write(STREAM)


def image(key: str = "i1", arch: str = "x86_64") -> Image:
    folder = Path("/images")
    return Image(arch, key, folder, folder / "kernel", folder / "initramfs", folder / "root", "6.12", "3.13", ())


def machine(tmp_path: Path, **changes: Any) -> Domain:
    emulator = tmp_path / "qemu"
    if not emulator.exists():
        emulator.write_bytes(b"one build")
    return replace(DOMAIN, **{"emulator": emulator, **changes})


def test_a_state_is_found_when_it_is_whole_and_nobody_else_can_read_it() -> None:
    saved()
    assert states.find("k1") == STATE
    assert STATE.size_bytes > len(STREAM)
    assert STATE.file.stat().st_mode & 0o777 == 0o600
    assert states.store().stat().st_mode & 0o777 == 0o700
    assert states.find("k2") is None
    STATE.remove()
    assert (states.find("k1"), STATE.size_bytes, STATE.used) == (None, 0, 0.0)


def test_a_save_that_fails_leaves_nothing() -> None:
    with pytest.raises(FileNotFoundError), states.draft(STATE) as draft:
        draft.with_name("none").read_bytes()
    assert list(states.store().iterdir()) == []


def test_what_killed_commands_left_is_removed_and_what_others_are_writing_is_not() -> None:
    saved()
    left, written = states.store() / ".old.1", states.store() / ".new.2"
    left.touch()
    written.touch()
    with written.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        saved(replace(STATE, key="k2"))
    assert (left.exists(), written.exists()) == (False, True)
    assert {state.key for state in states.states()} == {"k1", "k2"}


def test_of_too_many_those_go_that_were_not_used_for_longest() -> None:
    for number in range(states.KEPT_MAX):
        saved(replace(STATE, key=f"k{number}"))
        os.utime(states.store() / f"k{number}.state", (number, number))
    saved(replace(STATE, key="new"))
    assert states.find("k0") is None
    assert [state.key for state in states.states()][:2] == ["new", f"k{states.KEPT_MAX - 1}"]


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b'{"key": "k1"}\n', b"[1]\n"])
def test_what_is_no_state_is_not_taken_for_one(content: bytes) -> None:
    states.store().mkdir(parents=True)
    STATE.file.write_bytes(content)
    assert states.find("k1") is None
    assert states.states() == []


def test_a_state_under_a_name_that_is_not_its_own_is_not_taken() -> None:
    saved()
    STATE.file.rename(states.store() / "k2.state")
    assert states.find("k2") is None


def test_names_and_files_of_a_machine_do_not_matter_for_its_key(tmp_path: Path) -> None:
    one = states.key_of(machine(tmp_path), image(), RESIDENT)
    other = machine(
        tmp_path,
        name="b",
        uuid="1-2",
        initramfs=Path("/b"),
        console_log=Path("/c"),
        console_socket=Path("/s"),
        owner=(1, 1),
    )
    assert states.key_of(other, image(), RESIDENT) == one


CHANGES: list[Callable[[Path], tuple[Domain, Image, Resident | None]]] = [
    lambda path: (machine(path, memory_bytes=1 << 30), image(), RESIDENT),
    lambda path: (machine(path, cpus=2), image(), RESIDENT),
    lambda path: (machine(path, arch="aarch64"), image(), RESIDENT),
    lambda path: (machine(path, accelerator=Accelerator.KVM), image(), RESIDENT),
    lambda path: (machine(path, command_line="debug"), image(), RESIDENT),
    lambda path: (machine(path, placeholders=(8, 9)), image(), RESIDENT),
    lambda path: (machine(path), image("i2"), RESIDENT),
    lambda path: (machine(path), image(), None),
    lambda path: (machine(path), image(), replace(RESIDENT, archive=b"changed")),
    lambda path: (machine(path), image(), replace(RESIDENT, argv=("run",))),
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_goes_into_a_guest_changes_its_key(
    tmp_path: Path, change: Callable[[Path], tuple[Domain, Image, Resident | None]]
) -> None:
    assert states.key_of(*change(tmp_path)) != states.key_of(machine(tmp_path), image(), RESIDENT)


def test_another_build_of_qemu_changes_the_key(tmp_path: Path) -> None:
    before = states.key_of(machine(tmp_path), image(), None)
    (tmp_path / "qemu").write_bytes(b"another build")
    assert states.key_of(machine(tmp_path), image(), None) != before


def template(tmp_path: Path, node: str, **changes: Any) -> Template:
    return Template.of(node, machine(tmp_path, name=f"t-{node}", **changes), tmp_path, image(), RESIDENT)


def test_a_guest_is_saved_without_links_and_keeps_their_places_on_the_bus(tmp_path: Path) -> None:
    links = (*DOMAIN.shared_memory, SharedMemory("shm1", Path("/run/shm1.sock"), 2, 9))
    found = template(tmp_path, "x86", shared_memory=links, arguments=("-netdev", "dgram,id=eth1"))
    assert found.domain.shared_memory == ()
    assert found.domain.placeholders == (8, 9)
    assert "dgram,id=eth1" not in found.domain.arguments
    # Size, vectors and networks of the links are nothing that a saved guest knows.
    smaller = template(tmp_path, "y", shared_memory=(replace(links[0], vectors=1), links[1]), arguments=())
    assert smaller.key == found.key


def test_states_are_made_once_for_each_kind_of_machine(tmp_path: Path) -> None:
    templates = {
        "a": template(tmp_path, "a"),
        "b": template(tmp_path, "b"),
        "c": template(tmp_path, "c", memory_bytes=1 << 30),
    }
    assert len(missing(templates)) == 2
    saved(replace(STATE, key=templates["a"].key))
    assert [each.node for each in missing(templates)] == ["c"]
    assert templates["b"].way().warm
    assert not templates["c"].way().warm
    assert "--warm" in templates["c"].way().reason


def test_an_option_of_two_words_means_one_of_three_modes() -> None:
    assert [Mode.wanted(each) for each in (None, True, False)] == [Mode.AUTO, Mode.WARM, Mode.COLD]


class Machine:
    """Stands in for QEMU's monitor, and sends or takes a state as QEMU does."""

    def __init__(self, *outcomes: dict[str, str]) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[str] = []

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.asked.append(command)
        if command == "migrate":
            path = arguments["uri"].removeprefix("unix:")
            threading.Thread(target=self._send, args=(path,)).start()
        if command in ("query-migrate", "query-status"):
            return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        return {}

    def _send(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(STREAM)


def test_what_qemu_sends_is_what_another_one_gets(tmp_path: Path) -> None:
    qemu = Machine({"status": "active"}, {"status": "completed"})
    with states.draft(STATE) as draft:
        migration.save(qemu, draft, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    got = b""
    with migration.feeding(STATE.file, tmp_path / "in"), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "in"))
        listener.listen()
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            got = stream.read()
    assert got == STREAM


def test_a_migration_that_fails_is_told_in_qemu_s_words(tmp_path: Path) -> None:
    qemu = Machine({"status": "failed", "error-desc": "device x cannot be moved"})
    with pytest.raises(migration.MigrationError, match="device x cannot be moved"), states.draft(STATE) as draft:
        migration.save(qemu, draft, tmp_path / "out")
    assert states.find("k1") is None


def test_a_machine_that_does_not_start_is_not_fed_for_ever(tmp_path: Path) -> None:
    saved()
    with pytest.raises(ZeroDivisionError), migration.feeding(STATE.file, tmp_path / "in"):
        raise ZeroDivisionError


def test_a_restored_machine_is_awaited_until_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    migration.await_running(Machine({"status": "inmigrate"}, {"status": "paused"}, {"status": "running"}))
    monkeypatch.setattr(migration, "RUNNING_S", 0.0)
    with pytest.raises(migration.MigrationError, match="still in state 'paused'"):
        migration.await_running(Machine({"status": "paused"}))


def test_an_identity_is_one_line_with_files_time_and_numbers_of_its_own(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "console"))
    listener.listen()
    lines = []
    for _ in range(2):
        with identity.handed_over(tmp_path / "console", {"hostname": (0o644, b"x86\n")}):
            connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            lines.append(stream.read())
    listener.close()
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    one, two = (json.loads(line) for line in lines)
    assert one["files"] == two["files"] == {"hostname": [0o644, "eDg2Cg=="]}
    assert one["entropy"] != two["entropy"]


def test_a_draft_that_was_swept_away_before_it_was_locked_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, swept = fcntl.flock, list[Path]()

    def locks(descriptor: int, operation: int) -> None:
        if not swept:
            swept.extend(states.store().glob(".k1.*"))
            swept[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", locks)
    saved()
    assert swept
    assert states.find("k1") == STATE
