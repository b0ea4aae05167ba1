import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from images import Image
from testbed import accelerator
from testbed.accelerator import Choice, choose
from testbed.errors import HostError
from testbed.spec import Accelerator, NodeSpec

NATIVE = platform.machine()
FOREIGN = "aarch64" if NATIVE == "x86_64" else "x86_64"


@dataclass
class Host:
    """A host with a QEMU and a /dev/kvm of our own making."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def qemu(self, script: str) -> None:
        """From now on QEMU is this shell script. It counts how often it was started."""
        program = self.folder / "bin" / f"qemu-system-{NATIVE}"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho >>{self.folder}/starts\n{script}\n")
        program.chmod(0o755)

    @property
    def starts(self) -> int:
        file = self.folder / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def choose(self, wish: Accelerator = Accelerator.AUTO, arch: str = NATIVE, key: str = "k1") -> Choice:
        image = Image(
            arch,
            key,
            self.folder,
            self.folder / "kernel",
            self.folder / "initramfs",
            self.folder / "root",
            "6.12",
            "3.13",
            ("quiet",),
        )
        return choose(NodeSpec("one", arch, 256 << 20, accelerator=wish), image, self.folder, self.said.append)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    made = Host(tmp_path)
    made.qemu("echo 'testbed: stage=probe t=0.5'; exec sleep 1000")
    return made


def test_kvm_is_taken_when_a_guest_has_answered_under_it(host: Host) -> None:
    choice = host.choose()
    assert choice.accelerator is Accelerator.KVM
    assert choice.reason.startswith("a probe guest ran under KVM in ")
    assert any("probe guest" in line for line in host.said)


def test_the_probe_guest_is_the_images_kernel_under_kvm_and_names_the_run_directory(host: Host) -> None:
    host.qemu('printf "%s\\n" "$@" >"${0%/bin/*}/arguments"; echo "testbed: stage=probe"')
    host.choose()
    words = (host.folder / "arguments").read_text().splitlines()
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-kernel") + 1] == str(host.folder / "kernel")
    assert words[words.index("-append") + 1] == "quiet testbed.probe"
    assert f"{host.folder}/probe.pid" in words


def test_a_verdict_is_remembered_and_asked_for_again_when_something_changed(host: Host) -> None:
    first = host.choose()
    assert host.choose() == first
    assert host.starts == 1
    host.choose(key="k2")  # another image
    assert host.starts == 2
    host.qemu("echo 'testbed: stage=probe t=0.5' # another QEMU")
    host.choose()
    assert host.starts == 3


def test_a_torn_memory_of_a_verdict_is_asked_for_again(host: Host) -> None:
    host.choose()
    for file in (host.folder / "cache" / "testbed" / "accelerator").iterdir():
        file.write_text('{"accelerator": ')
    assert host.choose().accelerator is Accelerator.KVM
    assert host.starts == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "the probe guest ended without an answer"),
        ("echo 'Kernel panic'", "the probe guest ended without an answer"),
        ("echo 'failed to set MSR 0x10a' >&2; exit 1", "the probe guest did not start: failed to set MSR 0x10a"),
        (
            "echo 'KVM internal error. Suberror: 1' >&2; echo 'emulation failure' >&2; exec sleep 1000",
            "the probe guest did not run: KVM internal error. Suberror: 1, emulation failure",
        ),
    ],
)
def test_a_kvm_that_opens_but_runs_no_kernel_is_seen_through(host: Host, script: str, reason: str) -> None:
    host.qemu(script)
    choice = host.choose()
    assert choice.accelerator is Accelerator.TCG
    assert choice.reason.startswith("no KVM: ")
    assert reason in choice.reason
    remembered = next((host.folder / "cache" / "testbed" / "accelerator").iterdir())
    assert json.loads(remembered.read_text())["accelerator"] == "tcg"
    assert host.choose() == choice
    assert host.starts == 1


def test_a_probe_guest_that_stays_silent_is_ended_by_the_deadline(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PROBE_S", 0.2)
    host.qemu("exec sleep 1000")
    assert "the probe guest did not answer in 0.2 s" in host.choose().reason


def test_kvm_demanded_and_not_to_be_had_is_an_error(host: Host) -> None:
    host.qemu("exit 0")
    with pytest.raises(HostError, match="node one: KVM demanded, but /dev/kvm opens") as caught:
        host.choose(Accelerator.KVM)
    assert "accelerator: auto" in caught.value.hint


def test_tcg_asked_for_is_tcg_without_a_probe(host: Host) -> None:
    assert host.choose(Accelerator.TCG) == Choice(Accelerator.TCG, "asked for")
    assert host.starts == 0


def test_another_instruction_set_needs_no_probe(host: Host) -> None:
    choice = host.choose(arch=FOREIGN)
    assert choice == Choice(Accelerator.TCG, f"no KVM: {FOREIGN} is not the instruction set of this host ({NATIVE})")
    assert host.starts == 0


def test_no_device_and_no_permission_are_told_apart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "KVM", host.folder / "none")
    assert host.choose().reason == f"no KVM: there is no {host.folder}/none"
    monkeypatch.setattr(accelerator, "KVM", host.folder / "kvm")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may open everything
    assert "permission denied (is the user in the group kvm?)" in host.choose().reason
    assert host.starts == 0
