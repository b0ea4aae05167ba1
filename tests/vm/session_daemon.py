"""A libvirt daemon of an ordinary user's own (`qemu:///session`), for as long as tests need it."""

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAM = os.environ.get("LIBVIRTD_PATH") or shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
IDLE_S = 600
"""Without a client for so long it ends by itself, whatever became of the tests."""


def configure(folder: Path) -> None:
    """In the user's folder of settings ($XDG_CONFIG_HOME): no virtlogd, which would stay."""
    (folder / "libvirt").mkdir(parents=True)
    (folder / "libvirt/qemu.conf").write_text('stdio_handler = "file"\n')


@contextmanager
def running(environment: Mapping[str, str], before: Sequence[str] = ()) -> Iterator[None]:
    """Serves from the beginning to the end; `before` are words in front of its command line, to become its user."""
    assert PROGRAM is not None, "no libvirtd here"
    argv = [*before, PROGRAM, "--daemon", "--timeout", str(IDLE_S)]
    subprocess.run(argv, env=environment, cwd=environment["XDG_RUNTIME_DIR"], check=True, timeout=60)
    pid = int((Path(environment["XDG_RUNTIME_DIR"]) / "libvirt/libvirtd.pid").read_text())
    ended = os.pidfd_open(pid)
    try:
        yield
    finally:
        signal.pidfd_send_signal(ended, signal.SIGTERM)
        assert select.select([ended], [], [], 30)[0] == [ended]
        os.close(ended)
