"""Whole runs of somebody who is not root: with libvirt in the command's own process, and by a daemon of theirs."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from images import Image
from tests.vm import session_daemon
from tests.vm.leftovers import ROOT, sockets

NOBODY = 65534
RUN = ("run", str(ROOT / "configs/quickstart.yaml"), "--json", "--set", "matrix.workload.array=[4KiB]")


class User:
    """Somebody who is not root, with a home of their own and a session in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
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
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ran(self, *words: str) -> dict[str, Any]:
        """A run that has passed, and of which nothing is left."""
        with self.start(sys.executable, "-m", "orchestrator", *RUN, *words) as run:
            out, said = run.communicate(timeout=280)
        assert run.returncode == 0, said
        summary: dict[str, Any] = json.loads(out)
        assert summary["outcome"] == "passed"
        assert [point["verified"] for point in summary["points"]] == [True] * 3
        state = self.home / ".local/state/testbed"
        assert list(state.iterdir()) == []
        assert sockets([str(state)]) == []
        return summary


@pytest.fixture(scope="module")
def user(images: Mapping[str, Image]) -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="tb-user-"))
    (home / "run").mkdir(mode=0o700)
    session_daemon.configure(home / ".config")
    kept = home / ".cache/testbed/images"
    for image in images.values():
        shutil.copytree(image.directory, kept / image.directory.name)
    if not os.geteuid():
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    person = User(home)
    with person.start(sys.executable, "-c", "import orchestrator.run, testbed.lifecycle, libvirt") as seen:
        _, said = seen.communicate(timeout=60)
    try:
        if seen.returncode:
            pytest.skip(f"an ordinary user cannot read this tree: {said.strip().splitlines()[-1]}")
        yield person
    finally:
        shutil.rmtree(home)


@pytest.fixture
def daemon(user: User) -> Iterator[None]:
    """A libvirt daemon of the user, in the background as soon as it serves."""
    if session_daemon.PROGRAM is None:
        pytest.skip("no libvirtd here (apt-get install libvirt-daemon)")
    with session_daemon.running(user.environment, user.before):
        yield


def test_a_whole_run_needs_no_root(user: User) -> None:
    summary = user.ran("--cold")
    assert [node["warm"] for node in summary["nodes"]] == [False, False]


@pytest.mark.usefixtures("daemon")
def test_a_daemon_of_the_user_boots_saves_and_restores_the_same_guests(user: User) -> None:
    summary = user.ran("--warm", "--set", "testbed.driver=session")
    assert [node["warm"] for node in summary["nodes"]] == [True, True]
