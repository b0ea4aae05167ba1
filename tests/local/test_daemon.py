"""Agents of several kernels on this host: real userfaultfd, real processes, one coherent memory."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guest.daemon.eviction import SLACK
from guest.protocol.messages import MessageName
from guest.protocol.registry import PROTOCOLS
from tests.local.agents import ANSWER_DEADLINE_S, Agents, Answer

PAGE = 4096
R, W = ["reader"], ["writer"]
POLICIES = ["poll", "interrupt", "adaptive"]


@pytest.fixture
def pair() -> Iterator[Agents]:
    with Agents(2) as agents:
        yield agents


def children(pid: int) -> list[int]:
    """Process ids of the children of `pid`, and of theirs."""
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def until(condition: Callable[[], bool]) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + ANSWER_DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def wait_for_end(pidfds: list[int]) -> None:
    """Until every process behind `pidfds` has ended."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], ANSWER_DEADLINE_S)[0], "a process outlived its agent"
        os.close(pidfd)


def protocol_messages(answers: list[Answer]) -> int:
    return sum(sum(answer["messages"].values()) for answer in answers)


@pytest.mark.parametrize("notify", POLICIES)
@pytest.mark.parametrize("roles", [[R, R], [W, R], [W, W]], ids=["R,R", "W,R", "W,W"])
def test_every_value_is_right_under_every_policy(pair: Agents, roles: list[list[str]], notify: str) -> None:
    pair.open(notify)
    answers = pair.run(roles, array_bytes=8 * PAGE, iterations=4)
    for answer in answers:
        assert answer["event"] == "finished", answer
        assert answer["verified"], answer["mismatches"]
        assert (answer["iterations"], answer["pages"]) == (4, 8)
        accesses = answer["accesses"]
        samples = sum(len(times) for times in answer["latency_us"].values())
        writer = roles[answers.index(answer)] == W
        assert samples + accesses["hits"] + accesses["several_faults"] == 8 * 4 * (1 + writer)
        assert accesses["stray_faults"] == accesses["dropped"] == 0
        assert all(us > 0 for times in answer["latency_us"].values() for us in times)
    pair.close()


def test_reading_twice_costs_nothing_after_the_first_iteration(pair: Agents) -> None:
    counts = []
    for iterations in (1, 4):
        pair.open()
        counts.append(protocol_messages(pair.run([R, R], array_bytes=4 * PAGE, iterations=iterations)))
        pair.close()
    # Every kernel asks the other for every page once. Both may ask at the same time, or one after the other.
    assert counts == [2 * 2 * 4, 2 * 2 * 4]


def test_one_writer_and_one_reader_cost_four_messages_a_page_and_iteration(pair: Agents) -> None:
    counts = {}
    for iterations in (1, 4, 5):
        pair.open()
        answers = pair.run([W, R], array_bytes=4 * PAGE, iterations=iterations)
        counts[iterations] = protocol_messages(answers)
        pair.close()
    assert counts[5] - counts[4] == 4 * 4
    assert counts[4] - counts[1] == 3 * 4 * 4
    assert answers[0]["messages"][MessageName.INVALIDATE.name] == 4 * 4  # the first iteration has nobody to invalidate
    assert answers[1]["messages"][MessageName.VOTE.name] == 4 * 4


def test_two_writers_on_the_same_pages_cost_more(pair: Agents) -> None:
    pair.open()
    one = protocol_messages(pair.run([W, R], array_bytes=4 * PAGE, iterations=8))
    pair.close()
    pair.open()
    two = protocol_messages(pair.run([W, W], array_bytes=4 * PAGE, iterations=8))
    pair.close()
    assert two > 1.3 * one


def test_barriers_are_counted_apart(pair: Agents) -> None:
    pair.open()
    answers = pair.run([R, R], array_bytes=PAGE, iterations=3)
    # one before the first iteration, two in each, one when all are done
    assert [answer["harness_messages"] for answer in answers] == [{"BARRIER": 8}, {"BARRIER": 8}]


