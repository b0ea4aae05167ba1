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
from platformdirs import user_cache_path

from images import Image, ensure_all
from testbed import Driver, LinkKind, LinkSpec, NodeSpec, Testbed, TestbedSpec, find, list_all, up
from tests.vm import session_daemon

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


def driver() -> Driver:
    """The one that all of these tests are about: `TESTBED_DRIVER=session` asks for a daemon's."""
    return Driver(os.environ.get("TESTBED_DRIVER") or "embedded")


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
        driver(),
    )


SHARED = {"accelerator": 0o700, "guest": 0o755, "images": 0o755, "libvirt-capabilities": 0o700, "test-images": 0o755}
"""Of the user's caches what these tests use too, with the modes in which they are made."""


@pytest.fixture(scope="session", autouse=True)
def cache() -> Iterator[None]:
    """Guests' saved states are these tests' own, which remove and break some; everything else is the user's."""
    users = user_cache_path("testbed")
    with tempfile.TemporaryDirectory(prefix="tb-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        own = Path(folder, users.name)
        own.mkdir()
        for name, mode in SHARED.items():
            (users / name).mkdir(mode, parents=True, exist_ok=True)
            (own / name).symlink_to(users / name)
        patch.setenv("XDG_CACHE_HOME", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def libvirt_daemon(cache: None) -> Iterator[None]:
    """One of these tests' own, where a daemon is to start the machines."""
    if driver() is not Driver.SESSION:
        yield
        return
    if not os.geteuid() or session_daemon.PROGRAM is None:
        pytest.exit("TESTBED_DRIVER=session: these tests want libvirtd, and a user who is not root", 3)
    config, runtime = (Path(tempfile.mkdtemp(prefix="tb-")) for _ in range(2))  # names of sockets have to be short
    session_daemon.configure(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(config))
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        with session_daemon.running(os.environ):
            yield
    for directory in (config, runtime):
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def state_home(libvirt_daemon: None) -> Iterator[Path]:
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
