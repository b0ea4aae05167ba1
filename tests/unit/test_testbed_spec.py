from dataclasses import replace

import pytest

from testbed.errors import Failure
from testbed.spec import SHARED, Accelerator, Driver, LinkKind, LinkSpec, NodeSpec, TestbedSpec

MIB = 1 << 20
X86 = NodeSpec("x86", "x86_64", 512 * MIB)
ARM = NodeSpec("arm", "aarch64", 512 * MIB)


def memory(**changes: object) -> LinkSpec:
    values: dict[str, object] = {
        "name": "shm0",
        "kind": LinkKind.IVSHMEM_DOORBELL,
        "size_bytes": 64 * MIB,
        "vectors": 4,
        "nodes": ("x86", "arm"),
    }
    return LinkSpec(**(values | changes))  # type: ignore[arg-type]


def test_plain_words_become_members() -> None:
    spec = TestbedSpec("pair", (X86, ARM), (memory(kind="ivshmem-doorbell"),), "session")  # type: ignore[arg-type]
    assert spec.driver is Driver.SESSION
    assert spec.links[0].kind is LinkKind.IVSHMEM_DOORBELL
    assert spec.nodes[0].accelerator is Accelerator.AUTO


@pytest.mark.parametrize("name", ["", "X86", "1st", "-a", "a_b", "a/b", "../a", "a b", "a,b", "a\n", "a" * 32, "ä"])
def test_a_name_that_could_mean_something_to_a_program_is_refused(name: str) -> None:
    for make in (
        lambda: NodeSpec(name, "x86_64", 512 * MIB),
        lambda: memory(name=name),
        lambda: TestbedSpec(name, (X86,)),
    ):
        with pytest.raises(Failure, match="expected a lower-case letter") as caught:
            make()
        assert repr(name) in caught.value.message


def test_the_longest_name_is_taken() -> None:
    assert NodeSpec("a" * 31, "x86_64", 512 * MIB).name == "a" * 31


@pytest.mark.parametrize("size", [0, 4096, 3 * MIB, 64 * MIB + 1])
def test_memory_that_no_pci_register_can_decode_is_refused(size: int) -> None:
    with pytest.raises(Failure, match=f"link shm0: {size} bytes of shared memory, expected a power of two"):
        memory(size_bytes=size)


@pytest.mark.parametrize("vectors", [0, 33])
def test_vectors_are_bounded(vectors: int) -> None:
    with pytest.raises(Failure, match=f"{vectors} vectors, expected 1 to 32"):
        memory(vectors=vectors)


def test_a_link_joins_at_least_two_different_nodes() -> None:
    for nodes in ((), ("x86",), ("x86", "x86")):
        with pytest.raises(Failure, match="expected two or more, each once"):
            memory(nodes=nodes)


def test_a_link_to_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(Failure, match="link shm0: no node risc, expected of x86, arm"):
        TestbedSpec("pair", (X86, ARM), (memory(nodes=("x86", "risc")),))


def test_a_name_is_given_once() -> None:
    with pytest.raises(Failure, match="node x86 twice"):
        TestbedSpec("pair", (X86, X86))
    with pytest.raises(Failure, match="link shm0 twice"):
        TestbedSpec("pair", (X86, ARM), (memory(), memory()))


def test_a_node_has_slots_for_eight_links_of_a_kind() -> None:
    links = tuple(memory(name=f"shm{number}") for number in range(9))
    assert len(TestbedSpec("pair", (X86, ARM), links[:8]).links) == 8
    with pytest.raises(Failure, match="node x86 is on 9 shared memory links, expected at most 8"):
        TestbedSpec("pair", (X86, ARM), links)


def test_a_testbed_without_nodes_is_refused() -> None:
    with pytest.raises(Failure, match="has no nodes"):
        TestbedSpec("empty", ())


def test_too_little_memory_and_no_cpu_are_refused() -> None:
    with pytest.raises(Failure, match="at least 128 MiB"):
        NodeSpec("x86", "x86_64", 64 * MIB)
    with pytest.raises(Failure, match="0 CPUs"):
        NodeSpec("x86", "x86_64", 512 * MIB, cpus=0)


def test_shared_memory_without_doorbells_has_no_vectors_and_takes_a_place_like_the_other() -> None:
    plain = memory(name="shm1", kind=LinkKind.IVSHMEM_PLAIN, vectors=0)
    spec = TestbedSpec("pair", (X86, ARM), (memory(), plain))
    assert spec.links_of("x86", *SHARED) == [memory(), plain]
    assert spec.links_of("x86", LinkKind.IVSHMEM_DOORBELL) == [memory()]
    with pytest.raises(Failure, match="expected a power of two"):
        memory(kind=LinkKind.IVSHMEM_PLAIN, size_bytes=3 * MIB)
    nine = [replace(plain if number % 2 else memory(), name=f"shm{number}") for number in range(9)]
    with pytest.raises(Failure, match="on 9 shared memory links"):
        TestbedSpec("pair", (X86, ARM), tuple(nine))


def test_shared_memory_is_no_larger_than_a_nodes_own() -> None:
    small = NodeSpec("arm", "aarch64", 128 * MIB)
    TestbedSpec("pair", (X86, small), (memory(size_bytes=128 * MIB),))
    with pytest.raises(
        Failure, match=f"{256 * MIB} bytes of shared memory, expected at most the {128 * MIB} of node arm"
    ):
        TestbedSpec("pair", (X86, small), (memory(size_bytes=256 * MIB),))
