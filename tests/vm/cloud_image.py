"""A cloud image to test with: a qcow2 file with GPT, boot loader, ext4, systemd, cloud-init, sshd and Python.

Distributions' images cannot be had everywhere where tests run. This one is made of a distribution's packages without
privilege and without running a foreign program: what the packages' scripts would have done is done here, as far as a
boot needs it. It is for x86_64 and starts by the BIOS, from GRUB in a partition of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from images import Image, bytecode, kernel, libraries, packages
from images.cpio import Writer
from images.definition import Architecture, Definition, load
from images.program import SYSTEM_FOLDERS
from testbed import cloud_init

HERE = Path(__file__).parent
DEFINITION = HERE / "cloud-image.yaml"
GRUB = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_gpt", "ext2", "normal", "linux", "configfile", "serial", "terminal")
PROGRAMS = ("qemu-img", "sfdisk", "mke2fs")
OWN_PROGRAMS = {"x86_64": ("grub-mkimage",), "aarch64": ("mformat", "mcopy")}
SECTOR_BYTES, MIB = 512, 1 << 20
ROOT_MIB = 352
# The partition before the root: GRUB's own sectors, or UEFI's file system with kernel and initramfs.
FIRST_MIB = {"x86_64": 1, "aarch64": 96}
FIRST_TYPE = {
    "x86_64": "21686148-6449-6E6F-744E-656564454649",
    "aarch64": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
}
ROOT_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
GRUB_CFG = """serial --unit=0 --speed=115200
set timeout=0
linux /boot/vmlinuz root=/dev/vda2 ro console=ttyS0 quiet random.trust_cpu=1
initrd /boot/initrd.img
boot
"""
SYSTEMD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootaa64.efi"
LOADER = "timeout 0\ndefault debian.conf\n"
LOADER_ENTRY = """title Debian
linux /vmlinuz
initrd /initrd.img
options root=/dev/vda2 ro console=ttyAMA0 quiet random.trust_cpu=1
"""
INIT = """#!/bin/busybox sh
busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do busybox insmod "/modules/$module"; done </modules/order
busybox mount -t ext4 -o ro /dev/vda2 /root
busybox mount -o move /dev /root/dev
exec busybox switch_root /root /sbin/init
"""
# As the packages' scripts would: accounts, alternatives, what starts at boot, and PAM's common files.
ACCOUNTS = ("sshd:x:100:65534::/run/sshd:/usr/sbin/nologin", "systemd-network:x:998:998::/:/usr/sbin/nologin")
GROUPS = (
    "systemd-network:x:998:",
    "systemd-journal:x:999:",
    "kvm:x:990:",
    "render:x:991:",
    "input:x:992:",
    "sgx:x:993:",
)
ALTERNATIVES = {"awk": "mawk", "nc": "nc.openbsd", "sh": "dash"}
WANTS = {
    "multi-user.target": ("ssh.service", "systemd-networkd.service"),
    "cloud-init.target": (
        "cloud-init-main.service",
        "cloud-init-local.service",
        "cloud-init-network.service",
        "cloud-config.service",
        "cloud-final.service",
    ),
}
PAM = {"auth": "pam_unix.so", "account": "pam_unix.so", "password": "pam_unix.so", "session": "pam_unix.so"}


def missing_programs(arch: str) -> list[str]:
    """What this host lacks for making the image, and for starting it."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])
    missing = [name for name in (*PROGRAMS, *OWN_PROGRAMS[arch]) if shutil.which(name, path=path) is None]
    files = (GRUB,) if arch == "x86_64" else cloud_init.FIRMWARE[arch] or ()
    return missing + [str(file) for file in files if not file.exists()]