def test_three_kernels_with_several_threads_each(seed: int) -> None:
    roles = [[*W, *R], W, [*R, *W, "idle"]]
    with Agents(3) as agents:
        agents.open()
        answers = agents.run(roles, array_bytes=6 * PAGE, iterations=4, stride=40)
        assert [answer["event"] for answer in answers] == ["finished"] * 3, answers
        assert all(answer["verified"] for answer in answers), answers


def test_threads_of_one_kernel_share_its_pages(pair: Agents) -> None:
    pair.open()
    answers = pair.run([[*R, *R, *R], R], array_bytes=4 * PAGE, iterations=2)
    assert all(answer["verified"] for answer in answers)
    assert answers[0]["messages"].get("PAGE_REQUEST") == 4  # not one request for each thread


def test_a_kernel_without_threads_still_serves_its_part(pair: Agents) -> None:
    pair.open()
    answers = pair.run([W, []], array_bytes=2 * PAGE, iterations=2)
    assert [answer["event"] for answer in answers] == ["finished", "finished"]
    assert answers[1]["messages"] == {"PAGE_ABSENT": 2}


def test_a_kernel_that_starts_late_hears_what_was_said_before(pair: Agents) -> None:
    pair.open()
    segment = pair.segment()
    run = {
        "op": "run",
        "workload": {"kind": "shared-array", "array_bytes": PAGE},
        "all_roles": [R, R],
        "deadline_s": 10,
    }
    pair.agents[1].send(**run)
    until(lambda: segment.nodes[1].messages[MessageName.BARRIER] == 1)
    assert pair.agents[0].ask(op="hello")["event"] == "hello"  # it has looked at its rings since
    assert pair.agents[0].ask(**run)["event"] == "finished"
    assert pair.agents[1].answer()["event"] == "finished"


def test_a_small_segment_only_makes_it_slower() -> None:
    with Agents(4, segment_bytes=512 << 10) as agents:
        assert agents.format().layout.page_slots < 16
        agents.open(pages=64)
        answers = agents.run([W, [*R] * 6, [*R] * 6, W], array_bytes=32 * PAGE, iterations=3)
        assert all(answer["event"] == "finished" and answer["verified"] for answer in answers), answers


def test_a_wrong_value_is_reported_with_kernel_page_offset_expected_and_found(pair: Agents) -> None:
    pair.open()
    workload = {"kind": "shared-array", "array_bytes": 2 * PAGE, "stride": 64, "iterations": 1}
    pair.agents[0].send(op="run", workload=workload, all_roles=[W, R])
    pair.agents[1].send(op="run", workload=workload, all_roles=[R, R])  # expects zeros, as nobody writes
    right, wrong = pair.agents[0].answer(), pair.agents[1].answer()
    assert right["verified"]
    assert wrong["event"] == "finished"
    assert not wrong["verified"]
    assert wrong["wrong"] == 128
    assert wrong["mismatches"][1] == {
        "kernel": 1,
        "thread": 0,
        "iteration": 0,
        "page": 0,
        "offset": 64,
        "expected": 0,
        "found": (1 << 40) + (1 << 32) + 1,
    }


def test_many_points_in_one_agent_leave_nothing_behind(pair: Agents) -> None:
    def descriptors() -> list[int]:
        pids = [agent.process.pid for agent in pair.agents]
        return [len(os.listdir(f"/proc/{pid}/fd")) for owner in pids for pid in (owner, *children(owner))]

    counts = []
    for _ in range(4):
        pair.open()
        assert all(answer["verified"] for answer in pair.run([W, W], array_bytes=4 * PAGE, iterations=2))
        pair.close()
        counts.append(descriptors())
    assert counts[0] == counts[1] == counts[3]
    assert len(counts[0]) == 4  # two agents, two launchers, no application


def test_an_idle_kernel_sleeps_unless_it_polls(pair: Agents) -> None:
    for notify in ("adaptive", "interrupt"):
        pair.open(notify)
        segment = pair.segment()
        until(lambda: all(node.waiting for node in segment.nodes))  # noqa: B023 - called at once
        slept = [node.sleeps for node in segment.nodes]
        assert all(count < 20 for count in slept), "it wakes up all the time"
        pair.close()


# -- failures ----------------------------------------------------------------------------------------------------------


