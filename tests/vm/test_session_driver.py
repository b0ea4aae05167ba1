"""The same machines by a libvirt daemon of an ordinary user (`driver: session`), where such a daemon is installed."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from images import Image

ROOT = Path(__file__).parents[2]
DAEMON = os.environ.get("LIBVIRTD_PATH") or shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
NOBODY = 65534
pytestmark = pytest.mark.skipif(DAEMON is None, reason="no libvirtd here (apt-get install libvirt-daemon)")

PROGRAM = """
import sys
from images import ensure
from testbed import Driver, NodeSpec, TestbedSpec, up
from testbed.warm import Mode
def say(line): print(line, file=sys.stderr, flush=True)
spec = TestbedSpec("session", (NodeSpec("arm", "aarch64", 256 << 20),), driver=Driver.SESSION)
for mode in (Mode.COLD, Mode.WARM):
    with up(spec, {"aarch64": ensure("aarch64", say, offline=True)}, say, mode=mode) as testbed:
        node = testbed.nodes["arm"]
        print(node.warm, node.shell().run(["uname", "-m"]).stdout.decode().strip(), flush=True)
"""


class User:
    """Somebody who is not root, with a home and a session of the libvirt daemon in it."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.before = (
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if not os.geteuid() else []
        )

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.before, *argv],
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def user(images: Mapping[str, Image]) -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="tb-session-"))
    image = images["aarch64"].directory
    (home / "run").mkdir(mode=0o700)
    (home / ".config/libvirt").mkdir(parents=True)
    (home / ".config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    shutil.copytree(image, home / ".cache/testbed/images" / image.name)
    if not os.geteuid():
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    person = User(home)
    seen = person.start(sys.executable, "-c", "import testbed.lifecycle, libvirt")
    _, said = seen.communicate(timeout=60)
    try:
        if seen.returncode:
            pytest.skip(f"an ordinary user cannot read this tree: {said.strip().splitlines()[-1]}")
        yield person
    finally:
        shutil.rmtree(home)


def test_guests_boot_and_go_on_from_states_without_root(user: User) -> None:
    assert DAEMON is not None
    # In the background, when it serves; it ends by itself soon after its last client.
    daemon = user.start(DAEMON, "--daemon", "--timeout", "60")
    assert daemon.wait(timeout=60) == 0
    pid = int((Path(user.environment["XDG_RUNTIME_DIR"]) / "libvirt/libvirtd.pid").read_text())
    ended = os.pidfd_open(pid)
    try:
        run = user.start(sys.executable, "-c", PROGRAM)
        out, said = run.communicate(timeout=280)
        assert run.returncode == 0, said
        assert out.splitlines() == ["False aarch64", "True aarch64"]
    finally:
        signal.pidfd_send_signal(ended, signal.SIGTERM)
        assert select.select([ended], [], [], 30)[0] == [ended]
        os.close(ended)
