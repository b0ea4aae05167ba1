"""A guest of a cloud image beside one of a built image: one run of an experiment on both, and what it left."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from images import Image
from testbed import find
from tests.vm.cloud_image import cloud_image, missing_programs
from tests.vm.conftest import BUILD_S

ROOT = Path(__file__).parents[2]
ARCH = os.environ.get("TESTBED_CLOUD_ARCH", "x86_64")
"""`TESTBED_CLOUD_ARCH=aarch64` boots the other ISA's, by UEFI, which takes an emulated guest another minute."""
CLOUD = "x86" if ARCH == "x86_64" else "arm"
BOOT_S = 600.0
pytestmark = [
    pytest.mark.skipif(bool(missing_programs(ARCH)), reason=f"not installed: {', '.join(missing_programs(ARCH))}"),
    pytest.mark.timeout(2 * BUILD_S + BOOT_S),
]
EXPERIMENT = """name: mixed
testbed:
  nodes:
    x86: {arch: x86_64}
    arm: {arch: aarch64}
  links:
    shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}
    net0: {kind: ethernet, nodes: [x86, arm]}
coherency: {link: shm0}
workload: {kind: shared-array, threads: {x86: writer, arm: writer}, array: 64KiB, iterations: 4}
"""


@pytest.fixture(scope="module")
def disk(images: Mapping[str, Image]) -> Path:
    return cloud_image(images[platform.machine()], ARCH)


@pytest.fixture(scope="module")
def experiment(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("it's an experiment")
    with disk.open("rb") as content:
        digest = hashlib.file_digest(content, "sha512").hexdigest()
    source = {"source": str(disk), "sha512": digest}
    (folder / "cloud.yaml").write_text(f"kind: cloud-image\narchitectures:\n  {ARCH}: {json.dumps(source)}\n")
    cloud = f"{{arch: {ARCH}, image: cloud.yaml}}"
    (folder / "mixed.yaml").write_text(EXPERIMENT.replace(f"{CLOUD}: {{arch: {ARCH}}}", f"{CLOUD}: {cloud}"))
    return folder / "mixed.yaml"


def testbed(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)


testbed.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(experiment: Path, state_home: Path) -> Iterator[dict[str, Any]]:
    """What a run has told; its machines are kept until the tests of this module are done."""
    done = testbed("run", "mixed.yaml", "--offline", "--keep", "--json", folder=experiment.parent)
    try:
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        for name in os.listdir(state_home / "testbed") if (state_home / "testbed").exists() else ():
            if name.startswith("mixed-"):
                testbed("down", name, "-q", folder=experiment.parent)


def kept(run: dict[str, Any]) -> str:
    return f"mixed-{run['run_id'][-4:]}"


def test_memory_is_coherent_between_a_cloud_image_and_a_built_one(run: dict[str, Any]) -> None:
    assert run["outcome"] == "passed"
    (point,) = run["points"]
    assert point["verified"] is True
    assert point["messages"]["PAGE_REQUEST"] > 0
    assert len({node["image"] for node in run["nodes"]}) == 2


def test_the_guest_said_when_it_was_ready_and_was_not_warm(run: dict[str, Any]) -> None:
    (cloud,) = [node for node in run["nodes"] if node["name"] == CLOUD]
    assert list(cloud["boot_stages_s"]) == ["cloudinit", "sshd"]
    assert cloud["warm"] is False


def test_the_guest_is_the_node_and_lets_nobody_else_in(run: dict[str, Any], state_home: Path) -> None:
    node = find(kept(run)).nodes[CLOUD]
    with closing(node.shell()) as shell:  # the host's key is compared with the one that was made for this node
        assert shell.run(["hostname"]).stdout == f"{CLOUD}\n".encode()
        told = shell.run(["sshd", "-T"]).stdout.decode().splitlines()
        assert "passwordauthentication no" in told
        keys = shell.run(["cat", "/root/.ssh/authorized_keys"]).stdout.decode().split()
        assert keys[:2] == (node.directory / "id_ed25519.pub").read_text().split()[:2]
        assert f"192.168.77.{('x86', 'arm').index(CLOUD) + 1}/24".encode() in shell.run(["ip", "-o", "address"]).stdout


def test_what_the_guest_writes_stays_in_its_own_disk(run: dict[str, Any], disk: Path, experiment: Path) -> None:
    node = find(kept(run)).nodes[CLOUD]
    with closing(node.shell()) as shell:
        shell.run(["sh", "-c", "dd if=/dev/urandom of=/root/written bs=1M count=8 && sync"])
    assert (node.directory / f"{CLOUD}.qcow2").stat().st_size > 8 << 20
    shown = testbed("image", "verify", folder=experiment.parent)
    assert shown.returncode == 0, shown.stdout


def test_nothing_of_the_guest_is_left(run: dict[str, Any], experiment: Path) -> None:
    directory = find(kept(run)).run_directory
    down = testbed("down", kept(run), folder=experiment.parent)
    assert down.returncode == 0, down.stderr
    assert not directory.exists()
