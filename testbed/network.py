"""Network devices: one for SSH from the host, and one for each `ethernet` link between guests.

They are QEMU arguments, not domain XML: libvirt 9 cannot say "let the kernel choose the forwarded port", nor -netdev
dgram. All of it is bound to loopback or to unix sockets of the run directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from testbed.domain import NETWORK_SLOT
from testbed.spec import LinkKind, LinkSpec, TestbedSpec

SSH_PORT = 22
USER_NETDEV = "user0"
USER_MAC = "52:54:00:00:00:00"
# The addresses that QEMU's user-mode network gives by default; each guest has a network of its own.
USER_ADDRESS, USER_GATEWAY = "10.0.2.15/24", "10.0.2.2"
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")


@dataclass(frozen=True)
class Interface:
    """One network device of one node, with the QEMU arguments that make it."""

    mac: str
    address: str
    gateway: str
    arguments: tuple[str, ...]

    @property
    def seed_line(self) -> str:
        """What the guest's init is told: which device, and its address."""
        return f"{self.mac} {self.address} {self.gateway}".rstrip()


def ethernet_address(spec: TestbedSpec, link: LinkSpec, node: str) -> str:
    """The IPv4 address of `node` on an ethernet link of the testbed."""
    number = [each for each in spec.links if each.kind is LinkKind.ETHERNET].index(link)
    return f"192.168.{77 + number}.{link.nodes.index(node) + 1}"


def interfaces(spec: TestbedSpec, node: str, directory: Path) -> list[Interface]:
    """All of a node's network devices in the order of their PCI slots."""
    mine = [user_network()]
    for position, link in enumerate(spec.links_of(node, LinkKind.ETHERNET)):
        device = f"eth{position + 1}"
        mac = _mac(spec, node, spec.links.index(link) + 1)
        mine.append(
            Interface(
                mac=mac,
                address=f"{ethernet_address(spec, link, node)}/24",
                gateway="",
                arguments=(
                    *_wires(spec, link, node, device, directory),
                    *_device(device, mac, NETWORK_SLOT + 1 + position),
                ),
            )
        )
    return mine


def forwarded_port(usernet: str) -> int | None:
    """The host's port for SSH, from what QEMU's monitor answers to `info usernet`; None when it names none."""
    found = FORWARD.search(usernet)
    return int(found[1]) if found else None


def _mac(spec: TestbedSpec, node: str, network: int) -> str:
    # Locally administered, in the range that QEMU guests use; networks of two testbeds never meet.
    number = [each.name for each in spec.nodes].index(node)
    return f"52:54:00:{network:02x}:{number >> 8:02x}:{number & 0xFF:02x}"


def user_network() -> Interface:
    """The device for SSH. It is the same in all guests: each is alone on its network."""
    # Port 0: the kernel chooses, so that two testbeds never want the same. restrict: a guest reaches neither the
    # world nor the services on the host's loopback.
    netdev = f"user,id={USER_NETDEV},restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:{SSH_PORT}"
    arguments = ("-netdev", netdev, *_device(USER_NETDEV, USER_MAC, NETWORK_SLOT))
    return Interface(USER_MAC, USER_ADDRESS, USER_GATEWAY, arguments)


def _device(netdev: str, mac: str, slot: int) -> tuple[str, str]:
    # No boot ROM: the kernel is loaded directly, and looking at the ROM costs seconds under emulation.
    return "-device", f"virtio-net-pci,netdev={netdev},mac={mac},romfile=,bus=pcie.0,addr={slot:#x}"


def _wire(identifier: str, link_number: int, here: int, there: int, directory: Path) -> tuple[str, str]:
    local, remote = (
        str(directory / f"eth{link_number}-{a}-{b}.sock").replace(",", ",,") for a, b in ((here, there), (there, here))
    )
    return (
        "-netdev",
        f"dgram,id={identifier},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}",
    )


def _wires(spec: TestbedSpec, link: LinkSpec, node: str, device: str, directory: Path) -> tuple[str, ...]:
    """A wire has two ends. Of more than two nodes the first one's QEMU is the hub to which all others are wired."""
    number, here = spec.links.index(link), link.nodes.index(node)
    if here > 0:
        return _wire(device, number, here, 0, directory)
    if len(link.nodes) == 2:
        return _wire(device, number, 0, 1, directory)
    hub = number
    arguments = ["-netdev", f"hubport,id={device},hubid={hub}"]
    for there in range(1, len(link.nodes)):
        wire = f"{device}-{there}"
        arguments += _wire(wire, number, 0, there, directory)
        arguments += ["-netdev", f"hubport,id={wire}-port,hubid={hub},netdev={wire}"]
    return tuple(arguments)
