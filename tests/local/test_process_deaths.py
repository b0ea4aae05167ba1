"""Kernels die while threads of a process move: before, during and after; home too. Nobody hangs, and all is named."""

import base64
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from guest.protocol.messages import MessageName
from tests.local import deaf_agent
from tests.local.agents import Agents
from tests.local.test_daemon import until

PROGRAM = """\
from pathlib import Path

from guest.process import Thread
from guest.synchronization import WaitBroken

FOLDER = Path("FOLDER_HERE")


def pause(name):
    "Say that it is there, and wait for the word to go on: the test's, who sees files."
    (FOLDER / f"at-{name}").touch()
    while not (FOLDER / f"go-{name}").exists():
        pass


class Traveller(Thread):
    def __init__(self, cells, way):
        self.cells, self.way = cells, way
        self.seen = []

    def stayed(self, why):
        self.seen.append(why)

    def step(self):
        self.cells[self.kernel] += 1                    # which kernel ran how many steps
        pause(f"step-{sum(self.cells[:4])}")
        if self.way:
            self.migrate(self.way.pop(0))
        else:
            self.exit([*self.seen, self.kernel])


def main(process):
    cells = process.array("q", 512)
    thread = process.start(Traveller(cells, WAY), on=START)
    try:
        process.event().wait()                          # broken off when a kernel dies
    except WaitBroken as broken:
        print("broken:", broken)
        pause("broken")
    try:
        found = thread.join()                           # it may live, so this is not
    except WaitBroken as broken:
        print("no result:", broken)
        found = "lost"
    assert not thread.is_alive()
    print("result:", found, "steps:", list(cells[:4]))
"""
DEADLINE_S = 1.0


class Story:
    """Agents with the program, and the files by which the test follows it."""

    def __init__(
        self,
        agents: Agents,
        folder: Path,
        way: list[int],
        start: int = 0,
        late: int | None = None,
        program: str = PROGRAM,
        deadline_s: float = 25,
        protocol: str = "voting",
    ) -> None:
        """`late`: the kernel that does not hear of the run, or later."""
        self.agents, self.folder, self.deadline_s = agents, folder, deadline_s
        agents.open(protocol=protocol, pages=64, members=1, mapped=64, failure_deadline_s=DEADLINE_S)
        program = program.replace("FOLDER_HERE", str(folder)).replace("WAY", repr(way)).replace("START", str(start))
        data = base64.b64encode(program.encode()).decode()
        for agent in agents.agents:
            assert agent.ask(op="put", name="own.py", offset=0, data=data)["event"] == "put"
        for agent in [agent for agent in agents.agents if agent.kernel != late]:
            self.run(agent.kernel)

    def run(self, kernel: int) -> None:
        workload = {"kind": "process", "file": "own.py", "iterations": 1, "pages": 64, "seed": 1}
        roles = [["process"]] * self.agents.kernels
        self.agents.agents[kernel].send(
            op="run", workload=workload, roles=roles[0], all_roles=roles, deadline_s=self.deadline_s
        )

    def at(self, name: str) -> None:
        until((self.folder / f"at-{name}").exists)

    def go(self, *names: str) -> None:
        for name in names:
            (self.folder / f"go-{name}").touch()

    def sent(self, kernel: int, name: MessageName) -> int:
        return self.agents.segment().nodes[kernel].messages[name]

    def stop(self, kernel: int) -> None:
        os.kill(self.agents.agents[kernel].process.pid, signal.SIGSTOP)

    def kill(self, kernel: int) -> None:
        self.agents.agents[kernel].process.kill()
        self.agents.agents[kernel].process.wait()

    def survivors(self, *dead: int) -> list[dict[str, Any]]:
        return [agent.answer() for agent in self.agents.agents if agent.kernel not in dead]


