"""Faults of real guests: killed, paused, without their daemon, without a program. The other guest carries on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from guest.errors import SegmentError
from guest.link.segment import Segment
from guest.memory.samples import REMOTE_WRITE
from images import Image
from orchestrator.bench.guests import NODES, SEGMENT, Guests
from testbed import Deadline, Testbed, up
from testbed.domain import SHARED_MEMORY_SLOT
from testbed.errors import GuestError
from tests.vm.conftest import pair_spec, say

pytestmark = pytest.mark.timeout(600)

DEADLINE_S = 6.0
"""Failure deadline: emulated guests share this host with whatever else it does."""
RUN_S = 240.0
LOOK_S = 0.02
PAGE = 4096
AGENT = "^python3 .*guest.agent"
"""The agent, its launcher, and the programs that this forks; the youngest is a program."""
Outcome = tuple[dict[str, dict[str, Any]], dict[str, GuestError]]


class Running:
    """A workload that goes on in both guests while a test does something to one of them."""

    def __init__(self, guests: Guests, testbed: Testbed, pool: ThreadPoolExecutor) -> None:
        self.guests = guests
        self.testbed = testbed
        self._pool = pool

    def start(
        self,
        roles: list[list[str]],
        iterations: int,
        pages: int = 16,
        begun: Callable[[Segment], bool] | None = None,
    ) -> "Future[Outcome]":
        """Until all are busy, or it has `begun`. The writer's guest is the first one; nothing is lost as long as the
        second one reads everything."""
        self.guests.format_segment()
        opening = {"op": "open", "kernels": 2, "pages": pages, "failure_deadline_s": DEADLINE_S}
        opening["link"] = {"kind": "ivshmem", "pci": None}
        self.guests.ask({node: {**opening, "kernel": kernel} for kernel, node in enumerate(NODES)})
        described = {"kind": "shared-array", "array_bytes": pages * PAGE, "iterations": iterations}
        work = {"op": "run", "workload": described, "all_roles": roles, "deadline_s": 0.9 * RUN_S}
        ended = self._pool.submit(
            self.guests.agents.ask_survivors, dict.fromkeys(NODES, work), NODES, Deadline(RUN_S), 5.0
        )
        self.until(begun or (lambda segment: all(sum(node.faults) > 2 * pages for node in segment.nodes)), ended)
        return ended

    def until(self, holds: Callable[[Segment], bool], ended: "Future[Outcome]") -> None:
        """Look at the shared segment until something holds there, which must be before the run has ended."""
        deadline = Deadline(RUN_S)
        with self.testbed.segment(SEGMENT) as peer:
            segment = Segment.open(peer.memory)
            while not holds(segment):
                assert not deadline.expired, [(node.state, node.faults) for node in segment.nodes]
                done, _ = wait([ended], timeout=LOOK_S)
                assert not done, ended.result()

    def machine(self, node: str) -> int:
        """The process that is the machine."""
        process = self.testbed.nodes[node].record.qemu
        assert process is not None
        return process.pid

    def in_guest(self, node: str, *words: str) -> None:
        done = self.guests.shells[node].run(words)
        assert done.exit_code == 0, done.stderr

    def kill_agent(self, node: str) -> None:
        """The one that has the link: one of an earlier test, or another of its processes, has not."""
        self.in_guest(node, "python3", "-S", "-c", KILL_AGENT)


@pytest.fixture(scope="module")
def faulty(state_home: object, images: Mapping[str, Image]) -> Iterator[Testbed]:
    """A pair of its own: one of the two does not survive it."""
    with up(pair_spec("faulty"), images, say) as testbed:
        yield testbed


@pytest.fixture
def running(faulty: Testbed) -> Iterator[Running]:
    with ThreadPoolExecutor(1) as pool, Guests(faulty, say) as guests:
        yield Running(guests, faulty, pool)


SCRIBBLE = f"""
import glob, mmap, os
(memory,) = [path for path in glob.glob("/sys/bus/pci/devices/0000:00:{SHARED_MEMORY_SLOT:02x}.0/resource2*")
             if path.endswith("_wc")] or glob.glob("/sys/bus/pci/devices/0000:00:{SHARED_MEMORY_SLOT:02x}.0/resource2")
with open(memory, "r+b") as file, mmap.mmap(file.fileno(), os.path.getsize(memory)) as mapped:
    noise = os.urandom(1 << 20)
    for offset in range(0, len(mapped), len(noise)):
        mapped[offset:offset + len(noise)] = noise
"""
"""What any program of a guest's root can do to the memory of its link, without the agent."""


