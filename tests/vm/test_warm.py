"""Guests that go on from saved states: as able as booted ones, nobody's twin, and not in the way when that fails."""

import base64
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from images import Image
from orchestrator.stages.agents import Agents
from orchestrator.stages.deployment import archive, resident, start_agent
from testbed import Deadline, LinkKind, LinkSpec, NodeSpec, Testbed, TestbedSpec, faults, states, up
from testbed.network import ethernet_address
from testbed.states import Resident
from testbed.warm import Mode
from tests.vm.conftest import MIB, driver, pair_spec, say


@pytest.fixture(scope="module")
def agent(images: Mapping[str, Image]) -> Resident:
    return resident(archive(images[platform.machine()], say))


@pytest.fixture(scope="module")
def twice(state_home: Path, images: Mapping[str, Image], agent: Resident) -> Iterator[tuple[Testbed, Testbed]]:
    """Two testbeds from the same two states, which are made for the first."""
    for state in states.states():
        state.remove()
    with (
        up(pair_spec("one"), images, say, mode=Mode.WARM, resident=agent) as one,
        up(pair_spec("two"), images, say, mode=Mode.AUTO, resident=agent) as two,
    ):
        yield one, two


def output(testbed: Testbed, node: str, *words: str) -> str:
    shell = testbed.nodes[node].shell()
    try:
        done = shell.run(words)
        assert done.exit_code == 0, done
        return done.stdout.decode().strip()
    finally:
        shell.close()


def test_all_start_from_the_states_that_were_made_once(twice: tuple[Testbed, Testbed]) -> None:
    assert len(states.states()) == 2
    for testbed in twice:
        for node in testbed.nodes.values():
            assert node.warm, node.warm_reason
            assert list(node.stages) == ["identity", "network", "sshd"]
            print(f"{testbed.name}.{node.name}: warm, ready after {node.boot_s:.2f} s")


def test_each_is_who_it_was_told_to_be(twice: tuple[Testbed, Testbed]) -> None:
    """Logging in verifies the host key, which is another one for each."""
    for testbed in twice:
        for node in testbed.nodes:
            assert output(testbed, node, "cat", "/proc/sys/kernel/hostname") == node


def test_clocks_are_set_and_no_two_draw_the_same_random_numbers(twice: tuple[Testbed, Testbed]) -> None:
    drawn = set()
    for testbed in twice:
        for name, node in testbed.nodes.items():
            assert node.boot_s is not None
            before = time.time()
            said = output(testbed, name, "sh", "-c", "date +%s; head -c 16 /dev/urandom | base64").split()
            # It is told the time while it starts; one that is not lacks all the time since it was saved.
            off_s = node.boot_s + 1
            assert before - off_s <= int(said[0]) <= time.time() + off_s
            drawn.add(said[1])
    assert len(drawn) == 4


def test_devices_of_the_links_are_there_and_work(twice: tuple[Testbed, Testbed]) -> None:
    one, _ = twice
    for node in one.nodes:
        groups = output(one, node, "ls", "/sys/bus/pci/devices/0000:00:08.0/iommu_group/devices").split()
        assert groups == ["0000:00:08.0"]
        assert output(one, node, "cat", "/sys/bus/pci/devices/0000:00:09.0/device") == "0x1110"
    address = ethernet_address(one.spec, one.spec.link("net0"), "arm")
    assert "3 packets received" in output(one, "x86", "busybox", "ping", "-c", "3", "-i", "0.2", address)
    with one.segment("shm0") as peer:
        assert sorted(len(bells) for bells in peer.doorbells.values()) == [4, 4]


def test_agents_are_there_before_anybody_starts_them(twice: tuple[Testbed, Testbed]) -> None:
    _, two = twice
    processes = {name: start_agent(node, b"", Deadline(60)) for name, node in two.nodes.items()}
    agents = Agents(processes)
    answers = agents.ask({name: {"op": "hello"} for name in two.nodes}, Deadline(60))
    assert {name: answer["isa"] for name, answer in answers.items()} == {"x86": "x86_64", "arm": "aarch64"}
    agents.close()