SURVIVORS = """\
from pathlib import Path

from guest.process import Thread
from guest.synchronization import WaitBroken

FOLDER = Path("FOLDER_HERE")


class Spinner(Thread):
    "On its kernel until the word is given."

    def __init__(self, name):
        self.name = name

    def step(self):
        (FOLDER / f"at-{self.name}").touch()
        if (FOLDER / "go-spinners").exists():
            self.exit(self.name)


class Starter(Thread):
    "Its thread begins here, and is elsewhere."

    def step(self):
        self.exit(self.process.start(Spinner("grandchild"), on=2))


class Quick(Thread):
    "Writes its result last of all, so that the page of all results dies with its kernel."

    def step(self):
        self.exit("quick")


class Asker(Thread):
    "Waits away from where they were started."

    def __init__(self, spinners):
        self.spinners = spinners

    def step(self):
        try:
            self.process.event().wait()
        except WaitBroken:
            (FOLDER / "at-asker").touch()
        self.exit([result(each) for each in self.spinners])


def result(thread):
    try:
        return thread.join()
    except WaitBroken as broken:
        return str(broken)


def main(process):
    spinners = [process.start(Spinner(f"on-{kernel}"), on=kernel) for kernel in range(4)]
    grandchild = process.start(Starter(), on=1).join()
    asker = process.start(Asker(spinners), on=3)
    assert all(each.is_alive() for each in (*spinners, grandchild, asker))
    quick = process.start(Quick(), on=1)
    try:
        process.event().wait()
    except WaitBroken:
        pass
    while spinners[1].is_alive():                       # the roll is called, and then everybody knows
        pass
    print("alive:", [each.is_alive() for each in (*spinners, asker)])
    try:
        grandchild.is_alive()
    except WaitBroken as broken:
        print("unknown:", broken)
    (FOLDER / "at-main").touch()
    print("quick:", quick.join(), quick.is_alive())
    print("here:", [result(each) for each in spinners])
    print("there:", asker.join(), asker.is_alive())
"""


def test_survivors_are_waited_for_and_the_lost_are_told_of_on_every_kernel(tmp_path: Path) -> None:
    with Agents(4) as agents:
        story = Story(agents, tmp_path, way=[], program=SURVIVORS)
        for name in ("on-0", "on-1", "on-2", "on-3", "grandchild"):
            story.at(name)
        until(lambda: story.sent(3, MessageName.FUTEX_WAIT) > 0 and story.sent(1, MessageName.THREAD_EXIT) > 1)
        story.kill(1)
        story.at("main")
        story.at("asker")
        until(lambda: story.sent(0, MessageName.THREAD_WATCH) > 0)  # the first one lives, says home to kernel 3
        story.go("spinners")
        home, *others = story.survivors(1)
    assert [each["event"] for each in (home, *others)] == ["finished"] * 3, (home, others)
    said = "".join(home["output"])
    results = "['on-0', 'kernel 1 died, and thread 2 or its result was lost with that', 'on-2', 'on-3']"
    assert "alive: [True, False, True, True, True]" in said, said
    assert "unknown: kernel 1 died; thread 6 was started on kernel 1, and nobody else can say what has become" in said
    assert "quick: quick False" in said, said
    assert len(home["lost_pages"]) == 1, home["lost_pages"]
    assert f"here: {results}\nthere: {results} False" in said, said


MAIN_THAT_WAITS = """\
def main(process):
    spinners = [process.start(Spinner(f"on-{kernel}"), on=kernel) for kernel in range(2)]
    result(spinners[1])
    spinners[0].join()
"""


def test_a_run_that_is_not_over_in_time_says_who_has_died_and_who_waits_for_whom(tmp_path: Path) -> None:
    program = SURVIVORS.partition("def main(")[0] + MAIN_THAT_WAITS
    with Agents(2) as agents:
        story = Story(agents, tmp_path, way=[], program=program, deadline_s=5)
        story.at("on-1")
        story.kill(1)
        (home,) = story.survivors(1)
    assert home["kind"] == "deadline", home
    assert home["message"].startswith("the process is not over in time: kernel 1 has died; threads ["), home
    assert "; thread 0 waits for the end of thread 1" in home["message"], home


