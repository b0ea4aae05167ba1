"""Which accelerator a node gets, and why. KVM only where a guest has run under it: the device alone proves nothing.

A /dev/kvm can be there, open and create a machine, and still not run a stock kernel (nested virtualisation without
hardware support does that). So a probe guest, the image's own kernel and initramfs, has to answer once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import selectors
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import Image
from testbed.deadline import Deadline
from testbed.driver import emulator
from testbed.errors import HostError
from testbed.host import build_of, processor
from testbed.spec import Accelerator, NodeSpec

KVM = Path("/dev/kvm")
PROBE_S = 15.0
"""A guest under KVM answers in about a second."""
LAST_WORDS_S = 0.3
ANSWER = b"testbed: stage=probe"
PROBE_MEMORY_MIB = 256


@dataclass(frozen=True)
class Choice:
    """What a node's instructions are run by, and the reason, fit to be shown."""

    accelerator: Accelerator
    reason: str


def choose(node: NodeSpec, image: Image | None, directory: Path, say: Callable[[str], None]) -> Choice:
    """The accelerator for `node`. Raises HostError when the node demands KVM and cannot have it.

    `image` is a built one of the node's architecture, whatever the node boots from; without one nothing can be probed.
    `directory` is the testbed's run directory, by which a probe guest is found again should we be killed.
    """
    if node.accelerator is Accelerator.TCG:
        return Choice(Accelerator.TCG, "asked for")
    against = obstacle(node.arch)
    if not against and image is None:
        against = f"there is no built image of {node.arch} to probe it with (`testbed image build {node.arch}`)"
    elif not against and image is not None:
        verdict = _verdict(image, directory, say)
        if verdict.accelerator is Accelerator.KVM:
            return verdict
        against = verdict.reason
    if node.accelerator is Accelerator.KVM:
        raise HostError(f"node {node.name}: KVM demanded, but {against}", "accelerator: auto takes TCG in such a case")
    return Choice(Accelerator.TCG, f"no KVM: {against}")


def remembered(image: Image) -> Accelerator | None:
    """What a probe guest of this image has shown before; None if there was none. Starts nothing."""
    try:
        return Accelerator(json.loads(_verdict_file(image).read_text())["accelerator"])
    except (HostError, OSError, ValueError, KeyError):
        return None


def obstacle(arch: str) -> str:
    """What rules KVM out without asking a guest; "" when nothing does."""
    if arch != platform.machine():
        return f"{arch} is not the instruction set of this host ({platform.machine()})"
    if not KVM.exists():
        return f"there is no {KVM}"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return f"{KVM}: permission denied (is the user in the group kvm?)"
    return ""


def verdicts() -> Path:
    """The folder where verdicts are remembered; without it they are found anew."""
    from platformdirs import user_cache_path

    return user_cache_path("testbed") / "accelerator"


def _verdict_file(image: Image) -> Path:
    """Named by all that the verdict depends on; QEMU is told by its file, as asking for its version takes longer."""
    facts = [build_of(emulator(image.arch)), platform.release(), processor(), image.key]
    return verdicts() / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]


def _verdict(image: Image, directory: Path, say: Callable[[str], None]) -> Choice:
    file = _verdict_file(image)
    try:
        known = json.loads(file.read_text())
        return Choice(Accelerator(known["accelerator"]), known["reason"])
    except (OSError, ValueError, KeyError):
        pass
    say(f"accelerator: starting a probe guest under KVM ({PROBE_S:g} s at most)")
    answer, took_s = _probe(image, directory)
    if answer:
        choice = Choice(Accelerator.TCG, answer)
    else:
        choice = Choice(Accelerator.KVM, f"a probe guest ran under KVM in {took_s:.1f} s")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"accelerator": choice.accelerator, "reason": choice.reason}))
    draft.replace(file)
    return choice


def _probe(image: Image, directory: Path) -> tuple[str, float]:
    """Runs the probe guest. Returns what went wrong, "" when it answered, and how long it took."""
    machine = "q35" if image.arch == "x86_64" else "virt,gic-version=host"
    fixed = "-accel kvm -cpu host -nodefaults -no-user-config -display none -no-reboot -serial stdio"
    argv = [str(emulator(image.arch)), *fixed.split(), "-machine", machine, "-m", str(PROBE_MEMORY_MIB)]
    argv += ["-pidfile", str(directory / "probe.pid")]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    argv += ["-append", " ".join([*image.command_line, "testbed.probe"])]
    begin = time.monotonic()
    try:
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as guest:
            try:
                return _listen(guest, Deadline(PROBE_S)), time.monotonic() - begin
            finally:
                guest.kill()
    except OSError as error:
        return f"QEMU cannot be started: {error}", 0.0


def _listen(guest: subprocess.Popen[bytes], deadline: Deadline) -> str:
    said = {"console": b"", "QEMU": b""}
    with selectors.DefaultSelector() as selector:
        for pipe, source in ((guest.stdout, "console"), (guest.stderr, "QEMU")):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, source)
        while selector.get_map() and not deadline.expired:
            for key, _ in selector.select(deadline.remaining()):
                data = os.read(key.fd, 65536)
                said[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
            if ANSWER in said["console"]:
                return ""
            # QEMU does not end at an internal error of KVM, it pauses the guest for ever; its next line says which.
            if b"KVM internal error" in said["QEMU"]:
                deadline = Deadline(min(deadline.remaining(), LAST_WORDS_S))
    return _wrong(said["QEMU"].decode(errors="replace"), deadline)


def _wrong(said: str, deadline: Deadline) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("KVM internal error" in line for line in lines):
        told = [line for line in lines if "KVM internal error" in line or line.endswith("failure")]
        return f"/dev/kvm opens, but the probe guest did not run: {', '.join(told[:2])}"
    if lines:
        return f"the probe guest did not start: {lines[0]}"
    if deadline.expired:
        return f"/dev/kvm opens, but the probe guest did not answer in {PROBE_S:g} s"
    return "/dev/kvm opens, but the probe guest ended without an answer"
