"""What happens to the others when a kernel or a program dies, is paused, or is not heard: with real processes."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from guest.link.ring import Receiver, Sender
from guest.link.segment import ISA, NodeState, Segment
from guest.memory.samples import REMOTE_WRITE
from guest.protocol.messages import Flag, Message, MessageName
from tests.local import struck_agent
from tests.local.agents import ANSWER_DEADLINE_S, AgentProcess, Agents, Answer
from tests.local.test_daemon import PAGE, R, W, until

ENDLESS = 1_000_000
DEADLINE_S = 2.0
PROTOCOLS = ["voting", "origin"]


@pytest.fixture
def three() -> Iterator[Agents]:
    with Agents(3, module=struck_agent.__name__) as agents:
        yield agents


def struck(kernel: int, faults: int, by: signal.Signals) -> dict[str, int]:
    """What `open` tells the agents: that kernel gets a signal by itself, at that page fault."""
    return {"kernel": kernel, "faults": faults, "signal": by}


def until_killed(agent: AgentProcess) -> None:
    assert agent.process.wait(ANSWER_DEADLINE_S) == -signal.SIGKILL


def until_stopped(agent: AgentProcess) -> None:
    now = os.waitid(os.P_PID, agent.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert now is not None
    assert now.si_code == os.CLD_STOPPED, now


def busy(segment: Segment, kernel: int, faults: int = 20) -> bool:
    return sum(segment.nodes[kernel].faults) > faults


def kill(agent: AgentProcess) -> None:
    agent.process.kill()
    agent.process.wait()


def finished(agent: AgentProcess) -> Answer:
    answer = agent.answer()
    assert answer["event"] == "finished", answer
    assert answer["verified"], answer["mismatches"]
    return answer


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("victim", [1, 2])
def test_when_a_kernel_dies_the_others_carry_on(three: Agents, victim: int, protocol: str) -> None:
    dies = struck(victim, 20, signal.SIGKILL)
    three.open(protocol=protocol, failure_deadline_s=DEADLINE_S, struck=dies)
    three.start([W, R, W], array_bytes=16 * PAGE, iterations=6)
    until_killed(three.agents[victim])
    for agent in three.agents:
        if agent.kernel != victim:
            assert finished(agent)["dead_kernels"] == [victim]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pages_that_only_the_dead_kernel_had_are_lost_and_all_others_keep_their_values(
    three: Agents, protocol: str
) -> None:
    """The writer dies after it has stored some pages of its second iteration, and long before it has stored all."""
    pages, some = 64, 20
    dies = struck(1, pages + some, signal.SIGKILL)
    three.open(protocol=protocol, pages=pages, failure_deadline_s=DEADLINE_S, struck=dies)
    three.start([R, W, R], array_bytes=pages * PAGE, iterations=3, stride=1024)
    until_killed(three.agents[1])
    assert three.segment().nodes[1].faults[REMOTE_WRITE] == pages + some
    answers = [finished(three.agents[kernel]) for kernel in (0, 2)]
    for answer in answers:
        assert len(answer["lost_pages"]) == some
        assert answer["dead_kernels"] == [1]
        assert answer["dead_threads"] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kernel_that_leaves_in_the_middle_of_writing_takes_no_page_with_it(three: Agents, protocol: str) -> None:
    pages, some = 64, 20
    leaves = three.agents[1]
    three.open(protocol=protocol, pages=pages, struck=struck(1, pages + some, signal.SIGSTOP))
    segment = three.segment()
    three.start([R, W, R], array_bytes=pages * PAGE, iterations=3, stride=1024)
    until_stopped(leaves)
    assert segment.nodes[1].faults[REMOTE_WRITE] == pages + some
    leaves.send(op="leave")
    os.kill(leaves.process.pid, signal.SIGCONT)
    assert leaves.answer() == {"event": "left", "op": "leave"}
    assert segment.nodes[1].state is NodeState.LEFT
    for kernel in (0, 2):
        answer = finished(three.agents[kernel])
        assert (answer["dead_kernels"], answer["lost_pages"]) == ([1], [])
    assert segment.nodes[1].messages[MessageName.LEAVE] >= some
    assert leaves.ask(op="close")["message"] == "nothing is open"


def test_who_cannot_leave_says_why_and_stays(three: Agents) -> None:
    three.open(protocol="origin")
    refused = three.agents[0].ask(op="leave")
    assert (refused["kind"], "it is the origin" in refused["message"]) == ("command", True)
    three.close()
    assert three.agents[0].ask(op="leave")["message"] == "nothing is open"


def test_without_its_origin_nobody_hangs(three: Agents) -> None:
    three.open(protocol="origin", failure_deadline_s=DEADLINE_S, struck=struck(0, 20, signal.SIGKILL))
    three.start([R, W, R], array_bytes=16 * PAGE, iterations=6)
    answers = [three.agents[kernel].answer() for kernel in (1, 2)]
    assert [(answer["event"], answer["dead_kernels"]) for answer in answers] == [("finished", [0])] * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kernel_that_was_paused_past_the_deadline_stops_and_says_why(three: Agents, protocol: str) -> None:
    three.open(protocol=protocol, failure_deadline_s=DEADLINE_S, struck=struck(2, 20, signal.SIGSTOP))
    three.start([W, R, W], array_bytes=16 * PAGE, iterations=6)
    paused = three.agents[2]
    for kernel in (0, 1):
        assert finished(three.agents[kernel])["dead_kernels"] == [2]
    os.kill(paused.process.pid, signal.SIGCONT)
    answer = paused.answer()
    assert (answer["event"], answer["op"], answer["kind"]) == ("error", "run", "fenced"), answer
    assert "kernel 2 was declared dead by kernel 0, 1" in answer["message"]
    assert "failure_deadline_s" in answer["hint"]
    three.format()
    ready: dict[str, Any] = {"op": "open", "kernel": 2, "kernels": 3, "pages": 8, "link": three.link()}
    assert paused.ask(**ready)["event"] == "opened"


def test_a_kernel_that_was_paused_for_less_than_the_deadline_is_waited_for(three: Agents) -> None:
    three.open(struck=struck(2, 20, signal.SIGSTOP))
    segment = three.segment()
    three.start([W, R, W], array_bytes=16 * PAGE, iterations=6)
    until_stopped(three.agents[2])
    beats = [segment.nodes[kernel].heartbeat for kernel in (0, 1)]
    until(lambda: all(segment.nodes[kernel].heartbeat > beats[kernel] + 2 for kernel in (0, 1)))
    os.kill(three.agents[2].process.pid, signal.SIGCONT)
    for agent in three.agents:
        answer = finished(agent)
        assert answer["dead_kernels"] == answer["lost_pages"] == []


def test_a_kernel_beats_while_it_is_busy(three: Agents) -> None:
    three.open("poll")
    segment = three.segment()
    three.start([W, W, W], array_bytes=PAGE, iterations=ENDLESS)
    until(lambda: all(node.heartbeat > 3 for node in segment.nodes))
    three.agents[0].send(op="abort")


def test_work_that_needs_every_thread_ends_when_a_kernel_dies(three: Agents) -> None:
    three.open(failure_deadline_s=DEADLINE_S)
    segment = three.segment()
    described = {
        "kind": "litmus",
        "programs": [[["store", 0, 1]], [["load", 0]], [["load", 0]]],
        "variables": 1,
        "rounds": ENDLESS,
        "slots": 4,
        "seed": 1,
    }
    for agent in three.agents:
        agent.send(op="run", workload=described, all_roles=[["p0"], ["p1"], ["p2"]], deadline_s=25)
    until(lambda: busy(segment, 2))
    kill(three.agents[2])
    answers = [three.agents[kernel].answer() for kernel in (0, 1)]
    assert [(answer["event"], answer["kind"]) for answer in answers] == [("error", "peer")] * 2
    assert any("kernel 2 died" in answer["message"] for answer in answers), answers


class Deaf(Agents):
    """Nobody can ring kernel 1: the doorbells that the others ring for it are not the one that it listens to."""

    def __init__(self) -> None:
        self._elsewhere = os.eventfd(0, os.EFD_NONBLOCK)
        super().__init__(2, more=[self._elsewhere])

    def link_of(self, kernel: int) -> dict[str, Any]:
        link = self.link()
        if kernel != 1:
            link["doorbell_fds"][1] = [self._elsewhere]
        return link


def test_a_message_whose_doorbell_is_lost_is_found_at_the_next_beat() -> None:
    with Deaf() as agents:
        agents.open("interrupt")
        segment = agents.segment()
        agents.start([W, R], array_bytes=4 * PAGE, iterations=4)
        for agent in agents.agents:
            assert finished(agent)["dead_kernels"] == []
        assert segment.nodes[0].doorbells > 0
        assert segment.nodes[1].heartbeat > 0


class Stubborn:
    """Kernel 1, played by the test: it asks kernel 0 for more than the ring has room for, and reads no answer."""

    def __init__(self, agents: Agents) -> None:
        self.segment = agents.segment()
        self.slots = self.segment.layout.ring_slots
        self.asked = self.slots + 40
        self.segment.nodes[1].publish(ISA.X86_64, 1)
        self.receiver = Receiver(self.segment, 0, 1)
        sender = Sender(self.segment, 1, 0)
        for request in range(1, self.asked + 1):
            message = Message(MessageName.PAGE_REQUEST, request % 8, request, int(Flag.FETCH))
            until(lambda: sender.send(message))  # noqa: B023 - called at once
        until(lambda: self.segment.nodes[0].messages[MessageName.PAGE_ABSENT] == self.slots)


def open_first(agents: Agents, **more: Any) -> AgentProcess:
    agents.format()
    first = agents.agents[0]
    answer = first.ask(op="open", kernel=0, kernels=2, link=agents.link(), pages=8, notify="interrupt", **more)
    assert answer["event"] == "opened", answer
    return first


def test_a_full_ring_holds_up_nobody_and_loses_nothing() -> None:
    with Agents(2) as agents:
        first = open_first(agents)
        stubborn = Stubborn(agents)
        assert first.ask(op="hello")["event"] == "hello"
        answers: list[int] = []
        while len(answers) < stubborn.asked:
            message = stubborn.receiver.receive()  # a look that finds nothing gives back what was read
            if message is not None:
                answers.append(message.request)
        assert answers == list(range(1, stubborn.asked + 1))


def test_who_waits_for_room_in_a_dead_kernels_ring_gives_up() -> None:
    with Agents(2) as agents:
        first = open_first(agents, failure_deadline_s=DEADLINE_S)
        stubborn = Stubborn(agents)
        run = {"kind": "shared-array", "array_bytes": 4 * PAGE, "iterations": 2}
        first.send(op="run", workload=run, all_roles=[W, R], deadline_s=25)
        assert finished(first)["dead_kernels"] == [1]
        until(lambda: stubborn.segment.nodes[0].waiting)  # it sleeps, and does not try again and again
