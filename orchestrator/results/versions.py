"""What a run was made with: a figure that nobody can place is worth little."""

import platform
import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path


def own() -> str:
    """The version of this project."""
    try:
        return metadata.version("testbed")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def of_tools(architectures: list[str]) -> dict[str, str]:
    """Versions of this tool and its libraries, of Python, kernel and source tree, and of QEMU for each ISA."""
    commit, dirty = source()
    versions = {"testbed": own(), "python": platform.python_version(), "host_kernel": platform.release()}
    versions |= {"host_arch": platform.machine(), "source": commit + ("+" if dirty else "")}
    for package in _dependencies():
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    for arch in sorted(set(architectures)):
        versions[f"qemu-{arch}"] = _first_line([f"qemu-system-{arch}", "--version"])
    return versions


def _dependencies() -> list[str]:
    """The libraries that the project names, without those of its tests."""
    try:
        required = metadata.requires("testbed") or []
    except metadata.PackageNotFoundError:
        return []
    return sorted(re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in required if "extra ==" not in each)


@cache
def source() -> tuple[str, bool]:
    """The commit of the source tree, and whether files differ from it; "" outside a repository."""
    root = Path(__file__).parents[2]
    commit = _first_line(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    if commit in ("", "absent"):
        return "", False
    changed = _first_line(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return commit, bool(changed)


def _first_line(command: list[str]) -> str:
    """What the command says first; "absent" without the program, "" when it fails or takes unreasonably long."""
    if shutil.which(command[0]) is None:
        return "absent"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""
