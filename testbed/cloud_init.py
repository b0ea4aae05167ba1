"""What makes a guest of a cloud image this node and no other: a seed for cloud-init, on a disk labelled CIDATA.

cloud-init calls that kind of seed NoCloud: three files with the system's settings, identity and network
(docs.cloud-init.io, "NoCloud"). JSON is YAML, so they are written as JSON.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from images.cloud.image import CloudImage
from images.program import run
from testbed.domain import OwnBoot
from testbed.errors import HostError
from testbed.keys import write_private
from testbed.machine import overlay

TEMPLATES = Path(__file__).parent / "templates"
CONSOLES = {"x86_64": "/dev/ttyS0", "aarch64": "/dev/ttyAMA0"}
"""The first serial port, by instruction set: an image may have its own console elsewhere."""
LABEL = "CIDATA"
FIRMWARE = {"x86_64": None, "aarch64": (Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd"))}
"""x86_64 cloud images start by the BIOS too, which QEMU brings along and which is quicker."""
FIRMWARE_PACKAGE = "qemu-efi-aarch64"
SSHD_CONFIG = "/etc/ssh/sshd_config.d/00-testbed.conf"
ANNOUNCER = "/usr/local/lib/testbed/announce"
AT_EVERY_BOOT = "/var/lib/cloud/scripts/per-boot/testbed"
"""cloud-init runs what is there in its last stage; what else it is told, at an instance's first boot alone."""
INTERFACE = "eth{number}"


def seed(name: str, arch: str, files: Mapping[str, tuple[int, bytes]]) -> dict[str, str]:
    """The seed's files by name, from those that the init of a built image gets (name → mode, content)."""
    text = {file: content.decode().strip() for file, (_, content) in files.items()}
    return {
        "meta-data": json.dumps({"instance-id": name, "local-hostname": text["hostname"]}),
        "user-data": "#cloud-config\n" + json.dumps(_settings(arch, text), indent=1),
        "network-config": json.dumps(_network(text["network"]), indent=1),
    }


def own_boot(image: CloudImage, node: str, directory: Path) -> OwnBoot:
    """The files by which a node boots from `image`. Raises HostError when the host has no firmware for it."""
    firmware = FIRMWARE[image.arch]
    if firmware is not None and not all(file.exists() for file in firmware):
        raise HostError(
            f"node {node}: {firmware[0]} is not there: cloud images of {image.arch} start by UEFI",
            f"sudo apt-get install {FIRMWARE_PACKAGE}",
        )
    return OwnBoot(
        overlay=overlay(directory, node),
        seed=directory / f"{node}.seed",
        firmware=firmware,
        variables=directory / f"{node}.nvram",
    )


def write(boot: OwnBoot, content: Mapping[str, str], image: CloudImage) -> None:
    """Makes the machine's disk, empty over that of `image`, and its seed. Raises HostError."""
    write_private(boot.overlay, b"")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.disk, boot.overlay])
    folder = boot.seed.with_suffix(".seed-files")
    folder.mkdir(mode=0o700)
    try:
        for name, text in content.items():
            write_private(folder / name, text.encode())
        write_private(boot.seed, b"")  # nobody else may read it, not even while it is made
        files = [folder / name for name in content]
        run(["xorriso", "-as", "genisoimage", "-quiet", "-o", boot.seed, "-volid", LABEL, "-joliet", "-rock", *files])
    finally:
        shutil.rmtree(folder)


def _settings(arch: str, text: Mapping[str, str]) -> dict[str, Any]:
    console = CONSOLES[arch]
    announce = (TEMPLATES / "announce.sh").read_text()
    return {
        "hostname": text["hostname"],
        "preserve_hostname": False,
        "manage_etc_hosts": "localhost",
        # The user is root, as in built images, and comes in by the testbed's key alone.
        "disable_root": False,
        "users": [{"name": "root", "ssh_authorized_keys": [text["authorized_keys"]]}],
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": text["ssh_host_ed25519_key"] + "\n",
            "ed25519_public": text["ssh_host_ed25519_key.pub"],
        },
        "write_files": [
            {"path": SSHD_CONFIG, "content": (TEMPLATES / "sshd.conf").read_text()},
            {"path": ANNOUNCER, "permissions": "0755", "content": announce},
            {"path": AT_EVERY_BOOT, "permissions": "0755", "content": f"#!/bin/sh\nexec {ANNOUNCER} {console} sshd\n"},
        ],
        # Of what an image does by itself in the later stages nothing is for a guest that lives for minutes: packages,
        # locales, time servers. What there is to do is in the stage before; the last one announces that all is done.
        "cloud_config_modules": [],
        "cloud_final_modules": ["scripts-per-boot"],
        "growpart": {"mode": "off"},
        "resize_rootfs": False,
        "package_update": False,
        "bootcmd": [["sh", "-c", announce, "announce", console, "cloudinit"]],
    }


def _network(lines: str) -> dict[str, Any]:
    """From the lines of `testbed.network`: MAC ADDRESS/PREFIX [GATEWAY]."""
    interfaces = []
    for number, line in enumerate(lines.splitlines()):
        mac, address, *gateway = line.split()
        subnet: dict[str, Any] = {"type": "static", "address": address}
        if gateway:
            subnet["gateway"] = gateway[0]
        name = INTERFACE.format(number=number)
        interfaces.append({"type": "physical", "name": name, "mac_address": mac, "subnets": [subnet]})
    return {"version": 1, "config": interfaces}
