from pathlib import Path

import pytest

from testbed.console import Console, clean
from testbed.lifecycle import _set_aside

BOOT = """testbed: stage=initramfs t=2.75\r
[    3.1] something else\r
testbed: stage=init t=3.65\r
"""


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path / "x86.console")


def test_a_console_that_is_not_there_yet_has_said_nothing(console: Console) -> None:
    assert console.update() == []
    assert console.stage == "none"
    assert console.tail() == []


def test_stages_are_read_once_and_in_order(console: Console) -> None:
    console.path.write_text(BOOT)
    assert console.update() == ["initramfs", "init"]
    assert console.update() == []
    assert console.stages == {"initramfs": 2.75, "init": 3.65}
    assert console.stage == "init"


def test_a_mark_that_arrives_byte_by_byte_is_read_when_its_line_is_complete(console: Console) -> None:
    seen = []
    for byte in BOOT.encode():
        with console.path.open("ab") as file:
            file.write(bytes([byte]))
        seen += console.update()
    assert seen == ["initramfs", "init"]


def test_a_guest_that_gives_up_says_why(console: Console) -> None:
    console.path.write_text(BOOT + "testbed: stage=failed reason=network: no interface eth7\r\n")
    assert console.update()[-1] == "failed"
    assert console.failure == "network: no interface eth7"
    assert console.stage == "init"


def test_the_first_panic_is_kept_in_the_kernels_words(console: Console) -> None:
    console.path.write_text(
        "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"
        "[    1.3] ---[ end Kernel panic - not syncing: VFS ]---\n"
    )
    console.update()
    assert console.panic == "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"


def test_an_endless_line_does_not_fill_memory(console: Console) -> None:
    console.path.write_bytes(b"x" * 1_000_000)
    console.update()
    assert len(console._rest) <= 4096


def test_broken_text_and_escape_sequences_do_not_reach_a_terminal(console: Console) -> None:
    console.path.write_bytes(b"\x1b[2J\x1b[31mred\x1b[0m\x07 \xff\n\n\nlast\r\n")
    assert console.tail() == ["red �", "last"]
    assert clean("a\x1b]b") == "a]b"


def test_the_tail_is_the_last_lines(console: Console) -> None:
    console.path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert console.tail(3) == ["line 97", "line 98", "line 99"]


def test_what_a_machine_said_is_kept_beside_what_it_says_when_it_is_started_again(tmp_path: Path) -> None:
    console = tmp_path / "x2.console"
    assert _set_aside(console) == ""
    console.write_text("testbed: stage=waiting t=1.0\n")
    assert _set_aside(console) == f"; what it said is in {tmp_path}/x2.tried.console"
    assert (tmp_path / "x2.tried.console").read_text() == "testbed: stage=waiting t=1.0\n"
    assert not console.exists()
