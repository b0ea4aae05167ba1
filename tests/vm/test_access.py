"""Ways into real guests and out of them, as a person uses them: by the command `testbed`, ssh, scp and gdb."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guest.link.segment import format_segment
from testbed import Driver, Testbed
from testbed.debugger import command as debugger_command
from testbed.ssh_config import include
from tests.vm.conftest import driver
from tests.vm.leftovers import ROOT


def command(*words: str, typed: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command to its end, on the testbeds of these tests."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        input=typed or "",
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_socket_and_key_is_the_owners_alone(pair: Testbed) -> None:
    debugger_command(pair.nodes["x86"])
    sockets = [path for path in pair.run_directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    names = {path.name for path in sockets}
    of_libvirt = {"monitor.sock"} if driver() is Driver.EMBEDDED else set()  # a daemon has it in a place of its own
    assert {"x86.sock", "arm.sock", "x86.qmp", "arm.qmp", "shm0.sock", "x86.gdb", *of_libvirt} <= names
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in sockets} == dict.fromkeys(names, "0o600")
    assert pair.run_directory.stat().st_mode & 0o777 == 0o700
    assert (pair.run_directory / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_nothing_listens_beyond_the_loopback_interface(pair: Testbed) -> None:
    """Of all that the testbed runs, each QEMU has one port, for SSH; the rest are sockets of files."""
    listening = []
    for each in pair.record.processes:
        inodes = set()
        for entry in Path(f"/proc/{each.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(entry.readlink()))
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/{each.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if f"socket:[{fields[9]}]" in inodes and fields[2].endswith(":0000"):  # no other end
                    listening.append((table, *fields[1].split(":")))
    ports = {f"{node.record.ssh_port:04X}" for node in pair.nodes.values()}
    assert {(table, address) for table, address, _ in listening} == {("tcp", "0100007F")}
    assert {port for _, _, port in listening} == ports


def test_a_command_runs_on_all_nodes_and_the_worst_exit_code_is_ours(pair: Testbed) -> None:
    done = command("exec", "--all", "--", "sh", "-c", 'uname -m; echo "$0" >&2; test $(uname -m) = x86_64', "a  b")
    assert sorted(done.stdout.splitlines()) == ["arm | aarch64", "x86 | x86_64"]
    assert sorted(done.stderr.splitlines()) == ["arm | a  b", "x86 | a  b"]
    assert done.returncode == 1
    done = command("exec", "arm", "x86", "--json", "--", "exit 5")
    assert done.returncode == 5
    assert json.loads(done.stdout)["nodes"]["arm"] == {"exit_code": 5, "stdout": "", "stderr": ""}


def test_files_go_in_across_and_out_with_odd_names_and_every_byte(pair: Testbed, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "it's $(odd): 'x'").write_bytes(content)
    for words in (
        ("-r", str(folder), "x86:/tmp/in"),
        ("-r", "x86.pair:/tmp/in", "arm:/tmp/across"),
        ("-r", "arm:/tmp/across", str(tmp_path / "out")),
    ):
        done = command("cp", *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "it's $(odd): 'x'").read_bytes() == content
    assert command("exec", "--all", "--", "rm -r /tmp/in /tmp/across 2>/dev/null; true").returncode == 0
    done = command("cp", "arm:/tmp/none", str(tmp_path))
    assert done.returncode == 1
    assert "No such file" in done.stderr


def test_one_line_in_a_users_configuration_lets_plain_ssh_in(pair: Testbed, tmp_path: Path, state_home: Path) -> None:
    line = command("ssh-config").stdout.strip()
    assert line == include(state_home / "testbed")
    config = tmp_path / "config"
    config.write_text(f"{line}\nHost *\n  User nobody\n  ProxyCommand false\n")
    for node, arch in (("x86", "x86_64"), ("arm", "aarch64")):
        words = ["ssh", "-F", str(config), f"{node}.pair", "uname -m; id -un"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"{arch}\nroot\n"), done.stderr


def test_the_console_has_a_shell_which_needs_no_network(pair: Testbed) -> None:
    words = [sys.executable, "-m", "orchestrator", "console", "arm"]
    with subprocess.Popen(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        too_long = threading.Timer(60, session.kill)
        too_long.start()
        said = b""
        for expected, typed in ((b"", b"\n"), (b"# ", b"echo $((6 * 7)) $(uname -m)\n"), (b"42 aarch64", b"exit\n")):
            while expected not in said:
                part = os.read(session.stdout.fileno(), 4096)
                assert part, said
                said += part
            session.stdin.write(typed)
            session.stdin.flush()
        session.stdin.write(b"\x1d")
        session.stdin.flush()
        assert session.wait() == 0
        too_long.cancel()
    assert "stage=sshd" in command("console", "arm", "--log").stdout


def test_the_monitor_answers_people_and_programs(pair: Testbed) -> None:
    assert command("monitor", "x86", "--", "info", "status").stdout == "VM status: running\n"
    assert json.loads(command("monitor", "arm", "--qmp", "--", "query-status").stdout)["status"] == "running"
    refused = command("monitor", "arm", "--qmp", "--", "query-nothing")
    assert refused.returncode == 3
    assert "QEMU refuses 'query-nothing'" in refused.stderr
    asked = command("monitor", "arm", typed="info name\nnonsense\n")
    assert "pair-arm" in asked.stdout
    assert "unknown command: 'nonsense'" in asked.stdout
    assert command("monitor", "amr").returncode == 2


@pytest.mark.parametrize("name", ["x86", "arm"])
def test_gdb_reads_the_registers_of_a_machine_and_leaves_it_running(pair: Testbed, name: str) -> None:
    program = debugger_command(pair.nodes[name])[0]
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    done = command("gdb", name, "--", "-nx", "-batch", "-ex", "info registers pc")
    assert done.returncode == 0, done.stderr
    assert "pc " in done.stdout or "rip " in done.stdout
    assert command("monitor", name, "--", "info", "status").stdout == "VM status: running\n"
    assert command("exec", name, "--", "true").returncode == 0


def test_top_sees_what_guests_write_to_the_shared_memory_and_no_guest_notices(pair: Testbed) -> None:
    with pair.segment("shm0") as peer:
        segment = format_segment(peer.memory, 2)
        peers = len(peer.doorbells)
        # The words of a guest's daemon, written by the other guest's kernel: through the device, as the daemon does.
        device = "/sys/bus/pci/devices/0000:00:08.0"
        assert command("exec", "arm", "--", f"echo 1 > {device}/enable").returncode == 0
        offset = segment.layout.node_offset(1) + 8 * 16
        script = "import mmap,os,sys; m=mmap.mmap(os.open(sys.argv[1],os.O_RDWR),1<<20); m[int(sys.argv[2])]=41"
        done = command("exec", "arm", "--", "python3", "-c", script, f"{device}/resource2_wc", str(offset))
        assert done.returncode == 0, done.stderr
        seen = json.loads(command("top", "pair", "--json").stdout)
        assert [(kernel["node"], kernel["heartbeat"]) for kernel in seen["kernels"]] == [("x86", 0), ("arm", 41)]
        once = command("top", "--once", "--interval", "0.1").stdout
        assert "beats" in once
        assert "arm" in once
        peer.refresh()
        assert len(peer.doorbells) == peers, "an onlooker is no peer"


def test_a_host_that_runs_guests_is_told_that_it_can(pair: Testbed, tmp_path: Path) -> None:
    done = command("doctor", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    problems = [finding for finding in told["findings"] if finding["level"] == "problem"]
    assert (done.returncode, told["ok"], problems) == (0, True, [])
    assert {"libvirt's driver", "images", "accelerator", "QEMU for aarch64"} <= {
        each["check"] for each in told["findings"]
    }