def application_of(agents: Agents, kernel: int) -> int:
    """The process id of the one application process of `kernel`."""
    launcher = children(agents.agents[kernel].process.pid)[0]
    until(lambda: len(children(launcher)) == 1)
    return children(launcher)[0]


def test_an_application_that_dies_in_a_fault_is_missed_and_nobody_waits_for_it(pair: Agents) -> None:
    pair.open()
    segment = pair.segment()
    pair.start([W, W], array_bytes=64 * PAGE, iterations=50)
    until(lambda: segment.nodes[0].faults[2] > 10)
    application = application_of(pair, 0)
    other = pair.agents[1].process
    os.kill(other.pid, signal.SIGSTOP)  # nobody answers: the application now blocks in its next fault
    until(lambda: Path(f"/proc/{application}/wchan").read_text() in ("handle_userfault", "0"))
    os.kill(application, signal.SIGKILL)
    os.kill(other.pid, signal.SIGCONT)
    without, alone = (agent.answer() for agent in pair.agents)
    assert (without["event"], alone["event"]) == ("finished", "finished"), (without, alone)
    assert without["dead_threads"] == [{"thread": 0, "how": "killed by SIGKILL"}]
    assert alone["dead_threads"] == alone["dead_kernels"] == alone["lost_pages"] == []
    assert alone["verified"], alone["mismatches"]
    pair.close()
    pair.open()
    assert all(answer["verified"] for answer in pair.run([W, W], array_bytes=4 * PAGE, iterations=2))


def test_a_run_that_does_not_end_says_who_is_missing(pair: Agents) -> None:
    pair.open()
    workload = {"kind": "shared-array", "array_bytes": PAGE}
    answer = pair.agents[0].ask(op="run", workload=workload, all_roles=[R, R], deadline_s=0)
    assert (answer["kind"], answer["op"]) == ("deadline", "run")
    assert "barrier 0 (two an iteration) is not reached by kernels [1]" in answer["message"]


def test_abort_ends_the_run_here_and_there(pair: Agents) -> None:
    pair.open()
    segment = pair.segment()
    pair.start([W, R], array_bytes=64 * PAGE, iterations=1_000_000)
    until(lambda: segment.nodes[0].faults[2] > 10)
    assert pair.agents[0].ask(op="close")["kind"] == "command"  # not while it runs
    pair.agents[0].send(op="abort")
    events = [pair.agents[0].answer(), pair.agents[0].answer()]
    assert [(e["event"], e.get("kind")) for e in events] == [("aborting", None), ("error", "aborted")]
    assert pair.agents[1].answer()["kind"] == "peer"
    pair.close()
    pair.open()
    assert all(answer["verified"] for answer in pair.run([W, R], array_bytes=PAGE))


@pytest.mark.parametrize("end", ["end of input", "SIGKILL"])
def test_nothing_outlives_the_agent(pair: Agents, end: str) -> None:
    pair.open()
    segment = pair.segment()
    pair.start([W, R], array_bytes=64 * PAGE, iterations=1_000_000)
    until(lambda: segment.nodes[0].faults[2] > 10)
    agent = pair.agents[0].process
    family = [agent.pid, *children(agent.pid)]
    assert len(family) == 3
    pidfds = [os.pidfd_open(pid) for pid in family]
    if end == "SIGKILL":
        agent.kill()
    else:
        assert agent.stdin is not None
        agent.stdin.close()
    wait_for_end(pidfds)


def test_what_was_said_last_is_told_and_nothing_older(pair: Agents) -> None:
    agent = pair.agents[0]
    agent.ask(op="execute", commands=[["echo", "old"]])
    assert agent.ask(op="output")["output"] == ["old\n"]
    pair.open()
    pair.run([["reader"], ["reader"]], array_bytes=PAGE, iterations=1)
    assert agent.ask(op="output")["output"] == []


