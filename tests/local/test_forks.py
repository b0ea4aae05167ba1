"""Processes that begin as copies of others: what they see, where they are, and that nothing of them stays."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from guest.protocol.messages import MessageName
from orchestrator.checker.replay import read_traces, replay
from tests.local.agents import PATIENCE_S, Agents
from tests.local.test_daemon import children, until
from tests.local.test_process import answers, assert_replays, text
from tests.local.test_run_local import run, summary_of

CHANGERS = """\
from guest.process import Thread


class Changer(Thread):
    "The first thread of a copy: it changes what it sees, on every kernel, and starts a thread that sees that."

    def __init__(self, numbers, start):
        self.numbers, self.start, self.hops = numbers, start, 0

    def step(self):
        process = self.process
        if self.hops == 0:
            assert process.number > 0
            assert list(self.numbers) == list(range(self.start, self.start + len(self.numbers)))
        for each in range(512):
            self.numbers[each] += 1000
        self.hops += 1
        if self.hops < 3:
            self.migrate((self.kernel + 1) % process.kernels)
            return
        helper = process.start(Helper(self.numbers), on=(self.kernel + 1) % process.kernels)
        assert helper.join() == self.start + 3000
        process.figure(f"child_{self.start}", self.numbers[0])
        self.exit()


class Helper(Thread):
    def __init__(self, numbers):
        self.numbers = numbers

    def step(self):
        self.exit(self.numbers[0])


def main(process):
    assert process.number == 0
    numbers = process.array("q", 2048)
    children = []
    for start in range(process.parameters["forks"]):
        numbers[:] = range(start, start + 2048)
        children.append(process.fork(Changer(numbers, start), on=start % process.kernels))
        for each in range(512):
            numbers[each] -= 7                          # which the child does not see
        if process.parameters["one_by_one"]:
            children.pop().join()
    for child in children:
        child.join()
    assert list(numbers[:2]) == [start - 7, start - 6] and numbers[600] == start + 600
    process.figure("mine", numbers[0])
