"""PCI devices as sysfs shows them, and handing one to vfio-pci."""

import os
from pathlib import Path
from typing import NamedTuple

from guest.errors import LinkError

_SYSFS = Path("/sys")
_MODULES = ("vfio-pci", "vfio_iommu_type1")
_RESOURCE_MEMORY = 0x200  # IORESOURCE_MEM


class PciDevice(NamedTuple):
    """One device. `sysfs` is where sysfs is mounted."""

    address: str
    sysfs: Path = _SYSFS

    @property
    def path(self) -> Path:
        """Its directory in sysfs."""
        return self.sysfs / "bus/pci/devices" / self.address

    @property
    def driver(self) -> str | None:
        """The driver that is bound to it."""
        link = self.path / "driver"
        return link.resolve().name if link.exists() else None

    def resource_bytes(self, bar: int) -> int:
        """Size of a base address register's memory; 0 when it has none."""
        first, last, flags = (int(word, 16) for word in (self.path / "resource").read_text().splitlines()[bar].split())
        return last - first + 1 if flags & _RESOURCE_MEMORY else 0

    def iommu_group(self) -> int:
        """Number of its IOMMU group. Raises LinkError when the machine has no IOMMU, or none for this device."""
        link = self.path / "iommu_group"
        if not link.exists():
            units = sorted(unit.name for unit in (self.sysfs / "class/iommu").glob("*"))
            raise LinkError(
                f"{self.address} is in no IOMMU group; IOMMUs of this machine: {', '.join(units) or 'none'}",
                "give the machine an IOMMU (intel with intel_iommu=on on x86_64, smmuv3 on aarch64)",
            )
        return int(link.resolve().name)

    def group_members(self) -> list[str]:
        """Addresses of all devices in its IOMMU group, its own among them."""
        return sorted(member.name for member in (self.path / "iommu_group/devices").iterdir())


def find_devices(vendor: int, device: int, sysfs: Path = _SYSFS) -> list[PciDevice]:
    """All devices of this vendor and device number, in the order of their addresses."""
    return [
        PciDevice(path.name, sysfs)
        for path in sorted((sysfs / "bus/pci/devices").glob("*"))
        if (_number(path / "vendor"), _number(path / "device")) == (vendor, device)
    ]


def bind_to_vfio(device: PciDevice) -> None:
    """Load vfio-pci and hand `device` to it, from whichever driver has it. Raises LinkError if it is not taken."""
    load_drivers(device.sysfs)
    device.iommu_group()  # says what is missing, which the failing probe would not
    _allow_interrupts(device.sysfs)
    if device.driver == "vfio-pci":
        return
    (device.path / "driver_override").write_text("vfio-pci")
    if device.driver is not None:
        (device.path / "driver/unbind").write_text(device.address)
    (device.sysfs / "bus/pci/drivers_probe").write_text(device.address)
    if device.driver != "vfio-pci":
        raise LinkError(
            f"vfio-pci did not take {device.address}; its driver is {device.driver or 'none'}",
            "the guest's kernel log (dmesg) says why; a device behind a bridge shares its IOMMU group with others",
        )


def load_drivers(sysfs: Path = _SYSFS) -> None:
    """Have the kernel load what `bind_to_vfio` needs, as far as it has not. Raises LinkError when it cannot."""
    for module in _MODULES:
        _load(module, sysfs)


def _allow_interrupts(sysfs: Path) -> None:
    """Tell vfio that the device is trusted: on a machine without interrupt remapping it refuses all others."""
    parameter = sysfs / "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    if parameter.exists():
        parameter.write_text("1")


def _load(module: str, sysfs: Path) -> None:
    if (sysfs / "module" / module.replace("-", "_")).exists():
        return
    # Not by subprocess: importing that takes an emulated guest longer than all the rest here.
    process = os.posix_spawnp("modprobe", ["modprobe", module], os.environ)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if exit_code:
        raise LinkError(
            f"modprobe {module} ended with {exit_code}; its own words are on standard error",
            "the guest image must hold the module and what it needs",
        )


def _number(path: Path) -> int:
    return int(path.read_text(), 16)