def test_commands_that_make_no_sense_are_refused_and_the_agent_stays(pair: Agents) -> None:
    agent = pair.agents[0]
    link = pair.link()
    pair.format()

    def refused(expected: str, **command: object) -> None:
        answer = agent.ask(**command)
        assert answer["event"] == "error"
        assert expected in f"{answer['kind']}: {answer['message']}"

    agent.send_line(b"open sesame")
    assert "this line is not JSON: b'open sesame'" in agent.answer()["message"]
    refused(
        "command: op 'fly', expected one of: hello, join, open, run, close, leave, put, execute, get, trace, output, "
        "abort, exit",
        op="fly",
    )
    refused("data of 'own.py': Only base64 data is allowed", op="put", name="own.py", offset=0, data="%%%")
    refused("command: offset -1, expected a whole number", op="put", name="own.py", offset=-1, data="")
    refused("command: there is no memory to run on", op="run")
    refused("command: nothing is open", op="close")
    refused("command: there is no run to abort", op="abort")
    ready = {"op": "open", "kernel": 0, "kernels": 2, "pages": 8, "link": link}
    refused("command: pages 0, expected a whole number from 1", **{**ready, "pages": 0})
    refused("command: notify 'loudly', expected one of: poll, interrupt, adaptive", **ready, notify="loudly")
    refused("command: protocol 'mesi', expected one of: voting, origin", **ready, protocol="mesi")
    refused("command: link None, expected an object of kind ivshmem or host", **{**ready, "link": None})
    refused("link: memory fd 999", **{**ready, "link": {**link, "memory_fd": 999}})
    refused("link: memory fd 999", op="join", kernel=0, link={**link, "memory_fd": 999})
    refused("command: the segment is formatted for 2 kernels, this command says 3", **{**ready, "kernels": 3})
    assert agent.ask(**ready)["event"] == "opened"
    refused("command: the memory is open already", **ready)
    refused("command: the memory is open already", **{**ready, "op": "join"})
    refused("workload: workload kind 'life'", op="run", workload={"kind": "life"}, all_roles=[R, R])
    run = {"op": "run", "workload": {"kind": "shared-array", "array_bytes": PAGE}}
    refused("command: all_roles [['reader']], expected 2 lists", **run, all_roles=[R])
    refused("workload: shared-array: role 'waiter'", **run, all_roles=[["waiter"], R])
    large = {"kind": "shared-array", "array_bytes": 9 * PAGE}
    refused("workload: the workload touches 9 pages, the region has 8", op="run", workload=large, all_roles=[R, R])
    assert agent.ask(op="close")["event"] == "closed"
    refused("command: kernel 0 of this segment is CLOSED already, expected ABSENT", **ready)
    pair.format()
    assert agent.ask(**ready)["event"] == "opened"


def test_memory_that_is_no_segment_is_refused(pair: Agents) -> None:
    ready = {"op": "open", "kernel": 0, "kernels": 2, "pages": 8, "link": pair.link()}
    answer = pair.agents[0].ask(**ready)
    assert (answer["event"], answer["kind"]) == ("error", "segment")
    assert "magic 0x0000000000000000" in answer["message"]
    pair.format()
    pair.memory[8] = 99
    answer = pair.agents[0].ask(**ready)
    assert "layout version 99" in answer["message"]
    pair.format()
    assert pair.agents[0].ask(**ready)["event"] == "opened"


def test_memory_is_run_on_once(pair: Agents) -> None:
    pair.open()
    pair.run([R, R], array_bytes=PAGE)
    answer = pair.agents[0].ask(op="run", workload={"kind": "shared-array", "array_bytes": PAGE}, all_roles=[R, R])
    assert "this memory has been used by a run" in answer["message"]


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_each_kernel_keeps_a_part_of_memory_that_none_has_room_for(pair: Agents, protocol: str) -> None:
    """Both walk through all of it, several times: what one has no room for, the other keeps."""
    pages, limit = 256, 150
    pair.open(pages=pages, protocol=protocol, resident_pages=limit)
    answers = pair.run([W, R], array_bytes=pages * PAGE, iterations=2, stride=512)
    assert all(answer["event"] == "finished" and answer["verified"] for answer in answers), answers
    for answer in answers:
        assert limit < answer["resident_most"] <= limit + SLACK + 1  # one fault each may be under way
        assert answer["messages"][MessageName.EVICT.name] > pages - limit
    pair.close()
