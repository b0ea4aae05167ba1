"""A testbed's life on real machines: up, found again, reached, linked, and gone, whatever died in between."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from images import Image
from orchestrator.stages.agents import Agents
from orchestrator.stages.deployment import archive, start_agent
from testbed import Condition, Deadline, GuestError, NodeSpec, Testbed, TestbedSpec, find, list_all, readiness, up
from testbed.console import Console
from testbed.errors import HostError
from testbed.network import ethernet_address
from testbed.process import ProcessId, arguments_of, kill, naming
from testbed.spec import Accelerator
from tests.vm.conftest import MIB, driver, pair_spec, say
from tests.vm.leftovers import sockets

ROOT = Path(__file__).parents[2]
ONE = TestbedSpec("one", (NodeSpec("arm", "aarch64", 256 * MIB),), driver=driver())


def python(program: str, *words: str) -> subprocess.Popen[str]:
    """A program of another process, in the project's tree and with this test's state; its input stays open."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(program: str, *words: str) -> str:
    started = python(program, *words)
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    return out


def test_both_guests_are_of_their_instruction_sets_and_say_how_they_came_up(pair: Testbed) -> None:
    for name, machine in (("x86", "x86_64"), ("arm", "aarch64")):
        node = pair.nodes[name]
        assert node.arch == machine
        assert node.accelerator in (Accelerator.KVM, Accelerator.TCG)
        assert node.accelerator_reason
        assert list(node.stages) == ["initramfs", "init", "network", "sshd"]
        assert node.boot_s is not None
        assert node.boot_s > 0.5
        print(f"{name}: {node.accelerator} ({node.accelerator_reason}), ready after {node.boot_s:.1f} s {node.stages}")
        assert "testbed: stage=sshd" in node.console.read_text()
        assert f"<name>pair-{name}-" in node.domain_xml


def test_a_program_runs_with_its_words_input_and_exit_code_unchanged(pair: Testbed) -> None:
    shell = pair.nodes["arm"].shell()
    try:
        words = ["a b", "$HOME", "'", '"', "*", "\\", "", "; exit 9", "\n"]
        script = 'import sys; sys.stdout.write(repr(sys.argv[1:])); sys.stderr.write("told"); sys.exit(7)'
        done = shell.run(["python3", "-c", script, *words])
        assert (done.stdout.decode(), done.stderr, done.exit_code) == (repr(words), b"told", 7)
        data = os.urandom(300_000)
        assert shell.run(["cat"], data).stdout == data
        assert shell.run(["sh", "-c", "kill -9 $$"]).exit_code != 0
        with pytest.raises(GuestError, match=r"sleep 1000 did not end in 0\.5 s"):
            shell.run(["sleep", "1000"], deadline=Deadline(0.5))
        shell.run(["pkill", "-x", "sleep"])
    finally:
        shell.close()


def test_files_go_into_the_guest_and_back_unchanged(pair: Testbed) -> None:
    shell = pair.nodes["x86"].shell()
    try:
        for content in (b"", b"\0\r\n\xff" * 100_000):
            shell.put(content, "/tmp/new folder/$(file)", 0o750)
            assert shell.get("/tmp/new folder/$(file)") == content
        assert shell.run(["stat", "-c", "%a", "/tmp/new folder/$(file)"]).stdout == b"750\n"
        assert shell.run(["ls", "/tmp/new folder"]).stdout == b"$(file)\n"
        with pytest.raises(GuestError, match=r"cannot read /tmp/none: .*No such file"):
            shell.get("/tmp/none")
        with pytest.raises(GuestError, match=r"cannot write /proc/none"):
            shell.put(b"x", "/proc/none")
    finally:
        shell.close()


def test_a_program_can_be_talked_to_line_by_line(pair: Testbed) -> None:
    shell = pair.nodes["arm"].shell()
    try:
        echo = shell.spawn(
            ["python3", "-u", "-c", "import sys\nfor l in sys.stdin: print(l.strip()[::-1])\nsys.exit(3)"]
        )
        for word in (b"one", b"two"):
            echo.stdin.write(word + b"\n")
            assert echo.stdout.readline() == word[::-1] + b"\n"
        echo.stdin.close()
        assert echo.wait(Deadline(60)) == 3
        echo.close()
    finally:
        shell.close()