def cloud_image(host: Image, arch: str) -> Path:
    """The qcow2 file, made when no earlier test has. `host` is the built image of this host's ISA."""
    recipe = hashlib.sha256(DEFINITION.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    folder = user_cache_path("testbed") / "test-images"
    file = folder / f"{recipe}-{arch}.qcow2"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as shop:
            _make(host, arch, Path(shop)).rename(file)
    return file


def _make(host: Image, arch: str, shop: Path) -> Path:
    definition = load(DEFINITION)
    settings = definition.architectures[arch]
    root = shop / "root"
    root.mkdir()
    packages.unpack(definition, settings, root)
    bytecode.compile_standard_library(bytecode.interpreter_of(host), root, None)
    _boot_files(definition, root)
    _configure(root, settings)
    return _disk(root, _grub(shop) if arch == "x86_64" else _efi(root, shop), arch, shop)


def _boot_files(definition: Definition, root: Path) -> None:
    found = kernel.find(root)
    files = kernel.prepare_modules(root, found, (*definition.initramfs_modules, *definition.root_modules))
    order = list(dict.fromkeys(file for name in definition.initramfs_modules for file in files[name]))
    archive = Writer()
    for directory in ("bin", "dev", "modules", "root"):
        archive.directory(directory)
    archive.file("init", INIT.encode(), 0o755)
    archive.file("bin/busybox", (root / "usr/bin/busybox").read_bytes(), 0o755)
    for file in order:
        archive.file(f"modules/{Path(file).name}", (found.modules / file).read_bytes())
    archive.file("modules/order", "".join(f"{Path(file).name}\n" for file in order).encode())
    boot = root / "boot"
    (boot / "initrd.img").write_bytes(archive.bytes())
    (boot / "vmlinuz").symlink_to(found.file.name)
    (boot / "grub").mkdir()
    (boot / "grub/grub.cfg").write_text(GRUB_CFG)


def _configure(root: Path, settings: Architecture) -> None:
    etc, masters = root / "etc", root / "usr/share/base-passwd"
    (etc / "passwd").write_text("\n".join([(masters / "passwd.master").read_text().rstrip(), *ACCOUNTS, ""]))
    (etc / "group").write_text("\n".join([(masters / "group.master").read_text().rstrip(), *GROUPS, ""]))
    accounts = [line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    (etc / "passwd").write_text((etc / "passwd").read_text().replace(":*:", ":x:"))
    (etc / "group").write_text((etc / "group").read_text().replace(":*:", ":x:"))
    (etc / "shadow").write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in accounts))
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    (etc / "fstab").write_text("/dev/vda2 / ext4 rw 0 1\n")
    (etc / "machine-id").write_text("")
    (etc / "resolv.conf").unlink(missing_ok=True)
    shutil.copyfile(root / "usr/share/openssh/sshd_config", etc / "ssh/sshd_config")
    for kind, module in PAM.items():
        (etc / f"pam.d/common-{kind}").write_text(f"{kind} required {module}\n")
    (etc / "pam.d/common-session-noninteractive").write_text("session required pam_unix.so\n")
    for name, target in ALTERNATIVES.items():
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to(target)
    for unit, wanted in WANTS.items():
        folder = etc / f"systemd/system/{unit}.wants"
        folder.mkdir(parents=True)
        for service in wanted:
            (folder / service).symlink_to(f"/usr/lib/systemd/system/{service}")
    # What of /usr needed to be looked at after an update has been.
    for part in ("etc", "var"):
        (root / part / ".updated").write_text(f"TIMESTAMP_NSEC={time.time_ns()}\n")
    certificate = next((root / "usr/share/ca-certificates").rglob("ISRG_Root_X1.crt"))
    shutil.copyfile(certificate, etc / "ssl/certs/ca-certificates.crt")
    for name in ("mnt", "opt", "root", "srv", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    libraries.write_cache(root, settings)


def _grub(shop: Path) -> bytes:
    """GRUB's program for the first partition, which finds its configuration on the second one."""
    early = shop / "early.cfg"
    early.write_text("set root=(hd0,gpt2)\nconfigfile /boot/grub/grub.cfg\n")
    core = shop / "core.img"
    _run(["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", early, "-o", core, *GRUB_MODULES])
    return core.read_bytes()


def _efi(root: Path, shop: Path) -> bytes:
    """UEFI's file system: the boot loader, and what it starts."""
    system = shop / "efi"
    with system.open("wb") as file:
        file.truncate(FIRST_MIB["aarch64"] * MIB)
    _run(["mformat", "-i", system, "-F", "::"])
    (shop / "loader.conf").write_text(LOADER)
    (shop / "debian.conf").write_text(LOADER_ENTRY)
    _run(["mmd", "-i", system, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries"])
    for origin, place in {
        root / SYSTEMD_BOOT: "EFI/BOOT/BOOTAA64.EFI",
        shop / "loader.conf": "loader/loader.conf",
        shop / "debian.conf": "loader/entries/debian.conf",
        (root / "boot/vmlinuz").resolve(): "vmlinuz",
        root / "boot/initrd.img": "initrd.img",
    }.items():
        _run(["mcopy", "-i", system, origin, f"::/{place}"])
    return system.read_bytes()


def _disk(root: Path, first: bytes, arch: str, shop: Path) -> Path:
    """The partitions on one disk. The root's files belong to its root, whoever makes this."""
    system, disk, image = shop / "system", shop / "disk", shop / "disk.qcow2"
    features = "^has_journal,^orphan_file,^metadata_csum_seed"
    mke2fs: list[str | Path] = [
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        features,
        "-L",
        "root",
        "-d",
        root,
        system,
        f"{ROOT_MIB}M",
    ]
    _run(mke2fs if os.geteuid() == 0 else ["unshare", "--map-root-user", *mke2fs])
    second = (1 + FIRST_MIB[arch]) * MIB
    with disk.open("wb") as file:
        file.truncate(second + (ROOT_MIB + 1) * MIB)
    table = (
        f"label: gpt\nstart=2048, size={FIRST_MIB[arch]}MiB, type={FIRST_TYPE[arch]}\n"
        f"start={second // SECTOR_BYTES}, size={ROOT_MIB}MiB, type={ROOT_TYPE}\n"
    )
    _run(["sfdisk", "-q", disk], table.encode())
    with disk.open("r+b") as file:
        if arch == "x86_64":
            file.write(_boot_sector(MIB // SECTOR_BYTES))
            # The first sector of GRUB's program holds a list of where the others are: u64 at 500.
            first = first[:500] + struct.pack("<Q", MIB // SECTOR_BYTES + 1) + first[508:]
        for place, content in ((MIB, first), (second, system.read_bytes())):
            file.seek(place)
            file.write(content)
    _run(["qemu-img", "convert", "-O", "qcow2", disk, image])
    return image


def _boot_sector(program: int) -> bytes:
    """What the BIOS starts, up to the partition table; GRUB's program lies at that sector (GRUB: i386/pc/boot.h)."""
    code = bytearray((GRUB / "boot.img").read_bytes()[:440])
    struct.pack_into("<Q", code, 0x5C, program)
    return bytes(code)


def _run(argv: Sequence[str | Path], stdin: bytes | None = None) -> None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])
    done = subprocess.run(argv, input=stdin, capture_output=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
