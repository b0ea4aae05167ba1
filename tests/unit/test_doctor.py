"""Checks of the host, on hosts that lack something. What they try for real is tried on this one in tests/vm."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from images.program import PACKAGES
from images.store import DEFINITION, key_of
from orchestrator import cli
from orchestrator.doctor import Finding, Level, found_by, host, programs
from testbed import record
from testbed.process import ProcessId
from testbed.record import State
from testbed.spec import NodeSpec, TestbedSpec


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without images and testbeds, and a PATH with nothing on it but what a test puts there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", ())
    monkeypatch.delenv("TESTBED_DRIVER", raising=False)
    return tmp_path


def program(place: Path, name: str, script: str) -> None:
    file = place / "bin" / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def found(check: Any, name: str) -> Finding:
    (finding,) = [each for each in check(lambda _line: None) if each.check == name]
    assert isinstance(finding, Finding)
    return finding


def test_an_emulator_that_is_missing_is_named_with_its_package() -> None:
    for arch, package in (("x86_64", "qemu-system-x86"), ("aarch64", "qemu-system-arm")):
        finding = found(programs.qemu, f"QEMU for {arch}")
        assert finding.level is Level.PROBLEM
        assert finding.mend.endswith(f"apt-get install {package}")
        assert arch in finding.meaning


def test_an_emulator_that_is_too_old_is_a_problem_and_a_later_one_is_not(place: Path) -> None:
    program(place, "qemu-system-x86_64", "echo 'QEMU emulator version 6.2.0 (Debian 1:6.2)'")
    program(place, "qemu-system-aarch64", "echo 'QEMU emulator version 10.0.2 (Debian 1:10.0.2)'")
    old, new = (found(programs.qemu, f"QEMU for {arch}") for arch in ("x86_64", "aarch64"))
    assert (old.level, new.level) == (Level.PROBLEM, Level.OK)
    assert "6.2.0" in old.found
    assert "expected 7.2 or later" in old.found
    program(place, "qemu-system-x86_64", "exit 1")
    assert found(programs.qemu, "QEMU for x86_64").level is Level.PROBLEM


def test_what_libvirt_says_is_handed_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.dumps({"name": None, "error": "cannot open it", "hint": "apt-get install libvirt-daemon-driver-qemu"})
    program(place, "python", f"echo '{told}'; exit 3")
    monkeypatch.setattr(programs, "python", lambda: str(place / "bin" / "python"))
    finding = found(programs.libvirt, "libvirt's driver")
    assert (finding.level, finding.found) == (Level.PROBLEM, "cannot open it")
    assert finding.mend.endswith("apt-get install libvirt-daemon-driver-qemu")
    program(place, "python", "echo broken >&2; exit 1")
    assert found(programs.libvirt, "libvirt's driver").found == "broken"
    program(place, "python", "exit 0")
    assert found(programs.libvirt, "libvirt's driver").level is Level.OK


def test_a_folder_that_libvirt_cannot_use_is_mended_by_another_and_not_by_packages(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "libvirt cannot open qemu:///embed: Failed to create state dir '/run/user/0/libvirt/hostdevmgr'"
    told = json.dumps({"name": None, "error": said, "hint": "apt-get install libvirt-daemon-driver-qemu"})
    (place / "told").write_text(told)
    program(place, "python", f"/bin/cat {place / 'told'}; exit 3")
    monkeypatch.setattr(programs, "python", lambda: str(place / "bin" / "python"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert found(programs.libvirt, "libvirt's driver").mend == "unset XDG_RUNTIME_DIR"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert found(programs.libvirt, "libvirt's driver").mend.startswith("export XDG_CACHE_HOME=DIR")


def test_the_driver_that_the_environment_asks_for_is_the_one_that_is_tried(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(place, "python", '[ "$4" = session ]')
    monkeypatch.setattr(programs, "python", lambda: str(place / "bin" / "python"))
    assert found(programs.libvirt, "libvirt's driver").level is Level.PROBLEM
    monkeypatch.setenv("TESTBED_DRIVER", "session")
    finding = found(programs.libvirt, "libvirt's driver")
    assert (finding.level, finding.found) == (Level.OK, "qemu:///session opens")
    monkeypatch.setenv("TESTBED_DRIVER", "demon")
    finding = found(programs.libvirt, "libvirt's driver")
    assert (finding.level, finding.mend) == (Level.PROBLEM, "unset TESTBED_DRIVER")
    assert "found 'demon'" in finding.found


def test_a_check_that_cannot_be_made_is_a_finding_and_the_others_are_made() -> None:
    def broken(_say: Any) -> Iterator[Finding]:
        yield Finding("first", Level.OK, "seen")
        raise PermissionError(13, "Permission denied", "/root/.cache")

    first, second = found_by(broken, print)
    assert first.level is Level.OK
    assert (second.check, second.level) == ("broken", Level.PROBLEM)
    assert second.found == "/root/.cache: cannot be used: Permission denied"
    assert second.meaning


def test_a_limit_on_open_files_is_mended_by_who_may(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, mend in (((20, 4096), "ulimit -n 256"), ((20, 20), "prlimit --pid $$ --nofile=256")):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, limit=limit: limit)
        assert found(host.limits, "open files").mend.endswith(mend)


def test_without_images_and_what_builds_them_nothing_will_run(place: Path) -> None:
    assert found(programs.tools, "images").mend == "testbed image build"
    builder = found(programs.tools, "image builder")
    assert builder.level is Level.PROBLEM
    assert "mmdebstrap" in builder.mend
    assert found(programs.tools, "ssh").mend.endswith("apt-get install openssh-client")
    for name in ("ssh", "scp", *PACKAGES):
        program(place, name, "exit 0")
    assert found(programs.tools, "ssh").level is Level.OK


def test_a_user_without_namespaces_is_told_what_gives_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in PACKAGES:
        program(place, name, "exit 0")
    assert found(programs.tools, "image builder").mend == "sudo apt-get install uidmap"
    program(place, "newuidmap", "exit 0")
    program(place, "unshare", "echo 'unshare: no line in /etc/subuid' >&2; exit 1")
    finding = found(programs.tools, "image builder")
    assert "no line in /etc/subuid" in finding.found
    assert finding.mend.startswith("sudo ")
    program(place, "unshare", "exit 0")
    assert found(programs.tools, "image builder").level is Level.OK


def test_a_host_without_kvm_runs_slower_and_does_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KVM", place / "none")
    finding = found(programs.accelerator, "accelerator")
    assert finding.level is Level.NOTE
    assert "there is no" in finding.found
    (place / "kvm").touch(mode=0o000)
    monkeypatch.setattr(programs, "KVM", place / "kvm")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found(programs.accelerator, "accelerator").mend == 'sudo usermod -aG kvm "$USER" && newgrp kvm'


def test_packages_that_are_missing_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "packages.txt").write_text("# why\n\none any x\ntwo any x\nthree tests x\nfour riscv64 x\n")
    monkeypatch.setattr(programs, "PACKAGE_LIST", place / "packages.txt")
    program(place, "dpkg-query", "printf 'installed one\\nconfig-files two\\n'; exit 1")
    finding = found(programs.packages, "packages")
    assert (finding.level, finding.found, finding.mend) == (Level.NOTE, "not installed: two", "./tb --version")


def test_too_little_memory_or_room_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_available", lambda: 1 << 30)
    monkeypatch.setattr(host, "_group_limits", list)
    assert found(host.memory, "memory").level is Level.PROBLEM
    monkeypatch.setattr(host, "_available", lambda: 8 << 30)
    assert found(host.memory, "memory").level is Level.OK
    monkeypatch.setattr(host, "_group_limits", lambda: [9 << 30, 1 << 30])
    assert found(host.memory, "memory").level is Level.PROBLEM
    monkeypatch.setattr(host, "IMAGES_BYTES", 1 << 60)
    assert found(host.space, "space for images").level is Level.PROBLEM
    assert found(host.space, "space for testbeds").level is Level.OK
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found(host.space, "space for results").mend == "testbed run configs/quickstart.yaml --results DIR"


def test_images_out_of_date_are_named_with_their_size(place: Path) -> None:
    images = place / "cache" / "testbed" / "images"
    current = images / f"{key_of(DEFINITION)}-aarch64"
    current.mkdir(parents=True)
    (images / "build.lock").touch()
    assert found(host.cache, "image cache").level is Level.OK
    (images / ".unfinished-1").mkdir()
    for name in ("0123-x86_64", "it's-x86_64"):
        (images / name).mkdir()
        (images / name / "root.erofs").write_bytes(b"\0" * (3 << 20))
    finding = found(host.cache, "image cache")
    assert (finding.level, finding.found) == (Level.NOTE, "2 images out of date, 6 MiB")
    subprocess.run(finding.mend, shell=True, check=True, env={"PATH": "/usr/bin:/bin"})  # noqa: S602 - as people do
    assert sorted(path.name for path in images.iterdir()) == sorted([".unfinished-1", "build.lock", current.name])


def test_what_is_left_of_testbeds_is_named_with_the_command_that_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(host.testbeds, "stale testbeds").level is Level.OK
    monkeypatch.setattr(record, "RUN_PATH_MAX", 200)
    journal = record.create(TestbedSpec("old", (NodeSpec("arm", "aarch64", 512 << 20),)))
    earlier = ProcessId(os.getpid(), 1, "another life of the host")
    journal.change_node("arm", qemu=earlier)
    journal.change(lambda old: replace(old, state=State.RUNNING))
    finding = found(host.testbeds, "stale testbeds")
    assert (finding.found, finding.mend) == ("old", "testbed down --stale")


def test_this_host_answers_every_check_with_words_and_a_way_out() -> None:
    for check in (host.kernel, host.memory, host.space, host.limits, host.testbeds):
        for finding in check(lambda _line: None):
            assert finding.found
            assert finding.level is Level.OK or finding.meaning


@pytest.mark.parametrize(("level", "code"), [(Level.OK, 0), (Level.NOTE, 0), (Level.PROBLEM, 3)])
def test_the_exit_code_is_zero_only_when_the_quickstart_will_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: Level, code: int
) -> None:
    def one(_say: Any) -> Iterator[Finding]:
        yield Finding("QEMU", level, "seen", "so what", "do this")

    def nothing(_say: Any) -> Iterator[Finding]:
        yield from ()

    others = "packages libvirt tools accelerator kernel memory space cache limits testbeds"
    for module in (programs, host):
        for name in others.split():
            monkeypatch.setattr(module, name, nothing, raising=False)
    monkeypatch.setattr(programs, "qemu", one)
    for words in (["doctor"], ["doctor", "--json"]):
        monkeypatch.setattr(sys, "argv", ["testbed", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == code
        out, err = capsys.readouterr()
        assert err == ""
        if "--json" in words:
            assert json.loads(out) == {
                "ok": code == 0,
                "findings": [
                    {"check": "QEMU", "level": level.value, "found": "seen", "meaning": "so what", "mend": "do this"}
                ],
            }
        else:
            assert "mend: do this" in out
            assert ("will not run: QEMU" in out) == (code == 3)