def test_the_real_ssh_gets_in_and_checks_the_host_key(pair: Testbed, tmp_path: Path) -> None:
    command = pair.nodes["x86"].ssh_command("uname -m; cat /etc/hostname")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x86_64\nx86\n", "")
    # The other node's key in its place: neither ssh nor paramiko may go on.
    swapped = tmp_path / "known_hosts"
    known = (pair.run_directory / "known_hosts").read_text()
    swapped.write_text(known.replace("x86 ", "- ").replace("arm ", "x86 ").replace("- ", "arm "))
    config = tmp_path / "config"
    config.write_text(pair.ssh_config.read_text().replace(str(pair.run_directory / "known_hosts"), str(swapped)))
    done = subprocess.run(["ssh", "-F", config, "x86.pair", "true"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr
    from testbed.shell import Shell

    port = pair.nodes["x86"].record.ssh_port
    assert port is not None
    (tmp_path / "id_ed25519").symlink_to(pair.run_directory / "id_ed25519")
    with pytest.raises(GuestError, match="the host key is"):
        Shell("x86", port, tmp_path)


def test_guests_reach_each_other_over_their_own_network_and_nothing_else(pair: Testbed) -> None:
    shell = pair.nodes["x86"].shell()
    try:
        link = pair.spec.link("net0")
        address = ethernet_address(pair.spec, link, "arm")
        done = shell.run(["busybox", "ping", "-c", "3", "-i", "0.2", address])
        assert b"3 packets received" in done.stdout, done
        # The host's loopback is behind 10.0.2.2 in a user-mode network, unless it is closed.
        closed = shell.run(["busybox", "nc", "-w", "3", "10.0.2.2", str(pair.nodes["arm"].record.ssh_port)])
        assert b"SSH-" not in closed.stdout
    finally:
        shell.close()


def test_the_host_joins_the_shared_memory_and_sees_both_guests(pair: Testbed) -> None:
    with pair.segment("shm0") as peer:
        assert peer.size_bytes == 64 * MIB
        assert [len(bells) for bells in peer.doorbells.values()] == [4, 4]
    devices = {
        name: node.shell().run(["sh", "-c", "cat /sys/bus/pci/devices/*/device"]) for name, node in pair.nodes.items()
    }
    assert all(b"0x1110" in done.stdout for done in devices.values())


def test_each_shared_memory_device_is_alone_in_its_iommu_group(pair: Testbed) -> None:
    script = "for d in /sys/bus/pci/devices/*; do grep -q 0x1110 $d/device && ls $d/iommu_group/devices | wc -l; done"
    for node in pair.nodes.values():
        done = node.shell().run(["sh", "-c", script])
        assert done.stdout == b"1\n1\n", node.name


def test_what_one_node_writes_to_plain_shared_memory_the_other_one_and_the_host_read(pair: Testbed) -> None:
    """Without doorbells; it is another memory than that with them."""
    script = "import mmap,os,sys; m=mmap.mmap(os.open(sys.argv[1],os.O_RDWR),1<<20); "
    device = "/sys/bus/pci/devices/0000:00:09.0"
    for node in pair.nodes.values():
        assert node.shell().run(["sh", "-c", f"echo 1 > {device}/enable"]).exit_code == 0
    place = f"{device}/resource2_wc"
    wrote = pair.nodes["x86"].shell().run(["python3", "-c", script + "m[4096:4101]=b'plain'", place])
    assert wrote.exit_code == 0, wrote.stderr
    read = pair.nodes["arm"].shell().run(["python3", "-c", script + "print(m[4096:4101])", place])
    assert read.stdout == b"b'plain'\n", read.stderr
    with pair.segment("shm1") as peer, pair.segment("shm0") as other:
        assert bytes(peer.memory[4096:4101]) == b"plain"
        assert bytes(other.memory[4096:4101]) != b"plain"
        assert peer.size_bytes == 1 * MIB


def test_another_process_finds_it_lists_it_and_reaches_it(pair: Testbed) -> None:
    program = (
        "from testbed import find, list_all\n"
        "print([(s.name, str(s.condition), [(n.name, n.alive) for n in s.nodes]) for s in list_all()])\n"
        "node = find('pair').nodes['arm']\n"
        "print(node.shell().run(['uname', '-m']).stdout, node.boot_s)\n"
    )
    listed, reached = output(program).splitlines()
    assert listed == "[('pair', 'running', [('x86', True), ('arm', True)])]"
    assert reached == f"b'aarch64\\n' {pair.nodes['arm'].boot_s}"


def test_one_of_a_name_at_a_time(pair: Testbed, images: Mapping[str, Image]) -> None:
    from testbed.errors import Failure

    with pytest.raises(Failure, match="there is a testbed pair already"):
        up(pair_spec("pair"), images, say)
    assert all(node.alive for node in pair.nodes.values())


def test_finding_and_listing_loads_neither_libvirt_nor_paramiko(pair: Testbed) -> None:
    program = (
        "import json, sys\nfrom testbed import find, list_all\n"
        "list_all(); find('pair').nodes['x86'].ssh_command()\n"
        "print(json.dumps([name for name in ('libvirt', 'paramiko', 'jinja2', 'cryptography') if name in sys.modules]))"
    )
    assert json.loads(output(program)) == []


def traces(run_directory: Path) -> list[str]:
    """Command lines of all processes that name this folder, whatever they are."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            words = file.read_bytes().decode(errors="replace")
            if f"{run_directory}/" in words:
                found.append(words.replace("\0", " "))
    return found


def test_down_leaves_nothing(state_home: Path, images: Mapping[str, Image]) -> None:
    testbed = up(pair_spec("whole"), images, say)
    processes, port = testbed.record.processes, testbed.nodes["arm"].record.ssh_port
    assert len(processes) == 4
    assert all(each.alive() for each in processes)
    begin = time.monotonic()
    output("from testbed import find; find('whole').down()")  # by another process, as `testbed down` would
    print(f"down took {time.monotonic() - begin:.2f} s")
    assert not any(each.alive() for each in processes)
    assert not testbed.run_directory.exists()
    assert not (state_home / "testbed" / "whole").exists()
    assert traces(testbed.run_directory) == []
    assert not any(f":{port:04X} " in line for line in Path("/proc/net/tcp").read_text().splitlines())


STARTER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs these tests in the background ignores it
from images import ensure_all
from testbed import up
from tests.vm.conftest import pair_spec
def say(line): print(line, flush=True)
up(pair_spec('killed'), ensure_all(['x86_64', 'aarch64'], say), say)
say('everything is ready')
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "moment", ["recorded", "ivshmem server", "arm: starting", "x86: starting", "stage init", "everything is ready"]
)
def test_whatever_dies_is_listed_and_removed(state_home: Path, images: Mapping[str, Image], moment: str) -> None:
    starter = python(STARTER)
    assert starter.stdout is not None
    for line in starter.stdout:
        if moment in line:
            break
    starter.kill()
    _, errors = starter.communicate()
    assert starter.returncode == -signal.SIGKILL, errors
    summary = next(summary for summary in list_all() if summary.name == "killed")
    assert summary.condition is (Condition.RUNNING if moment == "everything is ready" else Condition.LEFT_OVER)
    run = find("killed").run_directory
    output("from testbed import find; find('killed').down()")
    assert not any(each.name == "killed" for each in list_all())
    assert not run.exists()
    assert traces(run) == []


@pytest.mark.parametrize("moment", ["ivshmem server", "stage init", "everything is ready"])
def test_after_the_host_was_restarted_files_are_removed_and_strangers_left_alone(
    state_home: Path, images: Mapping[str, Image], moment: str
) -> None:
    """A restart ends all processes at once, gives the host another boot id, and their pids to others."""
    starter = python(STARTER)
    assert starter.stdout is not None
    for line in starter.stdout:
        if moment in line:
            break
    run = find("killed").run_directory
    starter.kill()
    starter.communicate()
    # Whatever the tool was just about to start comes up at once or not at all.
    while ours := naming(f"{run}/"):
        assert kill(ours) == []
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        now = ProcessId.of(stranger.pid)
        file = state_home / "testbed" / "killed" / "record.json"
        known = json.loads(file.read_text())
        for each in (known["owner"], *known["servers"].values(), *(node["qemu"] for node in known["nodes"].values())):
            if each is not None:
                each |= {"pid": now.pid, "start_ticks": now.start_ticks, "boot_id": "an earlier life"}
        file.write_text(json.dumps(known))
        (summary,) = [each for each in list_all() if each.name == "killed"]
        assert summary.condition in (Condition.ENDED, Condition.LEFT_OVER)
        assert not any(node.alive for node in summary.nodes)
        output("import sys; sys.argv = ['testbed', 'down', '--stale', '-q']\nfrom orchestrator.cli import main; main()")
        assert stranger.poll() is None
        stranger.kill()
    assert not any(each.name == "killed" for each in list_all())
    assert not run.exists()
    assert traces(run) == []
    assert sockets([str(run)]) == []


def test_interrupted_by_the_keyboard_it_takes_everything_down_itself(
    state_home: Path, images: Mapping[str, Image]
) -> None:
    starter = python(STARTER)
    assert starter.stdout is not None
    run = None
    for line in starter.stdout:
        if "files in" in line:
            run = Path(line.rpartition("files in ")[2].strip())
        if "stage init" in line:
            break
    starter.send_signal(signal.SIGINT)
    _, errors = starter.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert run is not None
    assert not run.exists()
    assert traces(run) == []
    assert not any(each.name == "killed" for each in list_all())


def test_what_is_up_survives_the_end_of_the_command_that_started_it(
    state_home: Path, images: Mapping[str, Image]
) -> None:
    starter = python(
        STARTER.replace("pair_spec('killed')", "ONE").replace(
            "pair_spec", "pair_spec\nfrom tests.vm.test_lifecycle import ONE"
        )
    )
    assert starter.stdout is not None
    assert any(line == "everything is ready\n" for line in starter.stdout)
    os.kill(starter.pid, signal.SIGINT)
    starter.communicate(timeout=60)
    with find("one") as testbed:
        assert testbed.nodes["arm"].shell().run(["uname", "-m"]).stdout == b"aarch64\n"


def test_an_init_that_hangs_is_told_from_one_that_is_slow(
    state_home: Path, images: Mapping[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first process waits for a word that nobody says; the end does not wait for the time-out of 150 s."""
    monkeypatch.setattr(readiness, "HANG_S", 5.0)
    waits = replace(images["aarch64"], command_line=(*images["aarch64"].command_line, "rdinit=/bin/cat"))
    with pytest.raises(GuestError, match=r"node arm \(aarch64, tcg\) hangs: it has done nothing for \d+ s") as caught:
        up(ONE, {"aarch64": waits}, say)
    print(f"{caught.value.message}\nhint: {caught.value.hint}")
    assert "last stage: none" in caught.value.message
    assert "rdinit=/bin/cat" in caught.value.message
    assert not any(each.name == "one" for each in list_all())


def test_a_guest_without_python_ends_the_deployment_at_once_with_its_words(
    pair: Testbed, images: Mapping[str, Image]
) -> None:
    node = pair.nodes["arm"]
    hide = "mv /usr/bin/python3 /usr/bin/python3.away"
    assert node.shell().run(["sh", "-c", hide]).exit_code == 0
    try:
        code = archive(images[os.uname().machine], say)
        agents = Agents({"arm": start_agent(node, code, Deadline(100))})
        with pytest.raises(GuestError, match="node arm: its agent was gone before it answered 'hello': exit code 127"):
            agents.ask({"arm": {"op": "hello"}}, Deadline(100))
        agents.close()
    finally:
        node.shell().run(["mv", "/usr/bin/python3.away", "/usr/bin/python3"])


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_kernel_that_panics_ends_the_start_at_once_with_its_words(
    state_home: Path, images: Mapping[str, Image], arch: str, tmp_path: Path
) -> None:
    broken = replace(images[arch], command_line=(*images[arch].command_line, "rdinit=/nothing"))
    spec = TestbedSpec("panic", (NodeSpec("sick", arch, 256 * MIB),), driver=driver())
    begin = time.monotonic()
    with pytest.raises(GuestError, match=r"node sick \(.*\) panicked: Kernel panic - not syncing") as caught:
        up(spec, {arch: broken}, say, evidence=tmp_path / "evidence")
    took_s = time.monotonic() - begin
    message = caught.value.message
    print(f"{took_s:.1f} s: {message}\nhint: {caught.value.hint}")
    assert "last stage: none" in message
    assert f"QEMU was: {Path('/usr/bin')}/qemu-system-{arch} " in message
    assert "rdinit=/nothing" in message
    assert caught.value.hint
    assert "Kernel panic" in (tmp_path / "evidence" / "sick.console").read_text()
    assert not any(each.name == "panic" for each in list_all())


def test_a_machine_that_qemu_refuses_is_told_with_qemus_words(state_home: Path, images: Mapping[str, Image]) -> None:
    broken = replace(images["aarch64"], kernel=Path("/nonexistent/kernel"))
    begin = time.monotonic()
    with pytest.raises(GuestError, match=r"node arm \(aarch64, tcg\) was refused: .*/nonexistent/kernel") as caught:
        up(ONE, {"aarch64": broken}, say)
    print(f"{time.monotonic() - begin:.1f} s: {caught.value.message}\nhint: {caught.value.hint}")
    assert "QEMU was: /usr/bin/qemu-system-aarch64 " in caught.value.message
    assert "QEMU's own words" in caught.value.hint
    assert not any(each.name == "one" for each in list_all())


def test_one_bad_node_stops_the_others_and_leaves_nothing(state_home: Path, images: Mapping[str, Image]) -> None:
    broken = replace(images["aarch64"], kernel=Path("/nonexistent/kernel"))
    with pytest.raises(GuestError, match=r"node arm .* was refused"):
        up(pair_spec("half"), {**images, "aarch64": broken}, say)
    assert not any(each.name == "half" for each in list_all())


def test_a_guest_that_says_it_cannot_go_on_is_believed(state_home: Path, images: Mapping[str, Image]) -> None:
    # The initramfs in place of the root file system: no erofs.
    broken = replace(images["aarch64"], root=images["aarch64"].initramfs)
    with pytest.raises(GuestError, match=r"cannot go on: .*erofs") as caught:
        up(ONE, {"aarch64": broken}, say)
    assert "last stage: initramfs" in caught.value.message
    assert not any(each.name == "one" for each in list_all())


def test_a_deadline_that_passes_says_how_far_the_guest_had_come(state_home: Path, images: Mapping[str, Image]) -> None:
    with pytest.raises(GuestError, match=r"node arm \(aarch64, tcg\) is not ready after 1 s") as caught:
        up(ONE, images, say, Deadline(1))
    assert "last stage: none" in caught.value.message


def test_a_guest_that_dies_later_is_noticed(state_home: Path, images: Mapping[str, Image]) -> None:
    with up(ONE, images, say) as testbed:
        node = testbed.nodes["arm"]
        node.check()
        assert node.record.qemu is not None
        assert "qemu-system-aarch64" in arguments_of(node.record.qemu.pid)[0]
        os.kill(node.record.qemu.pid, signal.SIGKILL)
        poll = Deadline(10)
        while node.alive:
            assert not poll.expired
        with pytest.raises(GuestError, match=r"node arm \(aarch64, tcg\) has ended") as caught:
            node.shell()
        assert Console(node.console).tail()[-1] in caught.value.message
        assert next(each for each in list_all() if each.name == "one").condition is Condition.ENDED


def test_kvm_is_used_where_a_guest_runs_under_it_and_demanding_it_elsewhere_is_refused(
    state_home: Path, images: Mapping[str, Image]
) -> None:
    spec = TestbedSpec("one", (NodeSpec("arm", "aarch64", 256 * MIB, accelerator=Accelerator.KVM),))
    if os.uname().machine == "aarch64":
        pytest.skip("aarch64 is this host's own instruction set")
    with pytest.raises(HostError, match="KVM demanded, but aarch64 is not the instruction set of this host") as caught:
        up(spec, images, say)
    assert "accelerator: auto" in caught.value.hint
