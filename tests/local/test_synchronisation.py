"""Mutex, condition, barrier, semaphore and event between real processes of several kernels."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from guest.protocol.messages import MessageName
from tests.local.agents import Agents
from tests.local.test_daemon import until
from tests.local.test_programs import HEAD
from tests.local.test_run_local import ROOT, run, summary_of

PROGRAM = (ROOT / "configs" / "programs" / "synchronisation.py").read_text()
SCRIPT = HEAD + "workload: {kind: script, file: own.py, threads: THREADS, iterations: 20}\n"
WAITS = ("FUTEX_WAIT", "FUTEX_ANSWER", "FUTEX_WAKE")


def point_of(tmp_path: Path, script: str, threads: str, **words: str) -> dict[str, Any]:
    (tmp_path / "own.py").write_text(script)
    text = SCRIPT.replace("THREADS", threads)
    for name, value in words.items():
        text = text.replace("link: shm0,", f"link: shm0, {name}: {value},")
    (point,) = summary_of(run(tmp_path, text, "--json"))["points"]
    assert isinstance(point, dict)
    return point


@pytest.mark.parametrize("protocol", ["voting", "origin"])
@pytest.mark.parametrize("threads", ["{x86: worker, arm: worker}", "{x86: [worker, worker], arm: [worker, worker]}"])
def test_counts_under_a_mutex_are_exact_and_nobody_overtakes(tmp_path: Path, threads: str, protocol: str) -> None:
    point = point_of(tmp_path, PROGRAM, threads, protocol=protocol)
    assert point["verified"]
    assert all(point["messages"][name] > 0 for name in WAITS)


def test_four_kernels_synchronise(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM)
    nodes = ("one", "two", "three", "four")
    text = f"""\
name: own
testbed:
  nodes: {{{", ".join(f"{node}: {{arch: x86_64}}" for node in nodes)}}}
  links: {{shm0: {{kind: ivshmem-doorbell, size: 16MiB, nodes: [{", ".join(nodes)}]}}}}
coherency: {{link: shm0, region: 1MiB}}
workload: {{kind: script, file: own.py, threads: {{{", ".join(f"{node}: worker" for node in nodes)}}}, iterations: 10}}
"""
    (point,) = summary_of(run(tmp_path, text, "--json"))["points"]
    assert point["verified"]


LOCKED = (ROOT / "configs" / "programs" / "locked_shapes.py").read_text()


def test_under_a_mutex_only_one_part_after_the_other_is_seen(tmp_path: Path) -> None:
    assert point_of(tmp_path, LOCKED, "{x86: member, arm: member}")["verified"]


def test_without_the_mutex_more_is_seen(tmp_path: Path) -> None:
    """So the shapes tell one from the other."""
    (tmp_path / "own.py").write_text(LOCKED.replace("            with mutex:\n    ", "            if True:\n    "))
    text = SCRIPT.replace("THREADS", "{x86: member, arm: member}").replace("iterations: 20", "iterations: 200")
    done = run(tmp_path, text)
    assert done.returncode == 1, done.stderr
    assert "expected one of" in done.stderr


IDLE = """\
import os, resource, time

def cpu_s():
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

def waiter(part):
    mutex = part.mutex(0)
    part.barrier()
    part.barrier()
    begun = cpu_s()
    mutex.acquire()
    part.figure("waiter_cpu_s", cpu_s() - begun)
    mutex.release()

def holder(part):
    mutex = part.mutex(0)
    with mutex:
        part.barrier()
        part.barrier()
        time.sleep(1.5)
"""


def test_who_waits_costs_neither_cpu_nor_messages(tmp_path: Path) -> None:
    point = point_of(tmp_path, IDLE, "{x86: holder, arm: waiter}")
    assert point["figures"]["waiter_cpu_s"] < 0.1
    waits = {name: point["messages"].get(name) for name in WAITS}
    assert waits == {"FUTEX_WAIT": 1, "FUTEX_ANSWER": 2, "FUTEX_WAKE": None}
    pages = sum(count for name, count in point["messages"].items() if name not in WAITS)
    assert pages < 40


UNCONTENDED = """\
def alone(part):
    mutex = part.mutex(0)
    for _ in range(part.iterations):
        with mutex:
            pass

def lazy(part):
    pass
"""


def test_a_free_mutex_is_nobodys_business(tmp_path: Path) -> None:
    point = point_of(tmp_path, UNCONTENDED, "{x86: lazy, arm: alone}")
    assert not set(WAITS) & set(point["messages"])
    assert point["messages_total"] <= 2


NEVER = """\
import os, signal, time

def waiter(part):
    part.barrier()
    part.mutex(0).acquire()

def holder(part):
    part.mutex(0).acquire()
    part.barrier()
    DIES