def test_to_a_kernel_that_died_before_the_thread_does_not_go(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[1, 2])
        story.at("step-1")
        story.kill(1)
        story.at("broken")
        story.go("step-1", "step-2", "step-3", "broken")
        home, other = story.survivors(1)
    assert (home["event"], other["event"]) == ("finished", "finished"), (home, other)
    said = "".join(home["output"])
    assert "broken: kernel 1 died" in said
    assert "result: ['it is dead', 2] steps: [2, 0, 1, 0]" in said, said
    assert home["dead_kernels"] == other["dead_kernels"] == [1]


def test_a_destination_that_dies_before_it_answers_leaves_the_thread_where_it_was(tmp_path: Path) -> None:
    with Agents(2) as agents:
        story = Story(agents, tmp_path, way=[1])
        story.at("step-1")
        story.stop(1)
        story.go("step-1")
        until(lambda: story.sent(0, MessageName.THREAD_MIGRATE) == 1)
        story.kill(1)
        story.go("step-2", "broken")
        (home,) = story.survivors(1)
    assert home["event"] == "finished", home
    said = "".join(home["output"])
    assert "result: ['it is dead', 0] steps: [2, 0, 0, 0]" in said, said


def test_a_thread_dies_with_the_kernel_that_it_has_moved_to(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[2, 1])
        story.go("step-1", "step-2")
        story.at("step-3")
        story.kill(1)
        story.go("broken")
        home, other = story.survivors(1)
    assert (home["event"], other["event"]) == ("finished", "finished"), (home, other)
    assert "result: lost" in "".join(home["output"])
    assert [each["thread"] for each in home["dead_threads"]] == [1]
    assert [each["thread"] for each in other["dead_threads"]] == [1]


def test_a_thread_that_a_dead_kernel_had_let_run_does_not_run_twice_though_that_was_not_heard(tmp_path: Path) -> None:
    with Agents(2, module=deaf_agent.__name__) as agents:
        story = Story(agents, tmp_path, way=[1, 0, 1])
        story.go("step-1", "step-2", "step-3")
        until(lambda: story.sent(1, MessageName.THREAD_PLACED) == 2)
        story.kill(1)
        story.go("step-4", "broken")
        (home,) = story.survivors(1)
    assert home["event"] == "finished", home
    assert "result: lost" in "".join(home["output"]), home["output"]
    assert [each["thread"] for each in home["dead_threads"]] == [1]


def test_threads_elsewhere_go_on_when_home_dies_and_their_kernels_end_their_part(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[2, 1])
        story.go("step-1")
        story.at("step-2")
        story.kill(0)
        until(lambda: all(agents.segment().nodes[kernel].suspects == 1 for kernel in (1, 2)))
        story.go("step-2", "step-3")
        answers = story.survivors(0)
    assert [answer["event"] for answer in answers] == ["finished", "finished"], answers


def test_nothing_of_a_process_is_left_when_its_home_dies_and_nobody_else_has_threads(tmp_path: Path) -> None:
    with Agents(2) as agents:
        story = Story(agents, tmp_path, way=[])
        story.at("step-1")
        story.kill(0)
        (other,) = story.survivors(0)
    assert other["event"] == "finished", other
    assert other["dead_kernels"] == [0]


def test_a_kernel_that_dies_before_it_begins_is_not_waited_for(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[2], late=1)
        story.kill(1)
        story.go("step-1", "step-2", "broken")
        home, other = story.survivors(1)
    assert (home["event"], other["event"]) == ("finished", "finished"), (home, other)
    assert "steps: [1, 0, 1, 0]" in "".join(home["output"])


def test_kernels_whose_home_dies_before_it_begins_have_nothing_to_do(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[], late=0)
        story.kill(0)
        answers = story.survivors(0)
    assert [answer["event"] for answer in answers] == ["finished", "finished"], answers