def test_a_state_holds_no_key_of_a_testbed(twice: tuple[Testbed, Testbed]) -> None:
    secrets = []
    for testbed in twice:
        folder = testbed.run_directory
        keys = [(folder / "id_ed25519.pub").read_text(), *(folder / "known_hosts").read_text().splitlines()]
        # The 32 bytes of each public key, as they are and in letters; a private key has them in it too.
        for key in keys:
            letters = re.search(r"ssh-ed25519 (\S+)", key)
            assert letters is not None
            secrets += [letters[1].encode(), base64.b64decode(letters[1])[-32:]]
        private = (folder / "id_ed25519").read_text().splitlines()
        secrets += [line.encode() for line in private[1:-1]]
    assert len(secrets) > 8
    for state in states.states():
        content = state.file.read_bytes()
        assert [secret for secret in secrets if secret in content] == []


def test_a_console_log_shows_no_key(twice: tuple[Testbed, Testbed]) -> None:
    for node in twice[0].nodes.values():
        said = node.console.read_text()
        assert "stage=identity" in said
        assert "entropy" not in said


def test_a_reset_boots_a_restored_guest_as_the_same_node(twice: tuple[Testbed, Testbed]) -> None:
    node = twice[1].nodes["arm"]
    faults.reset(node, say)
    assert output(twice[1], "arm", "cat", "/etc/hostname") == "arm"
    assert "stage=initramfs" in node.console.read_text()
    devices = output(twice[1], "arm", "ls", "/sys/bus/pci/devices").split()
    assert {"0000:00:08.0", "0000:00:11.0"} <= set(devices)


def test_a_state_that_is_broken_is_thrown_away_and_the_node_boots(
    twice: tuple[Testbed, Testbed], images: Mapping[str, Image], agent: Resident
) -> None:
    spec = TestbedSpec("broken", (NodeSpec("arm", "aarch64", 256 * MIB),), driver=driver())
    up(spec, images, say, mode=Mode.WARM, resident=agent).down()
    (state,) = (each for each in states.states() if each.memory_bytes == 256 * MIB)
    whole = state.file.read_bytes()
    state.file.write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    with up(spec, images, said.append, resident=agent) as testbed:
        node = testbed.nodes["arm"]
        assert not node.warm
        assert "its saved state was of no use" in node.warm_reason
        assert output(testbed, "arm", "uname", "-m") == "aarch64"
    assert states.find(state.key) is None
    assert any("cold start after all" in line for line in said)


def test_four_guests_of_two_states_at_once(
    twice: tuple[Testbed, Testbed], images: Mapping[str, Image], agent: Resident
) -> None:
    names = ("x1", "x2", "a1", "a2")
    nodes = tuple(NodeSpec(name, "x86_64" if name[0] == "x" else "aarch64", 512 * MIB) for name in names)
    links = (
        LinkSpec("shm0", LinkKind.IVSHMEM_DOORBELL, 1 * MIB, 1, names),
        LinkSpec("shm1", LinkKind.IVSHMEM_DOORBELL, 1 * MIB, 2, ("x1", "a1")),
        LinkSpec("shm2", LinkKind.IVSHMEM_PLAIN, 2 * MIB, 0, ("x2", "a1", "a2")),
    )
    with up(TestbedSpec("four", nodes, links, driver()), images, say, resident=agent) as testbed:
        assert [node.warm for node in testbed.nodes.values()] == [True] * 4
        with testbed.segment("shm0") as all_four, testbed.segment("shm1") as two:
            assert [len(bells) for bells in all_four.doorbells.values()] == [1] * 4
            assert [len(bells) for bells in two.doorbells.values()] == [2] * 2
        sizes = "for d in /sys/bus/pci/devices/*; do ! grep -q 0x1110 $d/device || stat -c %s $d/resource2; done"
        for name, mib in (("x1", [1, 1]), ("x2", [1, 2]), ("a1", [1, 1, 2]), ("a2", [1, 2])):
            assert [int(size) // MIB for size in output(testbed, name, "sh", "-c", sizes).split()] == mib
        assert [output(testbed, name, "cat", "/etc/hostname") for name in names] == list(names)