"""


def test_a_holder_that_dies_ends_the_run_by_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NEVER.replace("DIES", "os.kill(os.getpid(), signal.SIGKILL)"))
    done = run(tmp_path, SCRIPT.replace("THREADS", "{x86: holder, arm: waiter}"))
    assert done.returncode == 3
    assert "thread 0 ended early: killed by SIGKILL" in done.stderr, done.stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_kernel_that_dies_ends_the_waits_of_the_others_by_name(victim: int) -> None:
    """A thread of it holds the mutex that they wait for; kernel 0 is home, where the queues are."""
    script = base64.b64encode(NEVER.replace("DIES", "time.sleep(60)").encode()).decode()
    with Agents(3) as agents:
        agents.open(failure_deadline_s=2.0)
        for agent in agents.agents:
            agent.ask(op="put", name="own.py", offset=0, data=script)
        roles = [["holder"] if kernel == victim else ["waiter"] for kernel in range(3)]
        agents.start(roles, kind="script", file="own.py", iterations=1, pages=1, seed=0)
        segment = agents.segment()
        until(lambda: segment.nodes[0].messages[MessageName.FUTEX_ANSWER] >= (1 if victim else 2))
        agents.agents[victim].process.kill()
        for agent in agents.agents:
            if agent.kernel != victim:
                answer = agent.answer()
                assert answer["event"] == "error", answer
                assert answer["kind"] == "peer"
                assert "died" in answer["message"] or "ended the run early" in answer["message"]


def test_threads_that_wait_for_each_other_for_ever_are_shown() -> None:
    script = base64.b64encode(NEVER.replace("DIES", "part.event(64).wait()").encode()).decode()
    with Agents(2) as agents:
        agents.open()
        workload = {"kind": "script", "file": "own.py", "iterations": 1, "pages": 1, "seed": 0}
        roles = [["holder"], ["waiter", "waiter"]]
        for agent, own in zip(agents.agents, roles, strict=True):
            agent.ask(op="put", name="own.py", offset=0, data=script)
            agent.send(op="run", workload=workload, roles=own, all_roles=roles, deadline_s=25)
        until(lambda: agents.segment().nodes[1].messages[MessageName.FUTEX_WAIT] == 2)
        assert agents.agents[1].ask(op="abort")["event"] == "aborting"
        answer = agents.agents[1].answer()
    assert answer["kind"] == "aborted", answer
    assert "threads [0, 1] here sleep until they are woken" in answer["message"]


def test_misuse_is_shown_with_the_line_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def bad(part):\n    part.mutex(8).release()\n")
    done = run(tmp_path, SCRIPT.replace("THREADS", "{x86: bad, arm: bad}"))
    assert done.returncode == 3
    assert "<Mutex at 0x100000000008> is released, but this thread does not hold it" in done.stderr, done.stderr
    assert re.search(r"own\.py.*line 2|File \"own.py\", line 2", done.stderr), done.stderr


SOURCE = r"""
#include "testbed.h"
#define CHECK(what) do { if (!(what)) { printf("line %d\n", __LINE__); return 1; } } while (0)
struct shared {
    struct testbed_mutex mutex;
    struct testbed_condition condition;
    struct testbed_semaphore semaphore;
    struct testbed_meeting meeting;
    uint64_t added;
    volatile long count, full, handed, inside;
};
int main(void)
{
    struct testbed *bed = testbed_attach();
    struct shared *shared = bed->memory;
    for (int i = 0; i < bed->iterations; i++) {
        testbed_mutex_lock(&shared->mutex);
        shared->count++;
        testbed_mutex_unlock(&shared->mutex);
        __atomic_fetch_add(&shared->added, 2, __ATOMIC_SEQ_CST);
    }
    testbed_meet(&shared->meeting, bed->ranks);
    CHECK(shared->count == bed->ranks * bed->iterations && (long)shared->added == 2 * shared->count);
    for (int i = 0; i < bed->iterations; i++) {
        testbed_mutex_lock(&shared->mutex);
        while (shared->full != bed->rank % 2)
            testbed_condition_wait(&shared->condition, &shared->mutex);
        shared->full = !shared->full;
        shared->handed += bed->rank % 2;
        testbed_condition_notify(&shared->condition, -1);
        testbed_mutex_unlock(&shared->mutex);
    }
    testbed_meet(&shared->meeting, bed->ranks);
    CHECK(shared->handed == bed->ranks / 2 * bed->iterations);
    for (int i = 0; i < bed->iterations; i++) {
        testbed_semaphore_acquire(&shared->semaphore, 2);
        CHECK(__atomic_add_fetch(&shared->inside, 1, __ATOMIC_SEQ_CST) <= 2);
        __atomic_sub_fetch(&shared->inside, 1, __ATOMIC_SEQ_CST);
        testbed_semaphore_release(&shared->semaphore, 2);
    }
    testbed_meet(&shared->meeting, bed->ranks);
    if (bed->rank == 0) {
        CHECK(testbed_mutex_trylock(&shared->mutex) && !testbed_mutex_trylock(&shared->mutex));
        testbed_mutex_unlock(&shared->mutex);
    }
    return 0;
}
"""


def test_programs_in_c_synchronise(tmp_path: Path) -> None:
    (tmp_path / "own.c").write_text(SOURCE)
    threads = "{x86: [a, b], arm: [c, d]}"
    text = HEAD + f"workload: {{kind: native, source: own.c, threads: {threads}, iterations: 40}}\n"
    summary = summary_of(run(tmp_path, text, "--json"))
    assert summary["points"][0]["verified"], json.dumps(summary)
    assert summary["points"][0]["messages"]["FUTEX_WAKE"] > 0
