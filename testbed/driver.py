"""libvirt's QEMU driver, by default inside the process that opens the connection (see `testbed.launcher`)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from testbed import migration
from testbed.errors import HostError
from testbed.process import ProcessId, arguments_of, naming
from testbed.spec import Accelerator, Driver

ROOT = "l"
"""libvirt's folder in a run directory. One letter: the paths of its sockets are long as they are."""


def emulator(arch: str) -> Path:
    """QEMU's program for an architecture. Raises HostError when it is not installed."""
    found = shutil.which(f"qemu-system-{arch}")
    if found is None:
        package = "qemu-system-x86" if arch == "x86_64" else "qemu-system-arm"
        raise HostError(f"no qemu-system-{arch} on this host", f"apt-get install {package}")
    return Path(found)


class Connection:
    """A connection to libvirt's QEMU driver; for the embedded one, its files are below `directory`/ROOT.

    A process can open the embedded driver for one folder only, in all its life. Domains outlive connection and process.
    """

    def __init__(self, driver: Driver, directory: Path) -> None:
        self.root = directory / ROOT
        self.driver = driver
        with _logging_to(directory / "libvirt.log"):
            try:
                import libvirt
            except ImportError as error:
                raise HostError(f"Python cannot load libvirt: {error}", "./tb sets it up again") from error
        self._libvirt = libvirt
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised, and told once
        uri = {Driver.SESSION: "qemu:///session", Driver.SYSTEM: "qemu:///system"}.get(driver, "")
        if driver is Driver.EMBEDDED:
            self._write_configuration()
            _restore_capabilities(self.root)
            uri = f"qemu:///embed?root={quote(str(self.root))}"
        _run_event_loop(libvirt)
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt cannot open {uri}: {error}", _hint(driver, str(error))) from error

    def _write_configuration(self) -> None:
        configuration = self.root / "etc" / "qemu.conf"
        # Not its parents: a testbed that was taken down meanwhile must not come back.
        self.root.mkdir(mode=0o700)
        configuration.parent.mkdir()
        lines = [
            'stdio_handler = "file"  # no virtlogd',
            "namespaces = []",
            "cgroup_controllers = []",
            'security_driver = "none"',
        ]
        if os.geteuid() == 0:
            # Machines run as whoever started them; libvirt would change to a user who cannot enter our folders.
            lines += ['user = "+0"', 'group = "+0"', "dynamic_ownership = 0"]
        configuration.write_text("\n".join(lines) + "\n")

    def prepare(self, program: Path, arch: str, accelerator: Accelerator) -> None:
        """Lets libvirt ask QEMU what it can do, so that a machine's start does not wait for it."""
        virtualization = "kvm" if accelerator is Accelerator.KVM else "qemu"
        with contextlib.suppress(self._libvirt.libvirtError):  # whatever is wrong, the start says it better
            self._connection.getDomainCapabilities(str(program), arch, None, virtualization, 0)
        if self.driver is Driver.EMBEDDED:
            _keep_capabilities(self.root)

    def confining_models(self) -> list[str]:
        """Security models, besides the owner of files, by which the system's daemon confines a machine."""
        if self.driver is not Driver.SYSTEM:
            return []
        models = ET.fromstring(self._connection.getCapabilities()).iterfind("host/secmodel/model")
        return [model.text for model in models if model.text not in (None, "none", "dac")]

    def start(self, xml: str, state: Path | None = None, incoming: Path | None = None) -> str:
        """Starts a machine that is gone when it ends; returns what its monitor says about its user-mode network.

        Its QEMU waits at the socket `incoming`, if that is given, for the saved state to go on from. Raises HostError
        with what QEMU said.
        """
        import libvirt_qemu

        human = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        try:
            with migration.feeding(state, incoming):
                domain = self._connection.createXML(xml, 0)
            if state is not None:
                migration.await_running(self._monitor(domain))
            return str(libvirt_qemu.qemuMonitorCommand(domain, "info usernet", human))
        except (self._libvirt.libvirtError, migration.MigrationError, OSError) as error:
            raise HostError(str(error)) from error

    def save(self, name: str, draft: Path, outgoing: Path) -> None:
        """Appends the state of a running machine to `draft`, by way of the socket `outgoing`; the machine is paused.

        Raises HostError.
        """
        try:
            migration.save(self._monitor(self._connection.lookupByName(name)), draft, outgoing)
        except (self._libvirt.libvirtError, migration.MigrationError, OSError) as error:
            raise HostError(f"the state of {name} cannot be saved: {error}") from error

    def _monitor(self, domain: Any) -> migration.Ask:
        import libvirt_qemu

        def ask(command: str, **arguments: Any) -> Any:
            request = json.dumps({"execute": command, "arguments": arguments})
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0))
            if "error" in answer:
                raise migration.MigrationError(f"{command}: {answer['error'].get('desc')}")
            return answer["return"]

        return ask

    def log(self, name: str) -> list[str]:
        """The driver's log of a machine: QEMU's command line and what it said; empty when there is none to be read."""
        try:
            return self._log(name).read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _log(self, name: str) -> Path:
        """Where libvirt has it (its QEMU driver's documentation, "Location of configuration files")."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders = {
            Driver.EMBEDDED: self.root / "log/qemu",
            Driver.SESSION: Path(cache, "libvirt/qemu/log"),
            Driver.SYSTEM: Path("/var/log/libvirt/qemu"),
        }
        return folders[self.driver] / f"{name}.log"

    def close(self) -> None:
        """Machines go on running."""
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.close()


def process_of(uuid: str) -> ProcessId | None:
    """The QEMU process of the domain with this uuid, whichever driver started it."""
    for process in naming(uuid):
        arguments = arguments_of(process.pid)
        if "-uuid" in arguments[:-1] and arguments[arguments.index("-uuid") + 1] == uuid:
            return process
    return None


def command_line(log: list[str]) -> str:
    """QEMU's command line out of a driver's log, which has it before the program starts; "" when it is not there."""
    lines = iter(log)
    for line in lines:
        if re.match(r"^(/\S*/)?qemu-system-\S+ \\$", line):
            words = [line]
            for word in lines:
                words.append(word)
                if not word.endswith("\\"):
                    return " ".join(word.rstrip("\\").strip() for word in words)
    return ""


def _run_event_loop(libvirt: Any) -> None:
    """The driver wants one, registered before the connection is opened."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """libvirt reads where to log to from the environment, when it is loaded; its default is the terminal."""
    if "LIBVIRT_LOG_OUTPUTS" in os.environ:
        yield
        return
    os.environ["LIBVIRT_LOG_OUTPUTS"] = f"3:file:{file}"
    try:
        yield
    finally:
        os.environ.pop("LIBVIRT_LOG_OUTPUTS", None)


def _capabilities_kept() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("testbed") / "libvirt-capabilities"


def _restore_capabilities(root: Path) -> None:
    """Asking QEMU what it can do takes seconds. libvirt keeps the answers, and sees when they are out of date."""
    kept = _capabilities_kept()
    if not os.access(kept, os.R_OK | os.X_OK):
        return
    target = root / "cache" / "qemu" / "capabilities"
    target.mkdir(parents=True)
    for file in kept.glob("*.xml"):
        shutil.copy2(file, target)


def _keep_capabilities(root: Path) -> None:
    kept = _capabilities_kept()
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in (root / "cache" / "qemu" / "capabilities").glob("*.xml"):
        target = kept / file.name
        if not target.exists() or target.read_bytes() != file.read_bytes():
            draft = kept / f".{file.name}.{os.getpid()}"
            shutil.copy2(file, draft)
            draft.replace(target)


def _hint(driver: Driver, error: str) -> str:
    if "Failed to create" in error and driver is Driver.EMBEDDED:
        return "may this user write there? It is below XDG_RUNTIME_DIR or XDG_CACHE_HOME, or else the home folder"
    if driver is not Driver.EMBEDDED:
        return f"is libvirt's daemon there, and may this user reach it? driver: embedded needs neither ({driver})"
    if os.geteuid() == 0 and "libvirt-qemu" in error:
        return "./tb makes the system user libvirt-qemu, which libvirt asks for when run as root"
    return "apt-get install libvirt-daemon-driver-qemu; libvirt.log beside the consoles says more"
