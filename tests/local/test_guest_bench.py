"""The guest's side of `testbed bench`, with real page faults and rings between processes of this host."""

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.link.segment import format_segment

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ["poll", "interrupt", "adaptive"]

# One kernel of the pair, on a link made of inherited descriptors: argv is memory fd, two doorbells, kernel, count.
KERNEL = """
import json, sys
from guest.bench.guests import ring_round_trips
from guest.link.hostlink import HostLink
from guest.link.notify import Policy
memory, *bells, kernel, count = map(int, sys.argv[1:])
print(json.dumps(ring_round_trips(HostLink(memory, [[bell] for bell in bells], kernel), kernel, count, list(Policy))))
"""


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """A formatted segment for two kernels, and their doorbells."""
    memory = os.memfd_create("test-bench")
    os.ftruncate(memory, 4 << 20)
    with mmap.mmap(memory, 4 << 20) as mapping, memoryview(mapping) as view:
        format_segment(view, 2)
    found = [memory, os.eventfd(0), os.eventfd(0)]
    yield found
    for descriptor in found:
        os.close(descriptor)


def test_a_lone_kernels_daemon_serves_every_first_touch() -> None:
    command = [sys.executable, "-m", "guest.bench.guests", "local-fault", "32", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    samples = json.loads(done.stdout)["samples_us"]
    assert len(samples) == 32 * 3
    assert min(samples) > 1  # two process switches cannot be had for less: nothing was touched that was there already


def test_both_kernels_measure_every_policy(descriptors: list[int]) -> None:
    numbers = [str(descriptor) for descriptor in descriptors]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", KERNEL, *numbers, str(kernel), "50"],
            pass_fds=descriptors,
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for kernel in range(2)
    ]
    for one in both:
        found = json.loads(one.communicate(timeout=60)[0])
        assert sorted(found) == sorted(POLICIES)
        assert all(len(samples) == 50 and min(samples) > 0 for samples in found.values())


@pytest.mark.parametrize("arguments", [[], ["ring", "0", "10"], ["faults"], ["local-fault", "1"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "guest.bench.guests", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert "local-fault PAGES ROUNDS" in done.stderr
