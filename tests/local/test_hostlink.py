"""The link between processes of one host."""

import os
import select
from collections.abc import Iterator

import pytest

from guest.errors import LinkError
from guest.link.hostlink import HostLink
from guest.link.link import Link

SIZE_BYTES = 1 << 16


class Descriptors:
    def __init__(self) -> None:
        self.memory = os.memfd_create("segment")
        os.ftruncate(self.memory, SIZE_BYTES)
        self.doorbells = [[os.eventfd(0), os.eventfd(0)] for _ in range(3)]

    def close(self) -> None:
        for fd in [self.memory, *(fd for fds in self.doorbells for fd in fds)]:
            os.close(fd)


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    descriptors = Descriptors()
    yield descriptors
    descriptors.close()


def rung(link: Link) -> bool:
    return bool(select.select(link.doorbell_fds, [], [], 0)[0])


def test_all_kernels_see_one_memory(descriptors: Descriptors) -> None:
    links: list[Link] = [HostLink(descriptors.memory, descriptors.doorbells, kernel) for kernel in range(3)]
    links[0].memory[5] = 77
    assert [link.memory[5] for link in links] == [77, 77, 77]
    assert len(links[0].memory) == SIZE_BYTES
    assert len({link.address for link in links}) == 3
    for link in links:
        link.close()


def test_a_doorbell_is_heard_by_the_one_it_was_meant_for_until_it_drains(descriptors: Descriptors) -> None:
    links = [HostLink(descriptors.memory, descriptors.doorbells, kernel) for kernel in range(3)]
    links[0].ring(links[2].peer)
    links[0].ring(links[2].peer)
    assert [rung(link) for link in links] == [False, False, True]
    links[2].drain()
    assert not rung(links[2])
    links[2].drain()  # never blocks
    links[2].ring(2)
    assert rung(links[2])
    for link in links:
        link.close()


def test_ringing_one_that_never_drains_does_not_block(descriptors: Descriptors) -> None:
    link = HostLink(descriptors.memory, descriptors.doorbells, 0)
    os.eventfd_write(descriptors.doorbells[1][0], 2**64 - 2)
    link.ring(1)
    link.close()


def test_closing_leaves_the_descriptors_and_memory_still_looked_at(descriptors: Descriptors) -> None:
    link = HostLink(descriptors.memory, descriptors.doorbells, 0)
    words = link.memory.cast("Q")
    words[0] = 5
    link.close()
    assert words[0] == 5
    assert os.fstat(descriptors.memory).st_size == SIZE_BYTES
    os.eventfd_write(descriptors.doorbells[0][0], 1)


@pytest.mark.parametrize("kernel", [-1, 3])
def test_a_kernel_without_a_doorbell_is_refused(descriptors: Descriptors, kernel: int) -> None:
    with pytest.raises(LinkError, match=rf"kernel {kernel} in a host link with doorbells \[\["):
        HostLink(descriptors.memory, descriptors.doorbells, kernel)


def test_descriptors_that_were_not_inherited_are_named(descriptors: Descriptors) -> None:
    closed = os.dup(descriptors.memory)
    os.close(closed)
    with pytest.raises(LinkError, match=rf"memory fd {closed} .* cannot be used: .*Bad file descriptor\n.*pass_fds"):
        HostLink(closed, descriptors.doorbells, 0)


def test_a_memory_of_no_size_is_refused(descriptors: Descriptors) -> None:
    os.ftruncate(descriptors.memory, 0)
    with pytest.raises(LinkError, match="cannot be used: cannot mmap an empty file"):
        HostLink(descriptors.memory, descriptors.doorbells, 0)
