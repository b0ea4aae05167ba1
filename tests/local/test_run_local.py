"""Whole experiments on the stage `local`: real daemons, real userfaultfd, processes of this host."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.local import slow_link_agent
from tests.local.test_daemon import children, until

ROOT = Path(__file__).parents[2]
QUICK = """\
name: quick
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}}
coherency: {link: shm0, region: 1MiB}
workload: {kind: shared-array, threads: {x86: writer, arm: reader}, array: 16KiB, iterations: 4}
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *words]


def environment(place: Path | None = None) -> dict[str, str]:
    """Of a run; with `place`, by which its agents are told from those of others. Output is buffered, as in guests."""
    ours = os.environ | {"PYTHONPATH": str(ROOT), "TESTBED_TEST": str(place)}
    return {name: value for name, value in ours.items() if name != "PYTHONUNBUFFERED"}


def run(tmp_path: Path, text: str, *words: str, by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """`by`: the command that runs this one."""
    (tmp_path / "quick.yaml").write_text(text)
    line = [*by, *command("run", "quick.yaml", "--stage", "local", *words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=100, env=environment())


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def agents_alive(place: Path) -> set[int]:
    """Agents that were started with `environment(place)` and are running."""
    alive = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or somebody else's
        if b"guest.agent" in words and f"TESTBED_TEST={place}".encode() in variables:
            alive.add(int(process.name))
    return alive


LOSING = """\
name: losing
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}, far: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm, far]}}
coherency: {link: shm0, region: 16MiB, failure_deadline_s: 2}
workload:
  kind: shared-array
  threads: {x86: reader, arm: writer, far: [writer, reader]}
  array: 2MiB
  stride: 1024
  iterations: 3
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_what_dies_in_a_run_is_named_in_its_results_and_the_rest_is_checked(tmp_path: Path, number: int) -> None:
    (tmp_path / "losing.yaml").write_text(LOSING + "retries: 0\n")
    line = command("run", "losing.yaml", "--stage", "local", "--json")
    with subprocess.Popen(
        line, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if "running 1 point" in said:
                break
        # In the order of the nodes; their launchers are called the same, but are children of theirs.
        agents = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        victim = [pid for pid in sorted(agents) if pid in agents_alive(tmp_path)][1]
        until(lambda: len(children(victim)) > 1)  # the launcher, and an application
        os.kill(victim, number)
        out, rest = process.communicate(timeout=100)
    assert process.returncode == 3, rest
    assert "node arm is gone" in rest
    assert "Traceback" not in rest
    summary = json.loads(out)
    (point,) = summary["points"]
    assert (summary["outcome"], point["verified"]) == ("error", True)
    assert list(point["losses"]["kernels"]) == ["arm"]
    assert point["losses"]["threads"] == []
    assert agents_alive(tmp_path) == set()


def test_a_run_verifies_every_value_and_leaves_its_story(tmp_path: Path) -> None:
    summary = summary_of(run(tmp_path, QUICK, "--json", "--results", "out"))
    (point,) = summary["points"]
    assert (summary["outcome"], point["verified"], point["pages"], point["iterations"]) == ("passed", True, 4, 4)
    # One writer and one reader: first touch, then INVALIDATE, VOTE, PAGE_REQUEST and PAGE_DATA a page and iteration.
    assert point["messages"]["INVALIDATE"] == point["messages"]["VOTE"] == 4 * 3
    assert point["messages_total"] <= 4 * 4 * 4 + 4 * 4
    assert point["latency_us"]["remote_read"]["count"] >= 4 * 3
    directory = tmp_path / "out" / summary["run_id"]
    kept = {"run.json", "events.jsonl", "experiment.yaml", "resolved.yaml", "consoles"}
    assert {path.name for path in directory.iterdir()} == kept
    assert json.loads((directory / "run.json").read_text()) == summary
    assert summary["tool"]["peak_rss_mib"] < 200


def test_the_time_of_a_point_has_neither_the_link_in_it_nor_its_warm_up(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK + "warm_up: 1\nrepeat: 2\n")
    slow = (
        "from orchestrator import cli; from orchestrator.stages import local\n"
        f"local.AGENT = {slow_link_agent.__name__!r}; cli.main()"
    )
    line = [sys.executable, "-c", slow, "run", "quick.yaml", "--stage", "local", "--json"]
    own = environment() | {"LINK_OPENED": str(tmp_path / "opened")}
    summary = summary_of(subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=100, env=own))
    assert summary["stages_s"]["deploy"] > slow_link_agent.TAKES_S
    opened = [float(each) for each in (tmp_path / "opened").read_text().splitlines()]
    events = map(json.loads, (Path(summary["results"]) / "events.jsonl").read_text().splitlines())
    started = [event["monotonic_s"] for event in events if event["event"] == "point_started"]
    assert (len(opened), len(started)) == (2, 2)
    assert max(opened) < min(started)
    first, second = summary["points"]
    assert first["overhead_s"] > 0
    assert first["overhead_s"] < first["wall_s"] - first["duration_s"] - 1e-4  # less its warm-up, too
    assert second["overhead_s"] == pytest.approx(second["wall_s"] - second["duration_s"], abs=1e-5)


def test_what_a_run_keeps_of_its_file_runs_by_itself(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(QUICK)
    text = "extends: base.yaml\nname: other\nrepeat: 2\nseed: 5\nwarm_up: 1\nmatrix: {workload.array: [4KiB, 8KiB]}\n"
    first = summary_of(run(tmp_path, text, "--json", "--set", "workload.iterations=2"))
    resolved = (tmp_path / "results" / first["run_id"] / "resolved.yaml").read_text()
    (tmp_path / "elsewhere").mkdir()
    second = summary_of(run(tmp_path / "elsewhere", resolved, "--json"))
    for summary in (first, second):
        told = [(p["parameters"]["workload.array"], p["iterations"], p["seed"]) for p in summary["points"]]
        assert told == [("4KiB", 2, 5), ("4KiB", 2, 6), ("8KiB", 2, 5), ("8KiB", 2, 6)]
        events = (Path(summary["results"]) / "events.jsonl").read_text()
        assert events.count('"event":"agent_finished"') == 2 * 4  # warm-ups leave none


def test_reading_twice_costs_nothing_after_the_first_iteration(tmp_path: Path) -> None:
    text = QUICK.replace("x86: writer", "x86: reader") + "matrix: {workload.iterations: [1, 4]}\n"
    totals = [point["messages_total"] for point in summary_of(run(tmp_path, text, "--json"))["points"]]
    # Each page is fetched by both; with one of them first there are 2 messages, with both at once 4.
    assert all(2 * 4 <= total <= 4 * 4 for total in totals)


@pytest.mark.parametrize("notify", ["poll", "interrupt", "adaptive"])
def test_every_policy_of_notification_comes_to_the_same_values(tmp_path: Path, notify: str) -> None:
    text = QUICK.replace("link: shm0,", f"link: shm0, notify: {notify},").replace("arm: reader", "arm: writer")
    assert summary_of(run(tmp_path, text, "--json"))["points"][0]["verified"]


def test_three_kernels_share_one_memory(tmp_path: Path) -> None:
    text = QUICK.replace("arm: {arch: aarch64}", "arm: {arch: aarch64}, third: {arch: x86_64}")
    text = text.replace("[x86, arm]", "[x86, arm, third]").replace("arm: reader}", "arm: writer, third: reader}")
    summary = summary_of(run(tmp_path, text, "--json"))
    assert summary["points"][0]["kernels"] == 3
    assert summary["points"][0]["verified"]


def test_traces_of_a_real_run_replay_as_the_model_says(tmp_path: Path) -> None:
    text = QUICK.replace("region: 1MiB", "region: 1MiB, trace: true").replace("arm: reader", "arm: writer")
    (point,) = summary_of(run(tmp_path, text, "--json"))["points"]
    line = command("replay", "last", "--json")
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    (told,) = summary_of(done)["points"]
    assert (told["kernels"], told["complete"], told["divergence"]) == (["x86", "arm"], True, None)
    assert told["messages"] == point["messages_total"]


def test_a_point_that_failed_keeps_its_traces_too(tmp_path: Path) -> None:
    text = QUICK.replace("region: 1MiB", "region: 1MiB, trace: true").replace("iterations: 4", "iterations: 100000")
    done = run(tmp_path, text + "timeout_s: 1\n")
    assert done.returncode == 3
    (folder,) = (tmp_path / "results").glob("*/traces/1")
    assert sorted(path.name for path in folder.iterdir()) == ["arm.jsonl", "x86.jsonl"]


def test_points_that_need_other_machines_get_them_one_after_the_other(tmp_path: Path) -> None:
    text = QUICK + "matrix: {testbed.nodes.arm.memory: [256MiB, 512MiB], workload.array: [4KiB, 16KiB]}\nrepeat: 2\n"
    summary = summary_of(run(tmp_path, text, "--json"))
    assert [point["verified"] for point in summary["points"]] == [True] * 8
    consoles = tmp_path / "results" / summary["run_id"] / "consoles"
    assert sorted(path.name for path in consoles.iterdir()) == ["arm.2.log", "arm.log", "x86.2.log", "x86.log"]


def test_the_quickstart_runs_under_the_origin_protocol_too(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "quickstart.yaml").read_text()
    assert "protocol: voting" in text
    points = summary_of(run(tmp_path, text.replace("protocol: voting", "protocol: origin"), "--json"))["points"]
    assert [point["verified"] for point in points] == [True] * 6
    for point in points:
        writers = sum(role == "writer" for roles in point["roles"].values() for role in roles)
        # First touch 2 a page, or 4 where a reader is there before the origin; then INVALIDATE, VOTE, PAGE_REQUEST
        # and PAGE_DATA, and 2 more for a second writer. A thread that does not get its turn before its page is taken
        # away again asks once more.
        each = {0: 0, 1: 4, 2: 6}[writers]
        expected = point["pages"] * (2 * max(writers, 1) + each * (point["iterations"] - 1))
        assert expected <= point["messages_total"] * (1.1 if writers == 2 else 1), point
        assert point["messages_total"] <= expected * {0: 2, 1: 1, 2: 1.5}[writers], point


def test_three_kernels_have_an_origin(tmp_path: Path) -> None:
    text = QUICK.replace("link: shm0,", "link: shm0, protocol: origin,")
    text = text.replace("arm: {arch: aarch64}", "arm: {arch: aarch64}, third: {arch: x86_64}")
    text = text.replace("[x86, arm]", "[x86, arm, third]").replace(
        "arm: reader}", "arm: writer, third: [writer, reader]}"
    )
    assert summary_of(run(tmp_path, text, "--json"))["points"][0]["verified"]


def test_an_expectation_that_does_not_hold_ends_with_one(tmp_path: Path) -> None:
    done = run(tmp_path, QUICK + "expect: [messages.protocol == 1]\n")
    assert done.returncode == 1
    assert "does not hold: messages.protocol == 1   (messages.protocol = " in done.stderr
    assert "UNEXPECTED" in done.stdout


def test_a_point_that_takes_too_long_ends_with_three_and_says_who_was_late(tmp_path: Path) -> None:
    text = QUICK.replace("iterations: 4", "iterations: 100000").replace("16KiB", "1MiB") + "timeout_s: 1\n"
    done = run(tmp_path, text, "--json")
    assert done.returncode == 3
    assert "'run' failed: deadline" in done.stderr or "no answer to 'run'" in done.stderr
    summary = json.loads(done.stdout)
    (point,) = summary["points"]
    assert (summary["outcome"], point["verified"], point["lost"]) == ("error", False, [])
    assert point["error"]["message"] in done.stderr.replace("    ", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK.replace("iterations: 4", "iterations: 100000").replace("16KiB", "1MiB"))
    line = command("run", "quick.yaml", "--stage", "local")
    with subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if "running 1 point" in said:
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == 128 + number, rest
    (path,) = (tmp_path / "results").glob("*/run.json")
    summary = json.loads(path.read_text())
    assert (summary["outcome"], summary["error"]["kind"]) == ("error", "interrupted")
    assert not agents_alive(tmp_path)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("2>&1 >/dev/null | head -n 1 >/dev/null; exit ${PIPESTATUS[0]}", 0),
        ("--json | true; exit ${PIPESTATUS[0]}", 0),
        ("2>&-", 0),
        ("2>/dev/full", 0),
        (">/dev/full", 3),
    ],
)
def test_output_that_nobody_reads_changes_nothing_and_a_full_one_is_the_hosts(
    tmp_path: Path, words: str, code: int
) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    line = f"{sys.executable} -m orchestrator run quick.yaml --stage local {words}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=60, env=environment(), capture_output=True)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    (path,) = (tmp_path / "results").glob("*/run.json")
    assert json.loads(path.read_text())["outcome"] == "passed"


def test_killed_without_warning_it_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK.replace("iterations: 4", "iterations: 100000").replace("16KiB", "1MiB"))
    line = command("run", "quick.yaml", "--stage", "local")
    with subprocess.Popen(line, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if "running 1 point" in said:
                break
        started = agents_alive(tmp_path)
        process.kill()
        process.wait(60)
    assert started
    for pid in started:
        wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    """Returns when the process is gone; fails when it is still there after 30 s."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(fd) as ended:
        assert select.select([ended], [], [], 30)[0], f"process {pid} is still there"


FLIPS = """

_install_as_it_came = Carrier._install


def _install_flipped(self, effect):
    # One bit of the element at byte 64 of page 2, once, on its way from the ring into memory.
    if effect.page == 2 and not Carrier.flipped:
        import ctypes

        Carrier.flipped = True
        (ctypes.c_ubyte * 4096).from_address(self.payload)[66] ^= 1 << 4
    _install_as_it_came(self, effect)


Carrier.flipped = False
Carrier._install = _install_flipped
"""


def test_one_bit_that_is_flipped_on_its_way_fails_the_run_and_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "guest", tmp_path / "guest", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "guest/daemon/carrier.py").open("a") as carrier:
        carrier.write(FLIPS)
    (tmp_path / "quick.yaml").write_text(QUICK)
    program = (
        "import pathlib, sys\nfrom orchestrator import cli\nfrom orchestrator.stages import local\n"
        f"local.SOURCES = pathlib.Path({str(tmp_path)!r})\n"
        "sys.argv[0] = 'testbed'\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "quick.yaml", "--stage", "local", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env=environment(),
    )
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    (wrong,) = [mismatch for point in summary["points"] for mismatch in point["mismatches"]]
    assert (summary["outcome"], wrong["node"], wrong["page"], wrong["offset"]) == ("failed", "arm", 2, 64)
    assert wrong["expected"] ^ wrong["found"] == 1 << (2 * 8 + 4)
    assert f"wrong value: node {wrong['node']}, page 2" in done.stderr


@pytest.mark.parametrize("room_kib", [0, 4, 8, 16])
def test_a_full_disk_is_the_hosts_failure_and_said_to_be_full(tmp_path: Path, room_kib: int) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "full").mkdir()
    private = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    # A page for each of the directories, and what is left for files.
    script = (
        'mount -t tmpfs -o size=64k tmpfs full && head -c "$1" /dev/zero >full/other; shift; "$@"; code=$?; '
        "cat full/*/run.json >story; exit $code"
    )
    taken = (64 - room_kib) << 10
    line = command("run", "quick.yaml", "--stage", "local", "--results", "full", "--json")
    done = subprocess.run(
        [*private, "sh", "-c", script, "sh", str(taken), *line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env=environment(),
    )
    assert done.returncode == 3, done.stderr
    assert f"{tmp_path}/full/" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"] == "error"
    assert "No space left" in told["error"]["message"]
    assert (tmp_path / "story").read_text()[:1] in ("", "{")  # whole or not there at all
