import json
import os
import signal
import threading
from typing import Any

import pytest

from orchestrator.commands import fault as commands_fault
from orchestrator.errors import Stopped
from orchestrator.signals import signals_raise
from testbed import faults, readiness
from testbed.console import Console
from testbed.errors import Failure, GuestError
from testbed.faults import Impairment, ethernet_link, impair
from testbed.shell import Completed
from testbed.spec import LinkKind, LinkSpec, NodeSpec, TestbedSpec

SPEC = TestbedSpec(
    "mine",
    tuple(NodeSpec(name, "aarch64", 512 << 20) for name in ("a", "b", "c")),
    (
        LinkSpec("net0", LinkKind.ETHERNET, 0, 0, ("a", "b")),
        LinkSpec("shm0", LinkKind.IVSHMEM_DOORBELL, 1 << 20, 1, ("a", "b")),
        LinkSpec("net1", LinkKind.ETHERNET, 0, 0, ("a", "c")),
    ),
)


class Guest:
    """A node whose kernel knows tc; `qdisc` is what it has at each device."""

    accelerator = "tcg"

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.spec = SPEC
        self.qdisc: dict[str, list[str]] = {}
        self.ran: list[str] = []
        self.closed = False

    def shell(self) -> "Guest":
        return self

    def run(self, words: tuple[str, ...], deadline: Any) -> Completed:
        assert deadline.seconds > 0
        self.ran.append(" ".join(words))
        match words:
            case ("tc", "-json", "qdisc", "show", "dev", device):
                there = self.qdisc.get(device)
                told = [{"kind": "netem", "options": {"words": there}}] if there else [{"kind": "pfifo_fast"}]
                return Completed(0, json.dumps(told).encode(), b"")
            case ("tc", "qdisc", "add", "dev", device, "root", "netem", *rest):
                assert device not in self.qdisc
                self.qdisc[device] = list(rest)
            case ("tc", "qdisc", "del", "dev", device, "root"):
                del self.qdisc[device]
            case ("modprobe", _):
                pass
            case _:
                return Completed(1, b"", b"what?\n")
        return Completed(0, b"", b"")

    def close(self) -> None:
        self.closed = True


def test_a_link_is_known_by_name_or_is_the_only_one() -> None:
    guest: Any = Guest()
    other: Any = Guest("b")
    assert ethernet_link(guest, guest, "net1").name == "net1"
    assert ethernet_link(guest, other, None).name == "net0"
    for name in (None, "shm0", "net9"):
        with pytest.raises(Failure, match="expected of net0, net1"):
            ethernet_link(guest, guest, name)
    alone: Any = Guest("d")
    with pytest.raises(Failure, match="node d: found no Ethernet link at it, expected one"):
        ethernet_link(alone, alone, None)


def test_the_device_of_the_link_and_no_other_is_impaired_and_mended() -> None:
    guest: Any = Guest()
    link = SPEC.link("net1")
    assert impair(guest, guest, link, Impairment(20, 5, 1.5)) == {"words": ["delay", "20ms", "5ms", "loss", "1.5%"]}
    assert list(guest.qdisc) == ["eth2"]
    assert impair(guest, guest, link, Impairment(loss_percent=100)) == {"words": ["loss", "100%"]}
    assert impair(guest, guest, link, Impairment()) == {}
    assert guest.qdisc == {}
    assert guest.closed


def test_what_the_guest_refuses_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    guest: Any = Guest()
    monkeypatch.setattr(Impairment, "words", ["nonsense"])
    monkeypatch.setattr(guest, "run", lambda words, **_: Completed(2, b"", b"RTNETLINK answers: no\n"))
    with pytest.raises(GuestError, match=r"node a: modprobe sch_netem ended with 2: RTNETLINK answers: no"):
        impair(guest, guest, SPEC.link("net0"), Impairment(1))
    assert guest.closed


@pytest.mark.parametrize(
    "wrong",
    [
        (-1, 0, 0),
        (1, -1, 0),
        (float("nan"), 0, 0),
        (1, float("inf"), 0),
        (0, 0, float("nan")),
        (0, 5, 0),
        (0, 0, 101),
        (0, 0, -1),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(Failure, match="expected"):
        Impairment(*wrong)


def test_a_console_from_now_on_has_no_stages_of_the_start_before(tmp_path: Any) -> None:
    log = tmp_path / "arm.console"
    log.write_text("testbed: stage=sshd t=2.0\n")
    console = Console.from_now_on(log)
    assert console.update() == []
    with log.open("a") as file:
        file.write("testbed: stage=init t=1.0\n")
    assert (console.update(), console.stages) == (["init"], {"init": 1.0})
    assert Console.from_now_on(tmp_path / "none").update() == []


class Machine:
    """A monitor that keeps what it was told; `status` is what it says."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.told: list[str] = []

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, command: str, **arguments: Any) -> None:
        self.told.append(" ".join([command, *arguments.values()]))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """A node with `machine` at its monitor, which is `running` unless a test says otherwise."""

    class Node(Guest):
        console = tmp_path / "a.console"
        arch = "x86_64"
        directory = tmp_path
        machine = Machine("running")

        class record:  # noqa: N801 - stands for a record
            class qemu:  # noqa: N801
                pid = 0

            ssh_port = 1

        def monitor(self) -> Machine:
            return self.machine

    return Node()


RESET = ["set-action reset", "system_reset"]
LAST = "set-action shutdown"


@pytest.mark.parametrize(("status", "more"), [("running", []), ("paused", ["cont"]), ("shutdown", ["cont"])])
def test_a_machine_may_reboot_until_its_kernel_speaks_and_a_panic_later_ends_it(
    monkeypatch: pytest.MonkeyPatch, node: Any, status: str, more: list[str]
) -> None:
    node.machine.status = status
    told = []

    def await_ready(*args: Any) -> float:
        on_stage = args[-1]
        for stages in ({}, {"initramfs": 1.0}, {"initramfs": 1.0, "init": 2.0}):
            told.append(list(node.machine.told))
            if stages:
                on_stage(stages)
        return 1.5

    monkeypatch.setattr(readiness, "await_ready", await_ready)
    assert faults.reset(node, lambda _line: None) == 1.5
    assert told[1] == [*RESET, *more]
    assert node.machine.told == told[2] == [*told[1], LAST]


def test_a_machine_that_does_not_come_up_again_ends_at_its_next_reboot(
    monkeypatch: pytest.MonkeyPatch, node: Any
) -> None:
    def hangs(*_: Any) -> float:
        raise GuestError("hangs")

    monkeypatch.setattr(readiness, "await_ready", hangs)
    with pytest.raises(GuestError, match="hangs"):
        faults.reset(node, lambda _line: None)
    assert node.machine.told == [*RESET, LAST]


def test_who_is_stopped_does_not_wait_for_machines_that_are_reset(monkeypatch: pytest.MonkeyPatch, node: Any) -> None:
    waits = threading.Event()

    def await_ready(_boot: Any, _limit: Any, _say: Any, cancel: threading.Event, _on_stage: Any) -> float:
        waits.set()
        assert cancel.wait(10.0), "nobody says that it is over"
        raise readiness.Cancelled

    def stop() -> None:
        waits.wait(10.0)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(readiness, "await_ready", await_ready)
    monkeypatch.setattr(commands_fault, "chosen_nodes", lambda *_: [node])
    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Stopped), signals_raise():
        commands_fault.reset(["a"], quiet=True)
    stopper.join()
    assert node.machine.told == RESET
