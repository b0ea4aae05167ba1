"""Finding a PCI device in sysfs and handing it to vfio-pci, on a sysfs made of ordinary files."""

from pathlib import Path

import pytest

from guest.errors import LinkError
from guest.link.pci import PciDevice, bind_to_vfio, find_devices

IVSHMEM = (0x1AF4, 0x1110)
MEMORY = "0x{:016x} 0x{:016x} 0x000000000014220c"
NOTHING = "0x0000000000000000 0x0000000000000000 0x0000000000000000"


class Sysfs:
    """As much of sysfs as the code looks at, with the modules loaded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for module in ("vfio_pci", "vfio_iommu_type1/parameters"):
            (root / "module" / module).mkdir(parents=True)
        (root / "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts").write_text("N\n")
        (root / "bus/pci").mkdir(parents=True)
        (root / "bus/pci/drivers_probe").write_text("")

    def add(self, address: str, identity: tuple[int, int] = IVSHMEM, shared_bytes: int = 1 << 20) -> PciDevice:
        path = self.root / "bus/pci/devices" / address
        path.mkdir(parents=True)
        (path / "vendor").write_text(f"{identity[0]:#06x}\n")
        (path / "device").write_text(f"{identity[1]:#06x}\n")
        bars = [MEMORY.format(0x1000, 0x10FF), NOTHING, MEMORY.format(1 << 30, (1 << 30) + shared_bytes - 1)]
        (path / "resource").write_text("\n".join(bars) + "\n")
        return PciDevice(address, self.root)

    def put_in_group(self, device: PciDevice, number: int) -> None:
        group = self.root / "kernel/iommu_groups" / str(number)
        (group / "devices").mkdir(parents=True, exist_ok=True)
        (group / "devices" / device.address).touch()
        (device.path / "iommu_group").symlink_to(group)

    def bind(self, device: PciDevice, driver: str) -> None:
        directory = self.root / "bus/pci/drivers" / driver
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "unbind").write_text("")
        (device.path / "driver").symlink_to(directory)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_devices_are_found_by_their_numbers_in_the_order_of_addresses(sysfs: Sysfs) -> None:
    for address in ("0000:00:09.0", "0000:00:03.0"):
        sysfs.add(address)
    sysfs.add("0000:00:01.0", (0x1AF4, 0x1000))
    assert [device.address for device in find_devices(*IVSHMEM, sysfs.root)] == ["0000:00:03.0", "0000:00:09.0"]


def test_no_pci_bus_means_no_devices(tmp_path: Path) -> None:
    assert find_devices(*IVSHMEM, tmp_path) == []


def test_the_size_of_a_bar_is_that_of_its_memory(sysfs: Sysfs) -> None:
    device = sysfs.add("0000:00:03.0", shared_bytes=64 << 20)
    assert [device.resource_bytes(bar) for bar in (0, 1, 2)] == [256, 0, 64 << 20]


def test_a_device_without_an_iommu_says_so_before_anything_is_bound(sysfs: Sysfs) -> None:
    device = sysfs.add("0000:00:03.0")
    with pytest.raises(LinkError, match=r"(?s)in no IOMMU group; IOMMUs of this machine: none.*hint:.*smmuv3"):
        bind_to_vfio(device)
    assert not (device.path / "driver_override").exists()


def test_an_iommu_that_leaves_the_device_out_is_named(sysfs: Sysfs) -> None:
    device = sysfs.add("0000:00:03.0")
    (sysfs.root / "class/iommu/dmar0").mkdir(parents=True)
    with pytest.raises(LinkError, match="IOMMUs of this machine: dmar0"):
        device.iommu_group()


def test_all_members_of_a_group_are_listed(sysfs: Sysfs) -> None:
    devices = [sysfs.add(address) for address in ("0000:00:03.0", "0000:00:02.0")]
    for device in devices:
        sysfs.put_in_group(device, 7)
    assert devices[0].iommu_group() == 7
    assert devices[0].group_members() == ["0000:00:02.0", "0000:00:03.0"]


def test_a_device_that_vfio_has_already_is_left_as_it_is(sysfs: Sysfs) -> None:
    device = sysfs.add("0000:00:03.0")
    sysfs.put_in_group(device, 1)
    sysfs.bind(device, "vfio-pci")
    bind_to_vfio(device)
    assert not (device.path / "driver_override").exists()
    parameter = sysfs.root / "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    assert parameter.read_text() == "1"


def test_a_device_that_vfio_does_not_take_is_an_error_with_the_driver_that_has_it(sysfs: Sysfs) -> None:
    device = sysfs.add("0000:00:03.0")
    sysfs.put_in_group(device, 1)
    sysfs.bind(device, "stubborn")
    with pytest.raises(LinkError, match=r"vfio-pci did not take 0000:00:03\.0; its driver is stubborn"):
        bind_to_vfio(device)
    assert (device.path / "driver_override").read_text() == "vfio-pci"
    assert (device.path / "driver/unbind").read_text() == "0000:00:03.0"
    assert (sysfs.root / "bus/pci/drivers_probe").read_text() == "0000:00:03.0"
