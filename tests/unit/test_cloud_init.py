"""The seed by which cloud-init makes a guest this node."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from images.cloud.image import CloudImage
from testbed import cloud_init
from testbed.domain import OwnBoot
from testbed.errors import HostError

FILES = {
    "hostname": (0o644, b"x86\n"),
    "ssh_host_ed25519_key": (0o600, b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"),
    "ssh_host_ed25519_key.pub": (0o644, b"ssh-ed25519 HOST\n"),
    "authorized_keys": (0o600, b"ssh-ed25519 CLIENT\n"),
    "network": (0o644, b"52:54:00:00:00:00 10.0.2.15/24 10.0.2.2\n52:54:00:02:00:00 192.168.77.1/24\n"),
}


def settings(arch: str = "x86_64") -> dict[str, Any]:
    text = cloud_init.seed("pair-x86", arch, FILES)["user-data"]
    assert text.startswith("#cloud-config\n")
    return cast(dict[str, Any], yaml.safe_load(text))


def test_the_only_way_in_is_root_by_the_testbeds_key() -> None:
    told = settings()
    assert told["users"] == [{"name": "root", "ssh_authorized_keys": ["ssh-ed25519 CLIENT"]}]
    assert told["ssh_pwauth"] is False
    (sshd,) = [each["content"] for each in told["write_files"] if each["path"].endswith(".conf")]
    assert "PasswordAuthentication no" in sshd


def test_the_guest_proves_itself_by_the_key_that_the_host_made() -> None:
    told = settings()
    assert told["ssh_deletekeys"] is True
    assert told["ssh_keys"]["ed25519_public"] == "ssh-ed25519 HOST"
    assert told["ssh_keys"]["ed25519_private"].encode() == FILES["ssh_host_ed25519_key"][1]


@pytest.mark.parametrize(("arch", "port"), [("x86_64", "/dev/ttyS0"), ("aarch64", "/dev/ttyAMA0")])
def test_readiness_is_announced_at_the_serial_port_at_every_boot(arch: str, port: str) -> None:
    told = settings(arch)
    assert told["bootcmd"][0][-2:] == [port, "cloudinit"]
    (script,) = [each for each in told["write_files"] if "/per-boot/" in each["path"]]
    assert script["content"].split()[-2:] == [port, "sshd"]
    assert script["permissions"] == "0755"


def test_the_network_is_that_of_built_images() -> None:
    network = json.loads(cloud_init.seed("pair-x86", "x86_64", FILES)["network-config"])
    first, second = network["config"]
    assert first["name"] == "eth0"
    assert first["subnets"] == [{"type": "static", "address": "10.0.2.15/24", "gateway": "10.0.2.2"}]
    assert second["mac_address"] == "52:54:00:02:00:00"
    assert second["subnets"] == [{"type": "static", "address": "192.168.77.1/24"}]


def test_a_host_name_cannot_say_anything_else() -> None:
    evil = FILES | {"hostname": (0o644, b"x: [1]\nruncmd: [reboot]\n")}
    told = yaml.safe_load(cloud_init.seed("pair-x86", "x86_64", evil)["user-data"])
    assert told["hostname"] == "x: [1]\nruncmd: [reboot]"
    assert "runcmd" not in told


def test_without_firmware_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cloud_init.FIRMWARE, "aarch64", (tmp_path / "code", tmp_path / "vars"))
    image = cast(CloudImage, SimpleNamespace(arch="aarch64"))
    with pytest.raises(HostError, match=r"node arm: .*code is not there") as caught:
        cloud_init.own_boot(image, "arm", tmp_path)
    assert "qemu-efi-aarch64" in caught.value.hint


@pytest.mark.skipif(not shutil.which("xorriso") or not shutil.which("qemu-img"), reason="xorriso or qemu-utils missing")
def test_the_files_of_a_machine_are_its_owners_alone_and_the_image_is_not_touched(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"], check=True)
    disk.chmod(0o400)
    before = disk.read_bytes()
    image = cast(CloudImage, SimpleNamespace(arch="x86_64", disk=disk))
    run = tmp_path / "it's a run"
    run.mkdir()
    boot = OwnBoot(run / "x86.qcow2", run / "x86.seed", None, run / "x86.nvram")
    old = os.umask(0)
    try:
        cloud_init.write(boot, cloud_init.seed("pair-x86", "x86_64", FILES), image)
    finally:
        os.umask(old)
    assert sorted(file.name for file in run.iterdir()) == ["x86.qcow2", "x86.seed"]
    assert {file.stat().st_mode & 0o777 for file in run.iterdir()} == {0o600}
    assert disk.read_bytes() == before
    told = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", boot.overlay]))
    assert (told["backing-filename"], told["backing-filename-format"]) == (str(disk), "qcow2")
    listed = subprocess.run(["xorriso", "-indev", boot.seed, "-find", "/"], capture_output=True, text=True, check=True)
    assert "Volume id    : 'CIDATA'" in listed.stderr
    for name in ("user-data", "meta-data", "network-config"):
        assert f"/{name}" in listed.stdout
