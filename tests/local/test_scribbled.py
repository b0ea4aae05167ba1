"""A kernel that writes over the shared memory takes nobody along: the others say what they saw, and can begin anew."""

import random
from collections.abc import Callable

import pytest

from tests.local.agents import Agents
from tests.local.test_daemon import PAGE, R, W, until

KINDS = {"ring", "segment", "protocol", "peer", "deadline", "region", "fenced"}
"""What a run may end with then; "defect" and silence are not among them."""


def all_of_it(memory: memoryview, choose: random.Random) -> None:
    memory[:] = choose.randbytes(len(memory))


def the_largest_numbers(memory: memoryview, _choose: random.Random) -> None:
    memory[:] = b"\xff" * len(memory)


def words_here_and_there(memory: memoryview, choose: random.Random) -> None:
    for _ in range(20_000):
        offset = 8 * choose.randrange(len(memory) // 8)
        memory[offset : offset + 8] = choose.randbytes(8)


@pytest.mark.parametrize("protocol", ["voting", "origin"])
@pytest.mark.parametrize("scribble", [all_of_it, the_largest_numbers, words_here_and_there])
def test_agents_survive_what_is_scribbled_over_the_segment_and_say_so(
    scribble: Callable[[memoryview, random.Random], None], protocol: str, seed: int
) -> None:
    with Agents(3) as three:
        three.open(protocol=protocol, failure_deadline_s=2.0)
        nodes = three.segment().nodes
        three.start([W, R, W], array_bytes=16 * PAGE, iterations=1_000_000, deadline_s=8)
        until(lambda: sum(nodes[1].faults) > 20)
        scribble(three.memory, random.Random(seed))
        answers = [agent.answer() for agent in three.agents]
        assert {answer["event"] for answer in answers} == {"error"}, answers
        assert {answer["kind"] for answer in answers} <= KINDS, answers
        for agent in three.agents:
            assert agent.ask(op="close")["op"] == "close"  # it is closed already where nothing could go on with it
        three.open(protocol=protocol)
        assert all(answer["verified"] for answer in three.run([W, R, W], array_bytes=4 * PAGE, iterations=2))
