"""Kernels die while a process forks, or a child of it runs: what the others hear, and that nobody hangs."""

import os
import signal
from pathlib import Path

import pytest

from guest.protocol.messages import MessageName
from tests.local import dead_copy_agent, late_copy_agent
from tests.local.agents import Agents
from tests.local.test_daemon import until
from tests.local.test_forks import WAITING, Pair


def test_a_child_outlives_the_kernel_that_forked_it(tmp_path: Path) -> None:
    program = WAITING + (
        "class Forker(Thread):\n"
        "    def __init__(self, cells):\n"
        "        self.cells = cells\n"
        "    def step(self):\n"
        "        self.cells[0] = 42\n"
        "        self.process.fork(Child(self.cells), on=2)\n"
        "        pause('forker')\n"
        "def main(process):\n"
        "    process.start(Forker(process.array('q', 1)), on=1)\n"
    )
    with Agents(3) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("child")
        pair.until_at("forker")
        os.kill(agents.agents[1].process.pid, signal.SIGKILL)
        pair.go("child")
        first, third = pair.answers([0, 2])
        assert first["event"] == third["event"] == "finished", (first, third)
        assert first["dead_kernels"] == third["dead_kernels"] == [1]
        assert "child sees" in "".join(third["output"])


def test_of_a_death_before_it_was_born_a_process_hears_from_all_though_some_hear_late_that_it_is_born(
    tmp_path: Path,
) -> None:
    program = WAITING + (
        "class Traveller(Thread):\n"
        "    way = (2, 1, 0)\n"
        "    def step(self):\n"
        "        if not self.way:\n"
        "            self.exit()\n"
        "            return\n"
        "        self.migrate(self.way[0])\n"
        "        self.way = self.way[1:]\n"
        "def main(process):\n"
        "    pause('main')\n"
        "    process.fork(Traveller(), on=1).join()\n"
    )
    with Agents(4, module=late_copy_agent.__name__) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("main")
        os.kill(agents.agents[3].process.pid, signal.SIGKILL)
        until(lambda: all(agents.segment().nodes[kernel].messages[MessageName.THREAD_ROLL] == 4 for kernel in range(3)))
        pair.go("main")
        answers = pair.answers([0, 1, 2])
        assert [answer["event"] for answer in answers] == ["finished"] * 3, answers
        assert pair.replayed([0, 1, 2]) is None


def test_a_fork_onto_a_kernel_that_dies_is_told_so(tmp_path: Path) -> None:
    program = WAITING + (
        "def main(process):\n"
        "    pause('main')\n"
        "    try:\n"
        "        process.fork(Child(process.array('q', 1)), on=1)\n"
        "    except ForkFailed as failed:\n"
        "        print(failed)\n"
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("main")
        os.kill(agents.agents[1].process.pid, signal.SIGSTOP)
        pair.go("main")
        (answer,) = pair.answers([0])
        agents.agents[1].process.kill()
        assert answer["event"] == "finished", answer
        assert "no process at kernel 1: the kernel has died" in "".join(answer["output"])


@pytest.mark.parametrize(
    "before", ["", "    try:\n        process.event().wait()\n    except WaitBroken:\n        pass\n"]
)
def test_who_joins_a_process_whose_home_has_died_hears_so(tmp_path: Path, before: str) -> None:
    """Whether it waits already, or begins to when the kernel is known to be dead. A thread of it is here."""
    program = WAITING + (
        "from guest.synchronization import WaitBroken\n"
        "class Roaming(Thread):\n"
        "    def step(self):\n"
        "        self.process.start(Child(self.process.array('q', 1)), on=0)\n"
        "        pause('roaming')\n"
        "def main(process):\n"
        "    child = process.fork(Roaming(), on=1)\n" + before + "    try:\n"
        "        child.join()\n"
        "    except WaitBroken as broken:\n"
        "        print(broken)\n"
        "    try:\n"
        "        print(child.is_alive())\n"
        "    except WaitBroken as broken:\n"
        "        print('of its life:', broken)\n"
        "    pause('end')\n"
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("roaming")
        pair.until_at("child")
        agents.agents[1].process.kill()
        pair.until_at("end")
        pair.go("child")
        pair.go("end")
        (answer,) = pair.answers([0])
        assert answer["event"] == "finished", answer
        output = "".join(answer["output"])
        assert output.count("kernel 1 died, the home of process") == 2
        assert "of its life: kernel 1 died" in output
        assert "child sees 0" in output


def test_a_copy_that_was_made_is_a_process_though_home_dies_before_it_says_so(tmp_path: Path) -> None:
    program = WAITING + (
        "class Forker(Thread):\n"
        "    def step(self):\n"
        "        array = self.process.array('q', 1)\n"
        "        array[0] = 5\n"
        "        self.process.fork(Child(array), on=2).join()\n"
        "        print('the child has ended')\n"
        "        self.exit()\n"
        "def main(process):\n"
        "    process.start(Forker(), on=1)\n"
    )
    with Agents(3, module=dead_copy_agent.__name__) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("child")
        pair.go("child")
        forker, child = pair.answers([1, 2])
        assert (forker["event"], child["event"]) == ("finished", "finished"), (forker, child)
        assert "the child has ended" in "".join(forker["output"])
        assert "child sees 5" in "".join(child["output"])
        assert pair.replayed([1, 2]) is None


@pytest.mark.parametrize("asks", ["child.join()", "print(child.is_alive())"])
def test_a_kernel_that_has_nothing_of_a_child_does_not_know_of_its_end_when_its_home_has_died(
    tmp_path: Path, asks: str
) -> None:
    program = WAITING + (
        "from guest.synchronization import WaitBroken\n"
        "class Roaming(Child):\n"
        "    def step(self):\n"
        "        if self.kernel == 1:\n"
        "            return self.migrate(2)\n"
        "        super().step()\n"
        "def main(process):\n"
        "    child = process.fork(Roaming(process.array('q', 1)), on=1)\n"
        "    try:\n"
        "        process.event().wait()\n"
        "    except WaitBroken:\n"
        "        pass\n"
        "    try:\n"
        f"        {asks}\n"
        "    except WaitBroken as broken:\n"
        "        print(broken)\n"
        "    pause('end')\n"
    )
    with Agents(3) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("child")
        agents.agents[1].process.kill()
        pair.until_at("end")
        pair.go("child")
        pair.go("end")
        answer, _ = pair.answers([0, 2])
        assert answer["event"] == "finished", answer
        assert "kernel 1 died, the home of process 1, and nobody else can say" in "".join(answer["output"])
