"""The root file system: what the packages' maintainer scripts would have done, and the guest's own files."""

from __future__ import annotations

import shutil
from pathlib import Path

from images import libraries
from images.definition import Architecture

APPLETS = """
awk cat clear cpio dmesg free gunzip gzip hexdump hostname httpd ifconfig ip killall less losetup md5sum mount nc
netstat nslookup ping poweroff reboot route sync tar telnet time top traceroute umount unxz unzip usleep uptime vi wc
wget which xxd xzcat zcat
"""
FILES = Path(__file__).parent / "files"
PRIVILEGE_SEPARATION = "sshd:x:100:65534:sshd user:/run/sshd:/usr/sbin/nologin"


def configure(root: Path, arch: Architecture) -> None:
    """Makes the unpacked packages in `root` a system that runs."""
    _accounts(root)
    _shell(root)
    _applets(root)
    libraries.write_cache(root, arch)
    _own_files(root)
    for directory in ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "opt", "etc/testbed", "run/sshd"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "boot")


def _accounts(root: Path) -> None:
    """Accounts from base-passwd's masters. Root has no password, and is not locked either: keys let it in."""
    masters = root / "usr/share/base-passwd"
    accounts = (masters / "passwd.master").read_text().replace(":*:", ":x:")
    names = [line.partition(":")[0] for line in accounts.splitlines()]
    etc = root / "etc"
    (etc / "passwd").write_text(f"{accounts}{PRIVILEGE_SEPARATION}\n")
    (etc / "group").write_text((masters / "group.master").read_text().replace(":*:", ":x:"))
    (etc / "shadow").write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in [*names, "sshd"]))
    (etc / "shadow").chmod(0o640)
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    (etc / "shells").write_text("/bin/sh\n/bin/bash\n")


def _shell(root: Path) -> None:
    """`sh` is dash; the home of root gets the usual shell start-up files."""
    shell = root / "usr/bin/sh"
    if not shell.exists():
        shell.symlink_to("dash")
    home = root / "root"
    home.mkdir(exist_ok=True)
    skeleton = root / "usr/share/base-files"
    for master, name in (("dot.bashrc", ".bashrc"), ("dot.profile", ".profile")):
        if (skeleton / master).exists():
            shutil.copyfile(skeleton / master, home / name)
    if (skeleton / "profile").exists():
        shutil.copyfile(skeleton / "profile", root / "etc/profile")


def _applets(root: Path) -> None:
    """Busybox's applets, each where no package brings a better program."""
    for name in APPLETS.split():
        if not any((root / folder / name).exists() for folder in ("usr/bin", "usr/sbin")):
            (root / "usr/bin" / name).symlink_to("busybox")


def _own_files(root: Path) -> None:
    installed = {
        "init": ("usr/lib/testbed/init", 0o755),
        "await-identity": ("usr/lib/testbed/await-identity", 0o755),
        "inittab": ("etc/inittab", 0o644),
        "fstab": ("etc/fstab", 0o644),
        "sshd_config": ("etc/ssh/sshd_config", 0o644),
    }
    for name, (path, mode) in installed.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((FILES / name).read_bytes())
        target.chmod(mode)
