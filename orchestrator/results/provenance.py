"""Where a run's figures come from: the file, the command, the source tree and the host. Images are the nodes' own."""

import hashlib
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from orchestrator.experiments.plan import Plan
from orchestrator.results.versions import of_tools, source


def provenance(plan: Plan, architectures: list[str]) -> dict[str, Any]:
    """What the run is made with, for run.json. Takes some 0.1 s, for QEMU and git are asked who they are."""
    commit, dirty = source()
    return {
        "file": str(plan.path),
        "file_sha256": hashlib.sha256(plan.text.encode()).hexdigest(),
        "command": shlex.join(["testbed", *sys.argv[1:]]),
        "commit": commit,
        "dirty": dirty,
        "host": host(),
        "versions": of_tools(architectures),
    }


def host() -> dict[str, Any]:
    """This machine, as far as figures depend on it."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "name": platform.node(),
        "arch": platform.machine(),
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory_bytes >> 20,
        "kernel": platform.release(),
        "distribution": _distribution(),
    }


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _field(path: Path, name: str) -> str:
    """The value of the first line `name : value`, or nothing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)
    return next(values, "")
