"""One process over two real guests: placement moves its threads, and guests die while these move. Nobody hangs."""

import base64
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from guest.protocol.messages import MessageName
from images import Image
from orchestrator.bench.guests import NODES, Guests
from testbed import Deadline, Testbed, up
from tests.local.test_placement import CONSUMER
from tests.local.test_process_deaths import PROGRAM
from tests.vm.conftest import pair_spec, say
from tests.vm.test_faults_vm import AGENT, DEADLINE_S, RUN_S, Outcome, Running, survivor

pytestmark = pytest.mark.timeout(600)

FOLDER = "/run/story"
HOME, OTHER = NODES
PAGES = 64


class Story(Running):
    """A process that goes on in both guests, and the files in them by which the test leads it."""

    def begin(self, program: str, **more: Any) -> "Future[Outcome]":
        self.guests.format_segment()
        opening = {"op": "open", "kernels": 2, "pages": PAGES, "mapped": PAGES, "members": 1}
        opening |= {"failure_deadline_s": DEADLINE_S, "link": {"kind": "ivshmem", "pci": None}}
        self.guests.ask({node: {**opening, "kernel": kernel} for kernel, node in enumerate(NODES)})
        data = base64.b64encode(program.encode()).decode()
        self.guests.ask({node: {"op": "put", "name": "own.py", "offset": 0, "data": data} for node in NODES})
        workload = {"kind": "process", "file": "own.py", "pages": PAGES, "seed": 1, "iterations": 1, **more}
        work = {"op": "run", "workload": workload, "all_roles": [[], []], "deadline_s": 0.9 * RUN_S}
        return self._pool.submit(
            self.guests.agents.ask_survivors, dict.fromkeys(NODES, work), NODES, Deadline(RUN_S), 5.0
        )

    def travels(self, way: list[int]) -> "Future[Outcome]":
        """The program of the local tests: a thread that waits for a word before each step."""
        for node in NODES:
            self.in_guest(node, "mkdir", "-p", FOLDER)
        words = {"FOLDER_HERE": FOLDER, "WAY": repr(way), "START": "0"}
        program = PROGRAM
        for word, meaning in words.items():
            program = program.replace(word, meaning)
        return self.begin(program)

    def at(self, node: str, name: str) -> None:
        self.in_guest(node, "sh", "-c", f"until [ -e {FOLDER}/at-{name} ]; do sleep 0.05; done")

    def go(self, node: str, *names: str) -> None:
        self.in_guest(node, "touch", *(f"{FOLDER}/go-{name}" for name in names))

    def processes(self, node: str) -> int:
        """The agent, its launcher, and what this has forked."""
        return int(self.guests.shells[node].run(["pgrep", "-fc", AGENT]).stdout)


@pytest.fixture(scope="module")
def pair(state_home: object, images: Mapping[str, Image]) -> Iterator[Testbed]:
    """A pair of its own: one of the two does not survive it."""
    with up(pair_spec("story"), images, say) as testbed:
        yield testbed


@pytest.fixture
def another(state_home: object, images: Mapping[str, Image]) -> Iterator[Testbed]:
    """Another one, of which the other one does not."""
    with up(pair_spec("homeless"), images, say) as testbed:
        yield testbed


@contextmanager
def story_of(testbed: Testbed) -> Iterator[Story]:
    with ThreadPoolExecutor(1) as pool, Guests(testbed, say) as guests:
        for node in NODES:
            guests.shells[node].run(["rm", "-rf", FOLDER])
        yield Story(guests, testbed, pool)


def sent(kernel: int, name: MessageName) -> Callable[[Any], bool]:
    return lambda segment: segment.nodes[kernel].messages[name] > 0


def test_a_thread_follows_its_pages_to_the_other_guest(pair: Testbed) -> None:
    """16 pages are written in one guest and read in the other, until one thread of the two follows."""
    iterations = 30
    with story_of(pair) as story:
        answers, failures = story.begin(CONSUMER, iterations=iterations, placement="locality").result()
    assert failures == {}
    figures = answers[HOME]["figures"]
    assert figures["producer"] == figures["consumer"]
    assert sum(answer["messages"].get("PAGE_DATA", 0) for answer in answers.values()) < 16 * iterations / 2


def test_a_thread_is_lost_with_the_kernel_that_it_has_moved_to(pair: Testbed) -> None:
    with story_of(pair) as story:
        ended = story.travels([1])
        story.go(HOME, "step-1")
        story.at(OTHER, "step-2")
        story.kill_agent(OTHER)
        story.go(HOME, "broken")
        answer = survivor(ended.result(), HOME)
        assert story.processes(HOME) == 2
    assert answer["dead_threads"] == [{"thread": 1, "process": 0, "how": "its kernel died"}]
    said = "".join(answer["output"])
    assert "no result: kernel 1 died, and thread 1 or its result was lost with that" in said
    assert "result: lost" in said


def test_a_thread_stays_when_the_guest_dies_that_it_is_on_its_way_to(pair: Testbed) -> None:
    """And when it wants to go there after that. Last of this pair: that guest has no second life."""
    with story_of(pair) as story:
        ended = story.travels([1, 1])
        story.at(HOME, "step-1")
        os.kill(story.machine(OTHER), signal.SIGSTOP)
        story.go(HOME, "step-1")
        story.until(sent(0, MessageName.THREAD_MIGRATE), ended)
        os.kill(story.machine(OTHER), signal.SIGKILL)
        story.go(HOME, "step-2", "step-3", "broken")
        answer = survivor(ended.result(), HOME)
        assert story.processes(HOME) == 2
    assert answer["dead_kernels"] == [1]
    assert "result: ['it is dead', 'it is dead', 0] steps: [3, 0, 0, 0]" in "".join(answer["output"])


def test_a_thread_goes_on_when_the_guest_that_is_home_dies(another: Testbed) -> None:
    with story_of(another) as story:
        ended = story.travels([1])
        story.go(HOME, "step-1")
        story.at(OTHER, "step-2")
        os.kill(story.machine(HOME), signal.SIGKILL)
        story.go(OTHER, "step-2")
        answers, failures = ended.result()
        answer = survivor((answers, failures), OTHER)
        assert story.processes(OTHER) == 2
    assert "node x86" in failures[HOME].message
    assert answer["dead_kernels"] == [0]
    assert [stay["thread"] for stay in answer["stays"]] == [1]
