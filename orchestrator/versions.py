"""What a run was made with: a figure that nobody can place is worth little."""

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("libvirt-python", "paramiko", "pydantic")


def own() -> str:
    """The version of this project."""
    try:
        return metadata.version("testbed")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def of_tools(architectures: list[str]) -> dict[str, str]:
    """Versions of this tool and its libraries, of Python, kernel and source tree, and of QEMU for each ISA."""
    versions = {"testbed": own(), "python": platform.python_version(), "host_kernel": platform.release()}
    versions |= {"host_arch": platform.machine(), "source": _source()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    for arch in sorted(set(architectures)):
        versions[f"qemu-{arch}"] = _first_line([f"qemu-system-{arch}", "--version"])
    return versions


def _source() -> str:
    """The commit of the source tree, `+` behind it when files differ from it; "" outside a repository."""
    root = Path(__file__).parents[1]
    commit = _first_line(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    if commit in ("", "absent"):
        return ""
    changed = _first_line(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return commit + ("+" if changed else "")


def _first_line(command: list[str]) -> str:
    """What the command says first; "absent" without the program, "" when it fails or takes unreasonably long."""
    if shutil.which(command[0]) is None:
        return "absent"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""
