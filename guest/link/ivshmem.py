"""The link of guests: QEMU's ivshmem-doorbell device, driven from user space through vfio-pci.

The device (docs/specs/ivshmem-spec.rst of QEMU) has three regions: BAR0, 256 bytes of registers; BAR1, the MSI-X
table; BAR2, the shared memory. Memory is mapped; registers are too few for a mapping and are read and written through
the device's descriptor; interrupts arrive as eventfds. The kernel side is plain vfio (linux/vfio.h): a container with
the IOMMU, the device's group in it, the device out of the group.
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path

from guest.errors import LinkError
from guest.link.pci import PciDevice, bind_to_vfio, find_devices
from guest.link.segment import address_of

_VENDOR, _DEVICE = 0x1AF4, 0x1110

# vfio ioctls, _IO(';', 100 + n): they carry no size, and the kernel takes it from the structure's first word.
_CHECK_EXTENSION = 0x3B65
_SET_IOMMU = 0x3B66
_GROUP_GET_STATUS = 0x3B67
_GROUP_SET_CONTAINER = 0x3B68
_GROUP_GET_DEVICE_FD = 0x3B6A
_DEVICE_GET_REGION_INFO = 0x3B6C
_DEVICE_GET_IRQ_INFO = 0x3B6D
_DEVICE_SET_IRQS = 0x3B6E

_TYPE1_V2 = 3
_GROUP_VIABLE = 1
_CONFIG_REGION = 7
_MSIX = 2
_IRQ_DATA_EVENTFD_TRIGGER = 1 << 2 | 1 << 5

_PCI_COMMAND = 4
_PCI_MEMORY_AND_BUS_MASTER = 2 | 4

# Registers in BAR0.
_OWN_ID = 8
_DOORBELL = 12

_VECTOR = 0
"""The vector that is rung. One is enough: a daemon that is woken looks at all its rings anyway."""


class IvshmemLink:
    """One guest's end of an ivshmem-doorbell link. Needs root."""

    def __init__(self, device: PciDevice) -> None:
        """Take `device` from whichever driver has it. Raises LinkError with what stands in the way."""
        bind_to_vfio(device)
        self._device = device
        self._open: list[int] = []
        self._mapping: mmap.mmap | None = None
        try:
            self._fd = self._open_device()
            self._enable()
            self._registers, _ = self._region(0)
            self.memory = memoryview(self._map_memory())
            self.address = address_of(self.memory)
            self.doorbell_fds: tuple[int, ...] = (self._connect_interrupt(),)
            self.peer = self._read_own_id()
        except BaseException:
            self._close_all()
            raise
        self._bell = bytearray(4)

    @classmethod
    def open(cls, pci: str | None = None, size_bytes: int | None = None, index: int = 0) -> "IvshmemLink":
        """The ivshmem device at address `pci` (`0000:00:04.0`), or the one at place `index` of those with `size_bytes`.

        Devices are counted in the order of their addresses. Raises LinkError naming the devices that were found.
        """
        found = find_devices(_VENDOR, _DEVICE)
        matching = [
            device
            for device in found
            if (pci is None or device.address == pci) and (size_bytes is None or device.resource_bytes(2) == size_bytes)
        ]
        if not 0 <= index < len(matching):
            wanted = f"address {pci or 'any'}, size {size_bytes or 'any'}, place {index}"
            seen = ", ".join(f"{device.address} of {device.resource_bytes(2)} bytes" for device in found) or "none"
            raise LinkError(
                f"no ivshmem device ({_VENDOR:04x}:{_DEVICE:04x}) with {wanted}; found: {seen}",
                "give the node a link of kind ivshmem-doorbell; `ls /sys/bus/pci/devices` shows what the guest has",
            )
        return cls(matching[index])

    def ring(self, peer: int) -> None:
        """Ring the guest whose link has this `peer` id."""
        struct.pack_into("<I", self._bell, 0, peer << 16 | _VECTOR)
        os.pwrite(self._fd, self._bell, self._registers + _DOORBELL)

    def drain(self) -> None:
        """Forget that this guest was rung."""
        try:
            os.eventfd_read(self.doorbell_fds[0])
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the device and the memory back."""
        self.memory.release()
        self._close_all()

    def _open_device(self) -> int:
        """The device's descriptor: container, group, IOMMU, device."""
        container = self._open_node(Path("/dev/vfio/vfio"), "the modules vfio and vfio_iommu_type1 must be loaded")
        if not fcntl.ioctl(container, _CHECK_EXTENSION, _TYPE1_V2):
            raise LinkError("vfio here has no type 1 IOMMU (version 2)", "modprobe vfio_iommu_type1")
        number = self._device.iommu_group()
        group = self._open_node(Path(f"/dev/vfio/{number}"), "is another process using the device?")
        status = bytearray(struct.pack("<II", 8, 0))
        fcntl.ioctl(group, _GROUP_GET_STATUS, status)
        if not struct.unpack("<II", status)[1] & _GROUP_VIABLE:
            others = [name for name in self._device.group_members() if name != self._device.address]
            raise LinkError(
                f"IOMMU group {number} of {self._device.address} also holds {', '.join(others)}, with other drivers",
                "put the ivshmem device on the root bus (bus='0' in its domain XML), where it has a group of its own",
            )
        try:
            fcntl.ioctl(group, _GROUP_SET_CONTAINER, struct.pack("<i", container))
            fcntl.ioctl(container, _SET_IOMMU, _TYPE1_V2)
            # With a mutable buffer the result is the ioctl's own: here the descriptor.
            fd: int = fcntl.ioctl(group, _GROUP_GET_DEVICE_FD, bytearray(self._device.address.encode() + b"\0"))
        except OSError as error:
            raise LinkError(
                f"vfio refuses {self._device.address} (group {number}): {error}",
                "EPERM without interrupt remapping: /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts "
                "must be Y",
            ) from error
        self._open.append(fd)
        return fd

    def _enable(self) -> None:
        """Let the device be accessed and raise interrupts, which vfio has switched off. Otherwise none ever arrives."""
        config, _ = self._region(_CONFIG_REGION)
        (command,) = struct.unpack("<H", os.pread(self._fd, 2, config + _PCI_COMMAND))
        os.pwrite(self._fd, struct.pack("<H", command | _PCI_MEMORY_AND_BUS_MASTER), config + _PCI_COMMAND)

    def _region(self, index: int) -> tuple[int, int]:
        """Offset within the device's descriptor, and size, of a region."""
        info = bytearray(struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        fcntl.ioctl(self._fd, _DEVICE_GET_REGION_INFO, info)
        *_, size_bytes, offset = struct.unpack("<IIIIQQ", info)
        return offset, size_bytes

    def _map_memory(self) -> mmap.mmap:
        offset, size_bytes = self._region(2)
        if not size_bytes:
            raise LinkError(
                f"{self._device.address} has no shared memory (BAR2 is empty)",
                "the ivshmem server was not there when QEMU started",
            )
        # vfio maps it uncached. On aarch64 that is device memory: an access that is not aligned, and so almost any
        # copying of bytes, ends the process by SIGBUS (with real CPUs, and QEMU from version 9 on). sysfs maps the same
        # memory write-combined, which is normal memory. The kernel refuses that once vfio has mapped it.
        combined = self._device.path / "resource2_wc"
        if combined.exists():
            fd = self._open_node(combined, "vfio or another process has mapped the memory already")
            self._mapping = mmap.mmap(fd, size_bytes)
            self.mappable = fd, 0
        else:
            self._mapping = mmap.mmap(self._fd, size_bytes, offset=offset)
            self.mappable = self._fd, offset
        return self._mapping

    def _connect_interrupt(self) -> int:
        info = bytearray(struct.pack("<IIII", 16, 0, _MSIX, 0))
        fcntl.ioctl(self._fd, _DEVICE_GET_IRQ_INFO, info)
        vectors = struct.unpack("<IIII", info)[3]
        if vectors <= _VECTOR:
            raise LinkError(
                f"{self._device.address} has {vectors} interrupt vectors, expected at least {_VECTOR + 1}",
                "the link must be of kind ivshmem-doorbell; ivshmem-plain has no doorbell",
            )
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._open.append(bell)
        request = struct.pack("<IIIIIi", 24, _IRQ_DATA_EVENTFD_TRIGGER, _MSIX, _VECTOR, 1, bell)
        fcntl.ioctl(self._fd, _DEVICE_SET_IRQS, request)
        return bell

    def _read_own_id(self) -> int:
        (own,) = struct.unpack("<i", os.pread(self._fd, 4, self._registers + _OWN_ID))
        if own < 0:
            raise LinkError(
                f"{self._device.address} has no peer id ({own})",
                "its ivshmem server is gone or has not answered yet",
            )
        return int(own)

    def _open_node(self, path: Path, hint: str) -> int:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise LinkError(f"{path} cannot be opened: {error.strerror}", hint) from error
        self._open.append(fd)
        return fd

    def _close_all(self) -> None:
        if self._mapping is not None:
            try:
                self._mapping.close()
            except BufferError:
                pass  # a view is still held somewhere: the mapping goes with the last one
        while self._open:
            os.close(self._open.pop())
