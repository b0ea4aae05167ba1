import itertools
from pathlib import Path

import pytest

from testbed.network import USER_MAC, ethernet_address, forwarded_port, interfaces
from testbed.spec import LinkKind, LinkSpec, NodeSpec, TestbedSpec

RUN = Path("/run/t")
USERNET = """Hub -1 (user0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  12       127.0.0.1 32983       10.0.2.15    22     0     0
"""


def spec_of(names: list[str], links: int = 1) -> TestbedSpec:
    return TestbedSpec(
        "net",
        tuple(NodeSpec(name, "x86_64", 512 << 20) for name in names),
        tuple(LinkSpec(f"net{number}", LinkKind.ETHERNET, 0, 0, tuple(names)) for number in range(links)),
    )


def sockets(spec: TestbedSpec, node: str) -> dict[str, str]:
    """Local path → remote path of each wire that ends in this node's QEMU."""
    found = {}
    for argument in (argument for each in interfaces(spec, node, RUN) for argument in each.arguments):
        fields = dict(field.partition("=")[::2] for field in argument.split(","))
        if "local.path" in fields:
            found[fields["local.path"]] = fields["remote.path"]
    return found


def test_the_forwarded_port_is_read_from_what_the_monitor_says() -> None:
    assert forwarded_port(USERNET) == 32983
    assert forwarded_port("Hub -1 (user0):\n") is None
    assert forwarded_port(USERNET.replace("127.0.0.1", "0.0.0.0")) is None
    # Connections through the forward are listed too, and are not it.
    assert forwarded_port(USERNET.replace("HOST_FORWARD", "ESTABLISHED")) is None


def test_ssh_is_forwarded_from_loopback_alone_and_the_guest_reaches_nothing_else() -> None:
    user = interfaces(spec_of(["a", "b"]), "a", RUN)[0].arguments[1]
    assert "hostfwd=tcp:127.0.0.1:0-:22" in user
    assert "restrict=on" in user


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_wire_has_two_ends_that_name_each_other(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    spec = spec_of(names, links=2)
    ends = [sockets(spec, name) for name in names]
    wires = {local: remote for end in ends for local, remote in end.items()}
    assert len(wires) == sum(len(end) for end in ends) == 2 * 2 * (count - 1)
    assert all(wires[remote] == local and remote != local for local, remote in wires.items())


def test_more_than_two_nodes_meet_in_the_first_ones_hub() -> None:
    spec = spec_of(["a", "b", "c"])
    hub = [argument for argument in interfaces(spec, "a", RUN)[1].arguments if argument.startswith("hubport")]
    assert len(hub) == 3
    assert {dict(field.partition("=")[::2] for field in each.split(","))["hubid"] for each in hub} == {"0"}
    assert not any("hubport" in argument for argument in interfaces(spec, "b", RUN)[1].arguments)


def test_addresses_are_all_different_and_hardware_addresses_too() -> None:
    names = [f"n{number}" for number in range(4)]
    spec = spec_of(names, links=3)
    addresses = [ethernet_address(spec, link, name) for link, name in itertools.product(spec.links, names)]
    assert addresses[:2] == ["192.168.77.1", "192.168.77.2"]
    assert addresses[4] == "192.168.78.1"
    assert len(set(addresses)) == 12
    macs = [each.mac for name in names for each in interfaces(spec, name, RUN)[1:]]
    assert len(set(macs)) == len(macs) == 4 * 3
    # Alone on its network, the device for SSH has the same address in all guests: a saved state knows no other.
    assert {interfaces(spec, name, RUN)[0].mac for name in names} == {USER_MAC}
    assert USER_MAC not in macs
    assert all(mac.startswith("52:54:00:") for mac in macs)


def test_devices_have_slots_of_their_own_in_the_order_of_the_links() -> None:
    slots = [each.arguments[-1].rpartition("addr=")[2] for each in interfaces(spec_of(["a", "b"], 3), "a", RUN)]
    assert slots == ["0x10", "0x11", "0x12", "0x13"]


def test_the_guest_is_told_its_addresses_by_hardware_address() -> None:
    user, link = interfaces(spec_of(["a", "b"]), "b", RUN)
    assert user.seed_line == f"{user.mac} 10.0.2.15/24 10.0.2.2"
    assert link.seed_line == f"{link.mac} 192.168.77.2/24"


def test_a_comma_in_a_path_does_not_end_it() -> None:
    arguments = interfaces(spec_of(["a", "b"]), "a", Path("/run/a,b"))[1].arguments
    assert "local.path=/run/a,,b/eth0-0-1.sock," in arguments[1]