"""


@pytest.mark.parametrize("kernels", [2, 3])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_copy_is_of_its_moment_and_a_process_of_its_own(tmp_path: Path, kernels: int, one_by_one: bool) -> None:
    (tmp_path / "own.py").write_text(CHANGERS)
    more = f", processes: 5, parameters: {{forks: 4, one_by_one: {one_by_one}}}"
    file = text(kernels, more).replace("1MiB", "2MiB")
    expect = [f"figures.child_{number} == {number + 3000}" for number in range(4)]
    summary = summary_of(run(tmp_path, f"{file}expect: {[*expect, 'figures.mine == -4']}\n", "--json"))
    assert_replays(tmp_path, summary)
    messages = summary["points"][0]["messages"]
    elsewhere = sum(number % kernels != 0 for number in range(4))
    assert (messages["PROCESS_FORK"], messages["PROCESS_FORKED"]) == (elsewhere, elsewhere)
    assert messages["SPACE_OP"] == 8 * (kernels - 1)  # each copy, and its end
    threads = {(stay["process"], stay["thread"]) for answer in answers(summary) for stay in answer["stays"]}
    assert len(threads) == 1 + 4 * 2


def test_room_comes_back_when_a_process_ends_and_without_room_a_fork_fails(tmp_path: Path) -> None:
    program = CHANGERS.partition("def main")[0] + (
        "class Waiter(Thread):\n"
        "    def __init__(self, event):\n"
        "        self.event = event\n"
        "    def step(self):\n"
        "        self.process.exit()\n"
        "class Second(Thread):\n"
        "    def step(self):\n"
        "        from guest.process import ForkFailed\n"
        "        try:\n"
        "            self.process.fork(Waiter(None), on=0)\n"
        "        except ForkFailed as failed:\n"
        "            print(failed)\n"
        "            self.process.figure('failed', 1)\n"
        "        self.exit()\n"
        "def main(process):\n"
        "    numbers = process.array('q', 2048)\n"
        "    numbers[:] = range(2048)\n"
        "    for _ in range(5):\n"
        "        process.fork(Changer(numbers, 0), on=1).join()\n"
        "    process.fork(Second(), on=1).join()\n"
    )
    (tmp_path / "own.py").write_text(program)
    file = text(more=", processes: 2, parameters: {}") + "expect: [figures.failed == 1, figures.child_0 == 3000]\n"
    assert_replays(tmp_path, summary_of(run(tmp_path, file, "--json")))


def test_a_program_that_is_to_be_the_only_process_hears_so_when_it_forks_onto_any_kernel(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from guest.process import ForkFailed, Thread\n"
        "def main(process):\n"
        "    for kernel in range(process.kernels):\n"
        "        try:\n"
        "            process.fork(Thread(), on=kernel)\n"
        "        except ForkFailed as failed:\n"
        "            assert '`processes`' in failed.hint, failed.hint\n"
        "            process.figure(f'failed_{kernel}', 1)\n"
    )
    file = text(more="") + "expect: [figures.failed_0 == 1, figures.failed_1 == 1]\n"
    assert_replays(tmp_path, summary_of(run(tmp_path, file, "--json")))


def test_threads_of_the_parent_are_not_in_the_copy_and_nobody_waits_for_them(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from guest.process import Thread, ThreadError\n"
        "class Sleeper(Thread):\n"
        "    def __init__(self, event):\n"
        "        self.event = event\n"
        "    def step(self):\n"
        "        if self.event:\n"
        "            self.event.wait()\n"
        "        self.exit('slept')\n"
        "class First(Thread):\n"
        "    def __init__(self, ended, running):\n"
        "        self.ended, self.running = ended, running\n"
        "    def step(self):\n"
        "        assert self.ended.join() == 'slept'\n"
        "        assert not self.running.is_alive()\n"
        "        try:\n"
        "            self.running.join()\n"
        "        except ThreadError as error:\n"
        "            assert f'is one of process 0, this is process {self.process.number}' in str(error)\n"
        "            self.process.figure('told', 1)\n"
        "        self.exit()\n"
        "def main(process):\n"
        "    event = process.event()\n"
        "    ended, running = process.start(Sleeper(None), on=1), process.start(Sleeper(event), on=1)\n"
        "    ended.join()\n"
        "    child = process.fork(First(ended, running), on=1)\n"
        "    assert running.is_alive()\n"
        "    child.join()\n"
        "    event.set()\n"
        "    assert running.join() == 'slept' and not running.is_alive()\n"
    )
    assert_replays(
        tmp_path, summary_of(run(tmp_path, text(more=", processes: 2") + "expect: [figures.told == 1]\n", "--json"))
    )


class Pair:
    """Two agents that run a program, told by the test through files."""

    def __init__(self, agents: Agents, folder: Path, program: str, failure_deadline_s: float = 1.0) -> None:
        self.agents, self.folder = agents, folder
        agents.open(pages=128, span=64, mapped=64, failure_deadline_s=failure_deadline_s, trace=True)
        data = base64.b64encode(program.replace("FOLDER_HERE", str(folder)).encode()).decode()
        workload = {"kind": "process", "file": "own.py", "iterations": 1, "pages": 64, "seed": 1}
        roles = [["process"]] * agents.kernels
        for agent in agents.agents:
            assert agent.ask(op="put", name="own.py", offset=0, data=data)["event"] == "put"
            agent.send(op="run", workload=workload, roles=["process"], all_roles=roles, deadline_s=20)

    def until_at(self, name: str) -> None:
        until((self.folder / f"at-{name}").exists)

    def go(self, name: str) -> None:
        (self.folder / f"go-{name}").touch()

    def answers(self, kernels: list[int]) -> list[dict[str, Any]]:
        return [self.agents.agents[kernel].answer() for kernel in kernels]

    def replayed(self, kernels: list[int]) -> str | None:
        """Where their traces leave the model."""
        for kernel in kernels:
            answer = self.agents.agents[kernel].ask(op="trace")
            lines = [{**answer["header"], "node": f"node{kernel}"}, *answer["entries"]]
            (self.folder / f"{kernel}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return replay(read_traces(self.folder)).divergence


WAITING = """\
from pathlib import Path

from guest.process import ForkFailed, Thread

FOLDER = Path("FOLDER_HERE")


def pause(name):
    (FOLDER / f"at-{name}").touch()
    while not (FOLDER / f"go-{name}").exists():
        pass


class Child(Thread):
    def __init__(self, cells):
        self.cells = cells

    def step(self):
        pause("child")
        print("child sees", self.cells[0])
        self.exit()


class Computing(Thread):
    def step(self):
        while True:
            pass


