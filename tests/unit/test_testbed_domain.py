from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from testbed.domain import Domain, OwnBoot, SharedMemory, architectures, cpus_to_declare, render
from testbed.errors import Failure
from testbed.spec import Accelerator

NAMESPACE = "{http://libvirt.org/schemas/domain/qemu/1.0}"
DOMAIN = Domain(
    name="pair-x86",
    uuid="55802b76-633d-43f8-a732-5e8370f2f80f",
    arch="x86_64",
    accelerator=Accelerator.TCG,
    memory_bytes=512 << 20,
    cpus=1,
    emulator=Path("/usr/bin/qemu-system-x86_64"),
    kernel=Path("/images/kernel"),
    initramfs=Path("/run/x86.initramfs"),
    command_line="console=ttyS0 quiet",
    root=Path("/images/root.erofs"),
    console_log=Path("/run/x86.console"),
    console_socket=Path("/run/x86.sock"),
    shared_memory=(SharedMemory("shm0", Path("/run/shm0.sock"), 4, 8),),
    arguments=("-netdev", "user,id=user0"),
)
SERIAL = [
    "-chardev",
    "socket,id=console,path=/run/x86.sock,server=on,wait=off,logfile=/run/x86.console,logappend=off",
    "-serial",
    "chardev:console",
]


def parsed(domain: Domain) -> ET.Element:
    return ET.fromstring(render(domain))


def arguments(root: ET.Element) -> list[str | None]:
    """What is appended to QEMU's command line."""
    return [argument.get("value") for argument in root.iter(f"{NAMESPACE}arg")]


def value(element: ET.Element, path: str, attribute: str = "") -> str:
    found = element.find(path)
    assert found is not None, path
    return found.get(attribute, "") if attribute else found.text or ""


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_every_machine_boots_its_kernel_directly_and_has_only_what_was_asked_for(arch: str) -> None:
    root = parsed(replace(DOMAIN, arch=arch))
    assert root.get("type") == "qemu"
    assert value(root, "os/kernel") == "/images/kernel"
    assert value(root, "os/initrd") == "/run/x86.initramfs"
    assert value(root, "os/cmdline") == "console=ttyS0 quiet"
    assert value(root, "memory") == str(512 << 20)
    devices = root.find("devices")
    assert devices is not None
    kinds = sorted(child.tag for child in devices)
    assert kinds == ["controller", "disk", "emulator", "iommu", "memballoon", "shmem"]
    assert value(devices, "controller", "model") == "none"
    assert value(devices, "memballoon", "model") == "none"
    assert devices.find("disk/readonly") is not None
    assert arguments(root) == [*SERIAL, "-netdev", "user,id=user0"]
    assert root.find("seclabel") is None


def test_shared_memory_sits_on_the_root_bus_in_an_iommu_group_of_its_own() -> None:
    two = (*DOMAIN.shared_memory, SharedMemory("shm1", Path("/run/shm1.sock"), 2, 9))
    places = [
        (
            shmem.get("name"),
            value(shmem, "server", "path"),
            value(shmem, "msi", "vectors"),
            value(shmem, "address", "slot"),
        )
        for shmem in parsed(replace(DOMAIN, shared_memory=two)).iter("shmem")
        if value(shmem, "address", "bus") == "0" and value(shmem, "address", "function") == "0"
    ]
    assert places == [("shm0", "/run/shm0.sock", "4", "8"), ("shm1", "/run/shm1.sock", "2", "9")]


def test_shared_memory_without_doorbells_is_what_its_server_holds_and_no_file() -> None:
    plain = SharedMemory("shm1", Path("/run/shm1.sock"), 0, 9, Path("/proc/7/fd/4"), 1 << 20)
    root = parsed(replace(DOMAIN, shared_memory=(*DOMAIN.shared_memory, plain)))
    assert [shmem.get("name") for shmem in root.iter("shmem")] == ["shm0"]
    assert arguments(root)[len(SERIAL) :] == [
        "-object",
        "memory-backend-file,id=shm1,mem-path=/proc/7/fd/4,size=1048576,share=on",
        "-device",
        "ivshmem-plain,memdev=shm1,bus=pcie.0,addr=0x9",
        "-netdev",
        "user,id=user0",
    ]


