import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from testbed import driver, launcher
from testbed.driver import Connection, command_line, emulator, process_of
from testbed.errors import GuestError, HostError
from testbed.launcher import Launcher, Order
from testbed.spec import Driver

LOG = """2026-11-23 23:02:05.018+0000: starting up libvirt version: 9.0.0, package: 9.0.0-4, qemu version: 7.2.22
LC_ALL=C \\
PATH=/usr/bin:/bin \\
/usr/bin/qemu-system-x86_64 \\
-name guest=pair-x86,debug-threads=on \\
-S \\
-append 'console=ttyS0 quiet' \\
-msg timestamp=on
2026-11-23T23:02:06.1Z qemu-system-x86_64: could not load kernel
"""


def test_the_command_line_is_read_from_the_log_of_a_qemu_that_never_ran() -> None:
    assert command_line(LOG.splitlines()) == (
        "/usr/bin/qemu-system-x86_64 -name guest=pair-x86,debug-threads=on -S "
        "-append 'console=ttyS0 quiet' -msg timestamp=on"
    )
    assert command_line([]) == ""
    assert command_line(["2026-11-23: starting up libvirt version: 9.0.0"]) == ""


def test_a_qemu_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for arch, package in (("x86_64", "qemu-system-x86"), ("aarch64", "qemu-system-arm")):
        with pytest.raises(HostError, match=f"no qemu-system-{arch} on this host") as caught:
            emulator(arch)
        assert caught.value.hint == f"apt-get install {package}"


def test_a_machine_of_the_systems_daemon_is_told_which_models_are_to_leave_it_alone() -> None:
    class Daemon:
        def getCapabilities(self) -> str:  # noqa: N802 - libvirt's name
            models = "".join(f"<secmodel><model>{model}</model></secmodel>" for model in ("apparmor", "dac", "none"))
            return f"<capabilities><host>{models}</host></capabilities>"

    connection = object.__new__(Connection)
    connection._connection, connection.driver = Daemon(), Driver.SYSTEM
    assert connection.confining_models() == ["apparmor"]
    connection.driver = Driver.SESSION
    assert connection.confining_models() == []


def test_what_libvirt_learned_about_qemu_is_kept_for_the_next_testbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    driver._restore_capabilities(first)  # nothing is kept yet
    learned = first / "cache" / "qemu" / "capabilities" / "ab12.xml"
    learned.parent.mkdir(parents=True)
    learned.write_text("<qemuCaps/>")
    os.utime(learned, (1, 1))
    driver._keep_capabilities(first)
    driver._restore_capabilities(second)
    again = second / "cache" / "qemu" / "capabilities" / "ab12.xml"
    assert again.read_text() == "<qemuCaps/>"
    assert again.stat().st_mtime == 1


def test_a_domains_process_is_the_one_that_was_given_its_uuid() -> None:
    uuid = "55802b76-633d-43f8-a732-5e8370f2f80f"
    script = "import signal; print(flush=True); signal.pause()"
    machines = [
        subprocess.Popen(["qemu-system-odd", "-c", script, *words], executable=sys.executable, stdout=subprocess.PIPE)
        for words in (["-name", uuid], ["-uuid", uuid])
    ]
    try:
        for machine in machines:
            assert machine.stdout is not None
            machine.stdout.readline()
        found = process_of(uuid)
        assert found is not None
        assert found.pid == machines[1].pid
        assert process_of("another") is None
    finally:
        for machine in machines:
            machine.kill()
            machine.communicate()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is run in the place of libvirt's process: a script of the test."""
    file = tmp_path / "python"
    file.touch(mode=0o755)
    monkeypatch.setattr(launcher, "python", lambda: str(file))
    return file


def test_a_machine_runs_or_is_refused_with_reasons(program: Path, tmp_path: Path) -> None:
    program.write_text(
        "#!/bin/sh\n"
        'read one; echo \'{"name": "x86", "answer": "told"}\'\n'
        'read two; echo \'{"name": "arm", "error": "no machine", "command_line": "qemu -M odd"}\'\n'
        "read three\n"
    )
    libvirt = Launcher(Driver.EMBEDDED, tmp_path, [])
    try:
        assert libvirt.start(Order("x86", "pair-x86", "<domain/>")) == "told"
        with pytest.raises(GuestError, match="no machine\n  QEMU was: qemu -M odd"):
            libvirt.start(Order("arm", "pair-arm", "<domain/>"))
    finally:
        libvirt.close()


def test_machines_wait_until_libvirt_has_learnt_what_the_qemus_can_do(program: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    program.write_text(f'#!/bin/sh\nread word <\'{go}\'; echo \'{{"name": "", "answer": "apparmor"}}\'; read end\n')
    libvirt = Launcher(Driver.SYSTEM, tmp_path, [])
    answers: list[tuple[str, ...]] = []
    waiting = threading.Thread(target=lambda: answers.append(libvirt.wait_until_ready()))
    try:
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        go.write_text("learnt\n")
        waiting.join(10)
        assert not waiting.is_alive()
        assert answers == [("apparmor",)]
    finally:
        libvirt.close()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("read order; echo 'segmentation fault' >&2; exit 139", r"libvirt's process ended \(139\): segmentation fault"),
        ('read order; echo \'{"name": null, "error": "cannot open", "hint": "install it"}\'; read end', "cannot open"),
        ("exit 1", r"libvirt's process"),
        ("read order; echo warning; read end", r"libvirt's process said what is no answer: warning"),
        ('read order; echo \'{"name": "x86"}\'; read end', r"what is no answer: \{.name.: .x86.\}"),
    ],
)
def test_a_libvirt_that_dies_is_told_to_who_waits(program: Path, tmp_path: Path, script: str, message: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    libvirt = Launcher(Driver.EMBEDDED, tmp_path, [])
    try:
        with pytest.raises(HostError, match=message):
            libvirt.start(Order("x86", "pair-x86", "<domain/>"))
    finally:
        libvirt.close()


def test_a_testbed_that_was_taken_down_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    libvirt = Launcher(Driver.EMBEDDED, gone, [])
    try:
        with pytest.raises(HostError, match="No such file or directory"):
            libvirt.wait_until_ready()
        with pytest.raises(HostError, match="No such file or directory"):
            libvirt.start(Order("x86", "pair-x86", "<domain/>"))
    finally:
        libvirt.close()
    assert not gone.exists()


def test_a_daemons_log_of_a_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind, folder in ((Driver.SESSION, "cache/libvirt/qemu/log"), (Driver.EMBEDDED, "l/log/qemu")):
        connection = Connection.__new__(Connection)  # without libvirt
        connection.driver, connection.root = kind, tmp_path / "l"
        log = tmp_path / folder / "pair-x86.log"
        log.parent.mkdir(parents=True)
        log.write_text("said\n")
        assert connection.log("pair-x86") == ["said"]