"""


def test_whether_a_child_is_alive_is_known_on_all_kernels(tmp_path: Path) -> None:
    program = WAITING + (
        "class Asker(Thread):\n"
        "    def __init__(self, child):\n"
        "        self.child = child\n"
        "    def step(self):\n"
        "        self.exit((self.kernel, self.child.is_alive()))\n"
        "def main(process):\n"
        "    ask = lambda: [process.start(Asker(child), on=kernel).join() for kernel in range(2)]\n"
        "    child = process.fork(Child(process.array('q', 1)), on=1)\n"
        "    print('running', child.is_alive(), ask())\n"
        "    pause('asked')\n"
        "    child.join()\n"
        "    print('ended', child.is_alive(), ask())\n"
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("asked")
        pair.go("child")
        pair.go("asked")
        answer, _ = pair.answers([0, 1])
        output = "".join(answer["output"])
        assert "running True [(0, True), (1, True)]\n" in output
        assert "ended False [(0, False), (1, False)]\n" in output
        assert pair.replayed([0, 1]) is None


def test_a_process_that_ends_as_a_whole_takes_its_computing_threads_along_and_nobody_elses(tmp_path: Path) -> None:
    """They never look at what their daemon says; their memory is another process's next."""
    program = WAITING + (
        "class Ender(Thread):\n"
        "    def step(self):\n"
        "        self.process.start(Computing(), on=0)\n"
        "        self.process.start(Computing(), on=1)\n"
        "        self.process.exit()\n"
        "def main(process):\n"
        "    cells = process.array('q', 1)\n"
        "    for number in range(3):\n"
        "        cells[0] = number\n"
        "        process.fork(Ender(), on=number % 2).join()\n"
        "    pause('main')\n"
        "    process.fork(Child(cells), on=1)\n"
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("main")
        pair.go("main")
        pair.until_at("child")
        pair.go("child")
        first, second = pair.answers([0, 1])
        assert first["event"] == second["event"] == "finished", (first, second)
        assert "child sees 2" in "".join(second["output"])


def test_a_parent_that_ends_first_leaves_its_room_to_others(tmp_path: Path) -> None:
    """Its thread that computes ends with it, though the run goes on, and a child of its child is where it was."""
    program = WAITING + (
        "class Heir(Thread):\n"
        "    def __init__(self, cells):\n"
        "        self.cells = cells\n"
        "    def step(self):\n"
        "        self.cells[0] += 1\n"
        "        pause('heir')\n"
        "        try:\n"
        "            self.process.fork(Child(self.cells), on=0)\n"
        "            self.exit()\n"
        "        except ForkFailed:\n"
        "            pass\n"
        "def main(process):\n"
        "    cells = process.array('q', 1)\n"
        "    cells[0] = 5\n"
        "    process.fork(Heir(cells), on=1)\n"
        "    pause('main')\n"
        "    process.start(Computing(), on=1)\n"
        "    process.exit()\n"
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program)
        pair.until_at("heir")
        pair.until_at("main")
        pair.go("main")
        pair.go("heir")
        pair.until_at("child")
        running = [len(children(agent.process.pid)) for agent in agents.agents]
        pair.go("child")
        first, second = pair.answers([0, 1])
        assert first["event"] == second["event"] == "finished", (first, second)
        assert "child sees" in "".join(first["output"])
        assert running[0] == 2, running  # the launcher, and the grandchild's worker


def test_a_wait_is_for_the_word_of_ones_own_copy(tmp_path: Path) -> None:
    """Words of two processes have the same address. Who sleeps for one is not woken by what is stored to the other."""
    program = (
        WAITING
        + """\
class Setter(Thread):
    def __init__(self, event):
        self.event = event

    def step(self):
        self.event.set()
        self.exit()


class Waiter(Setter):
    def step(self):
        self.event.wait()
        self.exit()


def main(process):
    event = process.event()
    waiter = process.start(Waiter(event), on=1)
    pause("main")
    process.fork(Setter(event), on=1).join()
    pause("end")
    assert waiter.is_alive()
    event.set()
    waiter.join()
"""
    )
    with Agents(2) as agents:
        pair = Pair(agents, tmp_path, program, PATIENCE_S)
        home, other = agents.segment().nodes
        until(lambda: home.messages[MessageName.FUTEX_ANSWER] == 1)  # it is in the queue
        pair.go("main")
        pair.until_at("end")
        assert home.messages[MessageName.FUTEX_ANSWER] == 1
        pair.go("end")
        assert [answer["event"] for answer in pair.answers([0, 1])] == ["finished"] * 2
        assert other.messages[MessageName.FUTEX_WAIT] == 1  # woken for nothing it would wait once more