def test_processors_and_iommus_are_those_that_were_measured() -> None:
    x86, arm = parsed(DOMAIN), parsed(replace(DOMAIN, arch="aarch64"))
    assert value(x86, "os/type", "machine") == "q35"
    assert value(x86, "cpu", "mode") == "maximum"
    assert value(x86, "cpu/feature[@name='erms']", "policy") == "disable"
    assert value(x86, "devices/iommu", "model") == "intel"
    assert value(x86, "devices/iommu/driver", "intremap") == "off"
    assert value(x86, "features/ioapic", "driver") == "qemu"
    assert value(arm, "os/type", "machine") == "virt"
    assert value(arm, "cpu/model") == "neoverse-n1"
    assert value(arm, "devices/iommu", "model") == "smmuv3"
    assert arm.find("features/acpi") is None  # would want firmware


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_under_kvm_the_guest_gets_the_host_processor(arch: str) -> None:
    root = parsed(replace(DOMAIN, arch=arch, accelerator=Accelerator.KVM))
    assert root.get("type") == "kvm"
    assert value(root, "cpu", "mode") == "host-passthrough"
    assert value(root, "vcpu") == "1"


def test_under_tcg_one_processor_is_declared_as_one_of_two_so_that_memory_barriers_are_kept() -> None:
    root = parsed(DOMAIN)
    assert (value(root, "vcpu", "current"), value(root, "vcpu")) == ("1", "2")
    assert [cpus_to_declare(cpus, Accelerator.TCG) for cpus in (1, 2, 4)] == [2, 2, 4]
    assert [cpus_to_declare(cpus, Accelerator.KVM) for cpus in (1, 2, 4)] == [1, 2, 4]


def test_text_cannot_become_xml() -> None:
    evil = "\"><evil/>&'"
    root = parsed(replace(DOMAIN, command_line=evil, arguments=(evil,), root=Path("/a" + evil)))
    assert root.find(".//evil") is None
    assert value(root, "os/cmdline") == evil
    assert value(root, "devices/disk/source", "file") == "/a" + evil
    assert arguments(root) == [*SERIAL, evil]


def test_a_path_cannot_become_an_option_of_the_console() -> None:
    place = Path("/a,server=off/x86.sock")
    assert ",path=/a,,server=off/x86.sock,server=on," in replace(DOMAIN, console_socket=place).console


def test_by_the_systems_daemon_a_machine_runs_as_its_user_and_no_file_changes_hands() -> None:
    root = parsed(replace(DOMAIN, owner=(1000, 100), unconfined=("apparmor",)))
    labels = root.findall("seclabel")
    assert [dict(label.items()) for label in labels] == [
        {"type": "static", "model": "dac", "relabel": "no"},
        {"type": "none", "model": "apparmor"},
    ]
    assert value(labels[0], "label") == "+1000:+100"


def test_an_architecture_without_a_machine_is_refused_with_those_that_have_one() -> None:
    assert architectures() == ["aarch64", "x86_64"]
    for arch in ("riscv64", "../x86_64", "_machine"):
        with pytest.raises(Failure, match="expected of aarch64, x86_64"):
            render(replace(DOMAIN, arch=arch))


def own_boot(arch: str) -> ET.Element:
    firmware = (Path("/fw/code.fd"), Path("/fw/vars.fd")) if arch == "aarch64" else None
    own = OwnBoot(Path("/run/x86.qcow2"), Path("/run/x86.seed"), firmware, Path("/run/x86.nvram"))
    return parsed(replace(DOMAIN, arch=arch, kernel=None, initramfs=None, command_line="", root=None, own=own))


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_machine_with_a_boot_of_its_own_has_a_disk_to_write_to_and_a_seed_to_read(arch: str) -> None:
    root = own_boot(arch)
    assert root.find("os/kernel") is None
    assert root.find("os/initrd") is None
    assert value(root, "os/boot", "dev") == "hd"
    disk, seed = root.findall("devices/disk")
    assert (value(disk, "source", "file"), value(disk, "driver", "type")) == ("/run/x86.qcow2", "qcow2")
    assert disk.find("readonly") is None
    assert (value(seed, "source", "file"), value(seed, "driver", "type")) == ("/run/x86.seed", "raw")
    assert seed.find("readonly") is not None
    slots = [value(each, "address", "slot") for each in (disk, seed)]
    assert len(set(slots)) == 2


def test_only_aarch64_starts_by_uefi() -> None:
    assert own_boot("x86_64").find("os/loader") is None
    arm = own_boot("aarch64")
    assert value(arm, "os/loader") == "/fw/code.fd"
    assert value(arm, "os/loader", "readonly") == "yes"
    assert value(arm, "os/nvram", "template") == "/fw/vars.fd"
    assert value(arm, "os/nvram") == "/run/x86.nvram"
    assert arm.find("features/acpi") is not None, "the firmware tells the kernel of its devices by ACPI"
