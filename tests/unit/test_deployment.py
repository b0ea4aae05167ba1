"""From an experiment's machines to the lower layer's, and the guest side's code on its way there."""

import os
from pathlib import Path

import pytest

from images import Image
from images.errors import HostError
from orchestrator.errors import InputError
from orchestrator.experiments.experiment import Accelerator
from orchestrator.experiments.plan import load
from orchestrator.stages import deployment
from orchestrator.stages.machines import checked_name, name_for, specification
from testbed import LinkKind
from testbed.spec import Accelerator as SpecAccelerator
from tests.unit.test_experiment_errors import GOOD


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("quickstart", "quickstart-4f1c"),
        ("My Run.v2", "my-run-v2-4f1c"),
        ("2026", "t-2026-4f1c"),
        ("x" * 60, "x" * 26 + "-4f1c"),
        ("Äpfel", "pfel-4f1c"),
    ],
)
def test_every_experiment_has_a_name_that_a_testbed_may_have(wanted: str, name: str) -> None:
    assert name_for(wanted, "-4f1c") == name
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["../up", "A", "", "a b", "-x", "x" * 32])
def test_a_name_given_by_hand_is_checked_and_another_is_offered(name: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_name(name)
    assert caught.value.exit_code == 2
    assert caught.value.hint.startswith("for example ")


def test_machines_keep_their_order_sizes_and_links(tmp_path: Path) -> None:
    text = GOOD.replace("  links:\n", "  links:\n    net0: {kind: ethernet, nodes: [arm, x86]}\n")
    (tmp_path / "pair.yaml").write_text(text)
    shape = load(tmp_path / "pair.yaml").testbeds[0][0]
    spec = specification("pair", shape, None)
    assert [(node.name, node.arch, node.memory_bytes) for node in spec.nodes] == [
        ("x86", "x86_64", 512 << 20),
        ("arm", "aarch64", 512 << 20),
    ]
    assert [(link.name, link.kind, link.size_bytes, link.nodes) for link in spec.links] == [
        ("net0", LinkKind.ETHERNET, 0, ("arm", "x86")),
        ("shm0", LinkKind.IVSHMEM_DOORBELL, 64 << 20, ("x86", "arm")),
    ]


def test_the_command_line_overrules_every_nodes_accelerator(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD.replace("arch: aarch64", "arch: aarch64, accelerator: kvm"))
    shape = load(tmp_path / "pair.yaml").testbeds[0][0]
    asked = [node.accelerator for node in specification("pair", shape, None).nodes]
    assert asked == [SpecAccelerator.AUTO, SpecAccelerator.KVM]
    forced = [node.accelerator for node in specification("pair", shape, Accelerator.TCG).nodes]
    assert forced == [SpecAccelerator.TCG, SpecAccelerator.TCG]


def image_in(folder: Path) -> Image:
    return Image(
        arch="x86_64",
        key="key",
        directory=folder,
        kernel=folder / "kernel",
        initramfs=folder / "initramfs",
        root=folder / "root",
        kernel_release="6.12",
        python_version="3.13.5",
        command_line=(),
    )


def test_the_guests_code_is_compiled_once_for_each_state_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []

    def compile_tree(_image: Image, sources: Path) -> bytes:
        compiled.append(sources)
        return b"archive %d" % len(compiled)

    sources = tmp_path / "guest"
    sources.mkdir()
    (sources / "agent.py").write_text("one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(deployment, "compile_tree", compile_tree)
    monkeypatch.setattr(deployment, "SOURCES", sources)
    image = image_in(tmp_path)

    def archive() -> bytes:
        return deployment.archive(image, lambda _line: None)

    assert [archive(), archive()] == [b"archive 1", b"archive 1"]
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "agent.pyc").write_text("bytecode of the host's Python")
    assert archive() == b"archive 1"
    (sources / "agent.py").write_text("two")
    assert archive() == b"archive 2"
    os.rename(sources / "agent.py", sources / "daemon.py")  # noqa: PTH104
    assert archive() == b"archive 3"


def test_a_torn_archive_is_never_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_draft: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(deployment, "compile_tree", lambda _image, _sources: b"archive")
    monkeypatch.setattr(Path, "replace", no_space)
    image = image_in(tmp_path)
    with pytest.raises(HostError, match=r"\.tar: cannot be written: No space"):
        deployment.archive(image, lambda _line: None)
    assert list((tmp_path / "cache/testbed/guest").iterdir()) == []
