"""The host itself: kernel, memory, space, limits, and what earlier testbeds have left."""

import ctypes
import errno
import os
import resource
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from images.store import DEFINITION, UNFINISHED, key_of, present, store
from orchestrator.doctor import Finding, Level
from orchestrator.doctor.programs import ARCHITECTURES, root_words
from testbed import Condition, list_all
from testbed.record import state_directory

Say = Callable[[str], None]
KERNEL_MIN = (5, 7)
"""pidfds, memfds with seals, userfaultfd with write protection; and what distributions that are supported have."""
QUICKSTART_BYTES = 2 * (512 << 20) + (64 << 20)
"""What the two guests of the quickstart and their shared memory may come to use."""
IMAGES_BYTES = 1536 << 20
"""What building both images takes at its height."""
RUN_BYTES = 64 << 20
"""Consoles, seeds and results of one run."""
FILES_MIN = 256
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1


def kernel(_say: Say) -> Iterator[Finding]:
    """Its version, and userfaultfd, by asking for one."""
    release = os.uname().release
    numbers = [part for part in release.replace("-", ".").split(".")[:2] if part.isdigit()]
    if tuple(map(int, numbers)) >= KERNEL_MIN:
        yield Finding("kernel", Level.OK, f"Linux {release}")
    else:
        needed = ".".join(map(str, KERNEL_MIN))
        meaning = "processes cannot be held by a descriptor, nor page faults be write-protected"
        yield Finding("kernel", Level.PROBLEM, f"Linux {release}, expected {needed} or later", meaning)
    yield _userfaultfd()


def _userfaultfd() -> Finding:
    number = _USERFAULTFD.get(os.uname().machine)
    if number is None:
        return Finding("userfaultfd", Level.NOTE, "not known for this ISA", "`--stage local` does not run here")
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
    if descriptor < 0:
        code = ctypes.get_errno()
        mend = root_words("sysctl -w vm.unprivileged_userfaultfd=1") if code == errno.EPERM else ""
        meaning = "`--stage local` does not run here; guests have their own kernel's"
        return Finding("userfaultfd", Level.NOTE, os.strerror(code), meaning, mend)
    os.close(descriptor)
    return Finding("userfaultfd", Level.OK, "this user may make one")


def memory(_say: Say) -> Iterator[Finding]:
    """What is free, within the limit of our control group."""
    free = min([_available(), *_group_limits()])
    shown = f"{free >> 20} MiB free, the quickstart takes up to {QUICKSTART_BYTES >> 20}"
    if free >= QUICKSTART_BYTES:
        yield Finding("memory", Level.OK, shown)
    else:
        meaning = "the kernel may end a guest for want of memory"
        yield Finding("memory", Level.PROBLEM, shown, meaning, "testbed down --all")


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _group_limits() -> list[int]:
    """What the control groups above us still allow (cgroup v2)."""
    limits = []
    _, _, name = Path("/proc/self/cgroup").read_text().strip().rpartition("::")
    group = Path("/sys/fs/cgroup", name.lstrip("/"))
    for folder in (group, *group.parents):
        try:
            most = (folder / "memory.max").read_text().strip()
            if most != "max":
                limits.append(int(most) - int((folder / "memory.current").read_text()))
        except (OSError, ValueError):
            continue
    return limits


def space(_say: Say) -> Iterator[Finding]:
    """Room for images and for testbeds, where they go."""
    built = all(present(key_of(DEFINITION), arch) for arch in ARCHITECTURES)
    for check, folder, needed, elsewhere in (
        ("space for images", store(), RUN_BYTES if built else IMAGES_BYTES, "export XDG_CACHE_HOME=DIR"),
        ("space for testbeds", state_directory(), RUN_BYTES, "export XDG_STATE_HOME=DIR"),
        ("space for results", Path.cwd(), RUN_BYTES, "testbed run configs/quickstart.yaml --results DIR"),
    ):
        place = folder
        while not os.access(place, os.F_OK) and place != place.parent:  # what cannot be seen is not there
            place = place.parent
        free = shutil.disk_usage(place).free
        shown = f"{free >> 20} MiB free at {place}, {needed >> 20} needed"
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            meaning = "nothing can be made there; DIR is a folder of yours"
            yield Finding(check, Level.PROBLEM, f"{place} cannot be written by this user", meaning, elsewhere)
        elif free >= needed:
            yield Finding(check, Level.OK, shown)
        else:
            yield Finding(check, Level.PROBLEM, shown, "a run would end when it is full", f"du -xh {place} | sort -h")


def cache(_say: Say) -> Iterator[Finding]:
    """Images that guests no longer boot from. What a killed build has left is removed by the next one."""
    current = (f"{key_of(DEFINITION)}-", UNFINISHED)
    old = [each for each in sorted(store().glob("*")) if each.is_dir() and not each.name.startswith(current)]
    if not old:
        yield Finding("image cache", Level.OK, "nothing out of date")
        return
    size = sum(file.stat().st_size for folder in old for file in folder.rglob("*") if file.is_file())
    meaning = "images of earlier definitions; running guests keep what they have open"
    mend = f"rm -r {' '.join(shlex.quote(str(folder)) for folder in old)}"
    yield Finding("image cache", Level.NOTE, f"{len(old)} images out of date, {size >> 20} MiB", meaning, mend)


def limits(_say: Say) -> Iterator[Finding]:
    """CPUs, descriptors, and the loopback interface."""
    cpus = len(os.sched_getaffinity(0))
    if cpus >= 2:
        yield Finding("CPUs", Level.OK, f"{cpus}")
    else:
        yield Finding("CPUs", Level.NOTE, "1", "two guests share it: everything runs, times mean little")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= FILES_MIN:
        yield Finding("open files", Level.OK, f"{soft} allowed")
    else:
        level = Level.PROBLEM
        allowed = hard < 0 or hard >= FILES_MIN
        mend = f"ulimit -n {FILES_MIN}" if allowed else root_words(f"prlimit --pid $$ --nofile={FILES_MIN}")
        yield Finding("open files", level, f"{soft} allowed, expected {FILES_MIN}", "links need descriptors", mend)
    try:
        with socket.create_server(("127.0.0.1", 0)):
            yield Finding("loopback", Level.OK, "127.0.0.1 takes connections")
    except OSError as error:
        mend = root_words("ip link set lo up")
        yield Finding("loopback", Level.PROBLEM, f"127.0.0.1: {error.strerror}", "guests are reached by it", mend)


def testbeds(_say: Say) -> Iterator[Finding]:
    """Those that there are, and what is left of others."""
    found = list_all()
    stale = [each.name for each in found if each.condition in (Condition.LEFT_OVER, Condition.ENDED)]
    if stale:
        meaning = "left over from commands or machines that ended; they hold memory and space"
        yield Finding("stale testbeds", Level.NOTE, ", ".join(stale), meaning, "testbed down --stale")
    else:
        there = f"none of {len(found)}" if found else "none"
        yield Finding("stale testbeds", Level.OK, there)
