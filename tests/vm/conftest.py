"""Real guests, shared by all tests of this folder: booting them takes longer than anything that is done to them.

State goes to a folder of this run, so that the tests neither see nor touch the testbeds of whoever runs them.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from images import Image, ensure_all
from testbed import LinkKind, LinkSpec, NodeSpec, Testbed, TestbedSpec, find, list_all, up

MIB = 1 << 20
BUILD_S = 600.0
"""The first run on a machine builds the images."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Emulated guests need more time than a unit test; those that need still more say so themselves."""
    for item in items:
        if "tests/vm/" in item.path.as_posix() and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300 + BUILD_S))


def say(line: str) -> None:
    """Shown by pytest when a test fails."""
    print(line, file=sys.stderr, flush=True)


def pair_spec(name: str) -> TestbedSpec:
    """The default pair: both instruction sets, shared memory with doorbells and without, and a network of their own."""
    return TestbedSpec(
        name,
        (NodeSpec("x86", "x86_64", 512 * MIB), NodeSpec("arm", "aarch64", 512 * MIB)),
        (
            LinkSpec("shm0", LinkKind.IVSHMEM_DOORBELL, 64 * MIB, 4, ("x86", "arm")),
            LinkSpec("shm1", LinkKind.IVSHMEM_PLAIN, 1 * MIB, 0, ("x86", "arm")),
            LinkSpec("net0", LinkKind.ETHERNET, 0, 0, ("x86", "arm")),
        ),
    )


@pytest.fixture(scope="session")
def state_home() -> Iterator[Path]:
    """Where testbeds of this run are recorded; whatever a failed test has left there is taken down at the end."""
    directory = Path(tempfile.mkdtemp(prefix="tb-vm-"))
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(directory)
    try:
        yield directory
        left = [summary.name for summary in list_all()]
        for name in left:
            find(name).down(say)
        assert not left, f"tests left testbeds behind: {', '.join(left)}"
    finally:
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def images() -> Mapping[str, Image]:
    """The images of both instruction sets, built when they are not there."""
    return ensure_all(["x86_64", "aarch64"], say)


@pytest.fixture(scope="session")
def pair(state_home: Path, images: Mapping[str, Image]) -> Iterator[Testbed]:
    """The default pair, up and shared: leave it as you found it."""
    with up(pair_spec("pair"), images, say) as testbed:
        yield testbed