KILL_AGENT = """
import glob, os, signal
holders = set()
for entry in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        if os.readlink(entry).startswith("/dev/vfio/"):
            holders.add(int(entry.split("/")[2]))
    except OSError:
        pass  # closed meanwhile
(agent,) = holders
os.kill(agent, signal.SIGKILL)
"""


def survivor(outcome: Outcome, node: str = "x86") -> dict[str, Any]:
    answer = outcome[0][node]
    assert answer["verified"], answer["mismatches"]
    return answer


def test_a_program_that_is_killed_is_missed_and_takes_nobody_along(running: Running) -> None:
    ended = running.start([["writer"], ["reader", "writer"]], iterations=300, pages=4)
    # The launcher forks the programs: they are the youngest processes with the agent's name.
    running.in_guest("arm", "pkill", "-KILL", "-n", "-f", AGENT)
    answers, failures = ended.result()
    assert failures == {}
    survivor((answers, failures))
    (died,) = answers["arm"]["dead_threads"]
    assert died["how"] == "killed by SIGKILL"
    assert [answer["dead_kernels"] for answer in answers.values()] == [[], []]


def test_a_guest_that_was_paused_past_the_deadline_says_so_when_it_goes_on(running: Running) -> None:
    ended = running.start([["writer"], ["reader"]], iterations=1000, pages=4)
    os.kill(running.machine("arm"), signal.SIGSTOP)
    try:
        running.until(lambda segment: segment.nodes[0].suspects == 0b10, ended)
    finally:
        os.kill(running.machine("arm"), signal.SIGCONT)
    answers, failures = ended.result()
    assert survivor((answers, failures))["dead_kernels"] == [1]
    assert "fenced: kernel 1 was declared dead by kernel 0" in failures["arm"].message


def test_a_guest_that_scribbles_over_the_memory_takes_neither_the_host_nor_the_other_guest_along(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two sees it first is open: what each says to its run is kept, whoever asks for it."""
    guests = running.guests
    said: dict[str, str] = {}

    def next_answer(missing: list[str], operation: str, deadline: Deadline) -> tuple[str, dict[str, Any] | None]:
        node, answer = real_next(missing, operation, deadline)
        if answer is not None and answer.get("op") == "run":
            said[node] = f"{answer['event']} {answer['kind']}: {answer['message']}"
        return node, answer

    real_next = guests.agents._next
    monkeypatch.setattr(guests.agents, "_next", next_answer)
    machines = {node: running.machine(node) for node in NODES}
    ended = running.start([["writer"], ["reader", "writer"]], iterations=100_000)
    running.in_guest("x86", "python3", "-S", "-c", SCRIBBLE)
    with pytest.raises(GuestError, match="'run' failed: "):
        ended.result()
    while missing := [node for node in NODES if node not in said]:
        _, answer = guests.agents._next(missing, "run", Deadline(RUN_S))
        assert answer is not None, said
    monkeypatch.undo()
    assert "defect" not in "".join(said.values())
    with running.testbed.segment(SEGMENT) as peer, pytest.raises(SegmentError, match="magic"):
        Segment.open(peer.memory)
    looking = [sys.executable, "-m", "orchestrator", "top", running.testbed.name, "--link", SEGMENT, "--once"]
    shown = subprocess.run(looking, capture_output=True, text=True, check=False, timeout=60)
    assert (shown.returncode, SEGMENT in shown.stdout, shown.stderr) == (0, True, ""), shown.stdout
    guests.agents.settle(Deadline(RUN_S))
    survivor(running.start([["writer"], ["reader"]], iterations=100, pages=4).result())
    assert {node: running.machine(node) for node in NODES} == machines


def test_without_its_daemon_a_guest_is_dead_to_the_other(running: Running) -> None:
    ended = running.start([["writer"], ["reader", "writer"]], iterations=300, pages=4)
    running.kill_agent("arm")
    answers, failures = ended.result()
    assert survivor((answers, failures))["dead_kernels"] == [1]
    assert "its agent was gone" in failures["arm"].message


def test_a_guest_that_is_killed_is_missed_and_what_only_it_had_is_lost(running: Running) -> None:
    """Last: it has no second life. It wrote all pages, and is in the middle of writing them again."""
    pages = 512

    def again(segment: Segment) -> bool:
        return segment.nodes[1].faults[REMOTE_WRITE] > pages + 32

    ended = running.start([["reader"], ["writer"]], iterations=3, pages=pages, begun=again)
    os.kill(running.machine("arm"), signal.SIGKILL)
    answers, failures = ended.result()
    answer = survivor((answers, failures))
    assert answer["dead_kernels"] == [1]
    assert 0 < len(answer["lost_pages"]) <= pages
    assert "node arm" in failures["arm"].message