KEEPERS = """\
from pathlib import Path

from guest.process import Thread

FOLDER = Path("FOLDER_HERE")


def pause(name):
    (FOLDER / f"at-{name}").touch()
    while not (FOLDER / f"go-{name}").exists():
        pass


class Keeper(Thread):
    def __init__(self, cells):
        self.cells = cells

    def step(self):
        own = 512 * self.kernel
        self.cells[own] = 7                             # a page that this kernel alone has from now on
        pause(f"kernel-{self.kernel}")
        self.cells[own] += 1
        print("its own:", self.cells[own])
        print("home's:", self.cells[0])
        self.exit()


def main(process):
    cells = process.array("q", 512 * 3)
    cells[0] = 1
    for kernel in (1, 2):
        process.start(Keeper(cells), on=kernel)
    pause("home")
"""


@pytest.mark.parametrize("protocol", ["voting", "origin"])
def test_when_home_dies_each_kernel_keeps_its_own_pages_and_says_that_homes_are_lost(
    tmp_path: Path, protocol: str
) -> None:
    """Of the origin protocol it is the origin, too."""
    with Agents(3) as agents:
        story = Story(agents, tmp_path, [], program=KEEPERS, protocol=protocol)
        for name in ("home", "kernel-1", "kernel-2"):
            story.at(name)
        story.kill(0)
        story.go("kernel-1", "kernel-2")
        for answer in story.survivors(0):
            assert (answer["event"], answer["dead_kernels"]) == ("finished", [0]), answer
            assert 0 in answer["lost_pages"]
            assert "its own: 8\nhome's: 0\n" in "".join(answer["output"])


@pytest.mark.parametrize("seen_before", [True, False])
def test_an_assertion_about_a_page_that_was_lost_is_no_wrong_value(tmp_path: Path, seen_before: bool) -> None:
    array = 'cells = process.array("q", 512)\n'
    program = PROGRAM.replace(array, f"{array}    cells[0] = 0\n") if seen_before else PROGRAM  # by home
    program += '    assert sum(cells[:4]) == 1, "no step was made"\n'
    with Agents(2) as agents:
        story = Story(agents, tmp_path, way=[], start=1, program=program)
        story.at("step-1")
        story.kill(1)
        story.go("broken")
        (home,) = story.survivors(1)
    said = (
        "thread 0: AssertionError: no step was made; it had found zeros in place of pages [0], which died with a "
        "kernel (kernel 1 has died)"
    )
    assert (home["kind"], home["message"].partition("\n")[0]) == ("application", said), home


def test_a_kernel_where_nothing_is_left_answers_those_that_go_on(tmp_path: Path) -> None:
    with Agents(4) as agents:
        story = Story(agents, tmp_path, way=[1, 3, 2, 3])
        story.go("step-1", "step-2")
        story.at("step-3")
        story.kill(0)
        finished = agents.agents[2].answer()
        story.go("step-3")  # to kernel 2, which refuses it
        story.at("step-4")
        story.kill(3)
        other = agents.agents[1].answer()  # when all that live have said that the thread is not with them
        closed = [agents.agents[kernel].ask(op="close")["event"] for kernel in (1, 2)]
    assert (finished["event"], other["event"], closed) == ("finished", "finished", ["closed"] * 2), (finished, other)
    assert [each["thread"] for each in other["dead_threads"]] == [1]


def test_a_kernel_hears_of_a_death_though_it_begins_later(tmp_path: Path) -> None:
    with Agents(3) as agents:
        story = Story(agents, tmp_path, way=[2], late=2)
        story.kill(1)
        until(lambda: all(agents.segment().nodes[kernel].suspects == 2 for kernel in (0, 2)))
        until(lambda: story.sent(0, MessageName.THREAD_ROLL) > 0)
        story.run(2)
        story.go("step-1", "step-2", "broken")
        home, other = story.survivors(1)
    assert (home["event"], other["event"]) == ("finished", "finished"), (home, other)
    assert home["dead_kernels"] == other["dead_kernels"] == [1]
