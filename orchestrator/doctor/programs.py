"""Programs and drivers: QEMU of both ISAs, libvirt's driver, KVM by a probe guest, images and what builds them."""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from images.errors import Failure
from images.program import PACKAGES, SYSTEM_FOLDERS
from images.store import DEFINITION, key_of, present
from orchestrator.doctor import Finding, Level
from testbed.accelerator import KVM, choose, verdicts
from testbed.driver import emulator
from testbed.process import python
from testbed.spec import Accelerator, Driver, NodeSpec

ARCHITECTURES = ("x86_64", "aarch64")
QEMU_MIN = (7, 2)
"""The first with `-netdev dgram`, which joins guests by Ethernet."""
DRIVER_S = 30.0
PACKAGE_LIST = Path(__file__).parents[2] / "packages.txt"
PROGRAM_S = 10.0
Say = Callable[[str], None]


def root_words(command: str) -> str:
    """`command` as this user has to type it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def packages(_say: Say) -> Iterator[Finding]:
    """What packages.txt names for this host, where dpkg can be asked; `./tb` installs it."""
    if not PACKAGE_LIST.exists() or shutil.which("dpkg-query") is None:
        return
    wanted = [
        words[0]
        for line in PACKAGE_LIST.read_text().splitlines()
        if line[:1] not in ("", "#") and (words := line.split()) and words[1] in ("any", os.uname().machine)
    ]
    shape = "${db:Status-Status} ${Package}\n"
    told = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={shape}", "--", *wanted],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
    ).stdout
    there = {line.split()[1] for line in told.splitlines() if line.startswith("installed ")}
    absent = [name for name in wanted if name not in there]
    if absent:
        meaning = "`./tb` installs them before its next command; what they are for is in packages.txt"
        yield Finding("packages", Level.NOTE, f"not installed: {', '.join(absent)}", meaning, "./tb --version")
    else:
        yield Finding("packages", Level.OK, f"all {len(wanted)} of packages.txt are installed")


def qemu(_say: Say) -> Iterator[Finding]:
    """The emulators, by asking each for its version."""
    for arch in ARCHITECTURES:
        check = f"QEMU for {arch}"
        try:
            program = emulator(arch)
        except Failure as error:
            yield Finding(check, Level.PROBLEM, error.message, f"no {arch} guest can start", root_words(error.hint))
            continue
        version = _version(program)
        shown = ".".join(map(str, version)) if version else "a version it does not tell"
        if version >= QEMU_MIN:
            yield Finding(check, Level.OK, f"{shown} ({program})")
        else:
            needed = ".".join(map(str, QEMU_MIN))
            package = "qemu-system-x86" if arch == "x86_64" else "qemu-system-arm"
            yield Finding(
                check,
                Level.PROBLEM,
                f"{shown} ({program}), expected {needed} or later",
                "machines and networks of the testbed need devices that it does not have",
                root_words(f"apt-get install {package}"),
            )


def _version(program: Path) -> tuple[int, ...]:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PROGRAM_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    words = said.split()
    number = words[words.index("version") + 1] if "version" in words[:-1] else ""
    return tuple(int(part) for part in number.split(".") if part.isdigit())


def libvirt(_say: Say) -> Iterator[Finding]:
    """The driver that the quickstart would be started by, by opening it; the embedded one in a folder of its own."""
    check, meaning = "libvirt's driver", "machines are started by it"
    try:
        driver = _driver()
    except Failure as error:
        yield Finding(check, Level.PROBLEM, error.message, meaning, error.hint)
        return
    name = "qemu:///embed" if driver is Driver.EMBEDDED else f"qemu:///{driver}"
    with tempfile.TemporaryDirectory(prefix="tb-") as folder:
        try:
            done = subprocess.run(
                [python(), "-m", "testbed.launcher", f"{folder}/", driver.value],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DRIVER_S,
            )
        except subprocess.TimeoutExpired:
            mend = root_words("apt-get install --reinstall libvirt-daemon-driver-qemu")
            yield Finding(check, Level.PROBLEM, f"{name} does not open in {DRIVER_S:g} s", meaning, mend)
            return
    if done.returncode == 0:
        yield Finding(check, Level.OK, f"{name} opens")
        return
    try:
        told = json.loads(done.stdout.splitlines()[0])
        said, hint = told["error"], told["hint"]
    except (ValueError, KeyError, IndexError):
        said, hint = done.stderr.strip()[-500:] or f"exit code {done.returncode}", "./tb --version"
    yield Finding(check, Level.PROBLEM, said, meaning, _libvirt_mend(driver, said, hint))


def _driver() -> Driver:
    """Embedded, unless the environment says another one. Raises Failure for a word that is none."""
    if not os.environ.get("TESTBED_DRIVER"):
        return Driver.EMBEDDED
    from orchestrator.experiments.plan import driver_of_environment  # the model of experiments costs 0.2 s

    return Driver(driver_of_environment() or Driver.EMBEDDED)


def _libvirt_mend(driver: Driver, error: str, hint: str) -> str:
    if driver is not Driver.EMBEDDED:
        return "unset TESTBED_DRIVER"
    if "create" in error or "Permission denied" in error:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and f"'{runtime}" in error:
            return "unset XDG_RUNTIME_DIR"  # of the user before `su` or `sudo`
        return "export XDG_CACHE_HOME=DIR  # a folder of yours"
    return root_words("apt-get install libvirt-daemon-driver-qemu") if "apt-get" in hint else "./tb --version"


def tools(_say: Say) -> Iterator[Finding]:
    """What reaches guests, and what builds their images."""
    path = os.pathsep.join([os.environ.get("PATH") or os.defpath, *SYSTEM_FOLDERS])
    without = [name for name in ("ssh", "scp") if shutil.which(name) is None]
    if without:
        yield Finding(
            "ssh",
            Level.PROBLEM,
            f"{' and '.join(without)} not installed",
            "people get into guests by them",
            root_words("apt-get install openssh-client"),
        )
    else:
        yield Finding("ssh", Level.OK, f"{shutil.which('ssh')}")
    key = key_of(DEFINITION)
    missing = [arch for arch in ARCHITECTURES if present(key, arch) is None]
    absent = sorted({package for name, package in PACKAGES.items() if shutil.which(name, path=path) is None})
    if absent:
        yield Finding(
            "image builder",
            Level.PROBLEM if missing else Level.NOTE,
            f"{', '.join(absent)} not installed",
            "guest images cannot be built" + ("" if missing else "; the present ones are enough for now"),
            root_words(f"apt-get install {' '.join(absent)}"),
        )
    elif os.geteuid():
        yield _namespaces(needed=bool(missing))
    if missing:
        yield Finding(
            "images",
            Level.PROBLEM,
            f"none of {' and '.join(missing)} for the current definition",
            "the first run builds them, which takes a minute and a network",
            "testbed image build",
        )
    else:
        yield Finding("images", Level.OK, f"{key} for {' and '.join(ARCHITECTURES)}")


def _namespaces(*, needed: bool) -> Finding:
    """An ordinary user builds images in a user namespace, with the ids that /etc/subuid gives to that user."""
    check, level = "image builder", Level.PROBLEM if needed else Level.NOTE
    if shutil.which("newuidmap") is None:
        return Finding(check, level, "no newuidmap", "only root can build images", "sudo apt-get install uidmap")
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-auto", "--setuid", "0", "true"],
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(check, level, f"unshare does not run: {error}", "only root can build images", "")
    if done.returncode == 0:
        return Finding(check, Level.OK, "all programs are there, and user namespaces work")
    if "subuid" in done.stderr or "subgid" in done.stderr:
        mend = 'sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$USER"'
    elif Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
        mend = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    else:
        mend = "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    said = done.stderr.strip() or f"exit code {done.returncode}"
    return Finding(check, level, f"no user namespace: {said}", "only root can build images", mend)


def accelerator(say: Say) -> Iterator[Finding]:
    """KVM, by a guest that has to run under it."""
    check, slower = "accelerator", "guests are emulated, which is some ten times slower; all else is the same"
    own = os.uname().machine
    image = present(key_of(DEFINITION), own)
    if not KVM.exists():
        mend = root_words("modprobe kvm_intel || modprobe kvm_amd") if own == "x86_64" else ""
        yield Finding(check, Level.NOTE, f"TCG: there is no {KVM}", slower, mend)
    elif not os.access(KVM, os.R_OK | os.W_OK):
        mend = 'sudo usermod -aG kvm "$USER" && newgrp kvm'
        yield Finding(check, Level.NOTE, f"TCG: permission denied at {KVM}", slower, mend)
    elif image is None:
        yield Finding(check, Level.NOTE, f"{KVM} opens, no image to try it with", "", "testbed image build")
    else:
        with tempfile.TemporaryDirectory(prefix="tb-") as folder:
            choice = choose(NodeSpec("probe", own, 512 << 20), image, Path(folder), say)
        if choice.accelerator is Accelerator.KVM:
            yield Finding(check, Level.OK, f"KVM for {own}: {choice.reason}")
        else:
            again = f"rm -r {shlex.quote(str(verdicts()))}"
            yield Finding(check, Level.NOTE, f"TCG: {choice.reason}", f"{slower}; a verdict is remembered", again)
