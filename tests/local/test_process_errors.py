"""What programs of the workload `process` do wrong, or leave behind: what is told of it, and what is kept."""

import os
from pathlib import Path

import pytest

from tests.local.test_process import ONE, text
from tests.local.test_run_local import run, summary_of


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise RuntimeError('oops')", 3, "RuntimeError: oops"),
        ("assert self.cell[0] == 2, 'wrong'", 1, "check: thread"),
        ("self.migrate(2)", 3, "ValueError: kernel 2, expected 0 to 1"),
        ("self.migrate('arm')", 3, "ValueError: kernel 'arm', expected 0 to 1"),
        ("self.process.unmap('a', 4096)", 3, "ValueError: unmap 4096 at 'a': expected numbers of bytes"),
        ("self.big = bytes(5000); self.migrate(1)", 3, "bytes, 4088 are the most"),
        ("self.exit(bytes(300))", 3, "a result of 3"),
        ("self.cell.view[10**6]", 3, "IndexError"),
        ("import os; os._exit(9)", 3, "ended early: exit code 9"),
        ("import sys; sys.exit(4)", 3, "SystemExit: 4; a program must not end its process"),
        ("raise KeyboardInterrupt", 3, "KeyboardInterrupt: it has no text"),
        ("import os; os.fork()", 3, "CameBack: a process that was made by os.fork has come back from its step"),
        ("import os; assert os.fork(), 'in the copy'", 3, "as if it were the thread, with AssertionError: in the copy"),
        ("print('unfinished', end=''); raise ValueError", 3, "thread 1: ValueError\n        unfinished"),
        ("import os; import signal; os.kill(os.getppid(), 9); signal.pause()", 3, "the launcher has ended too"),
        (
            "self.mine = lambda: 0; self.migrate(1)",
            3,
            "the state of a Traveller (its attribute 'mine') cannot be pickled",
        ),
        ("self.process.start('it')", 3, "TypeError: found 'it', expected a Thread"),
        ("self.process.array('q', 1.5)", 3, "TypeError: 'float' object cannot be interpreted as an integer"),
        ("self.cell[0:1] = [1, 2]", 3, "ValueError: 2 numbers for a slice of 1"),
        ("raise Mute", 3, "thread 1: Mute: (its text cannot be had: ZeroDivisionError)"),
    ],
)
def test_what_a_thread_does_wrong_is_told_with_its_line(tmp_path: Path, body: str, code: int, said: str) -> None:
    (tmp_path / "own.py").write_text(ONE.replace("BODY", body))
    done = run(tmp_path, text(more=", parameters: {steps: 1}"))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    told = done.stderr.partition("testbed: error")[2]
    assert "guest/" not in told, told
    assert "raise ValueError(" not in told, told  # a line of the tool's own


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def main(process", "the program: SyntaxError"),
        ("def mein(process): pass\n", "own.py has no function 'main', expected one; there is: mein"),
        ("import nothing\n", "nothing"),
    ],
)
def test_a_program_that_is_none_is_told(tmp_path: Path, program: str, said: str) -> None:
    (tmp_path / "own.py").write_text(program)
    done = run(tmp_path, text())
    assert (done.returncode, said in done.stderr) == (3, True), done.stderr


COPY = """\
import os
import signal


def main(process):
    cell = process.array("q", 1)
    cell[0] = 7
    pid = os.fork()
    if not pid:
        os._exit(cell[0])
    assert os.waitpid(pid, 0)[1] & 0x7F == signal.SIGSEGV
"""


def test_a_copy_that_the_program_makes_of_its_process_has_none_of_the_memory(tmp_path: Path) -> None:
    """Nobody serves its faults: it would put zeros where other kernels have values."""
    (tmp_path / "own.py").write_text(COPY)
    done = run(tmp_path, text())
    assert done.returncode == 0, done.stderr


STARTER = """\
import subprocess
from pathlib import Path


def main(process):
    before = Path(process.parameters["place"])
    assert not before.exists() or not Path(f"/proc/{before.read_text()}").exists(), "it has outlived its point"
    child = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!"], start_new_session=True, stdout=subprocess.PIPE)
    before.write_text(str(int(child.stdout.readline())))
"""


def test_what_a_program_has_started_ends_with_its_point(tmp_path: Path) -> None:
    """In a session of its own, and left by its parent."""
    place = tmp_path / "pid"
    (tmp_path / "own.py").write_text(STARTER)
    done = run(tmp_path, text(more=f", parameters: {{place: {place}}}") + "repeat: 2\n")
    assert done.returncode == 0, done.stderr
    assert not lives(place)


def lives(place: Path) -> bool:
    """Whether the process does whose number is there; one that has ended may wait to be reaped."""
    try:
        status = Path(f"/proc/{place.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it is gone, or goes while it is read
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


KILL = """
    import os, signal
    with open(process.parameters["place"], "w") as place:
        print(int(child.stdout.readline()), file=place)
    launcher = os.getppid()
    with open(f"/proc/{launcher}/stat") as stat:
        agent = int(stat.read().rpartition(")")[2].split()[1])
    os.kill({"agent": agent, "launcher": launcher}[process.parameters["kill"]], signal.SIGKILL)
    signal.pause()
"""


@pytest.mark.parametrize("killed", ["agent", "launcher"])
def test_what_a_program_has_started_ends_with_the_run_when_it_kills_who_would_end_it(
    tmp_path: Path, killed: str
) -> None:
    place = tmp_path / "pid"
    last_line = STARTER.splitlines(keepends=True)[-1]
    (tmp_path / "own.py").write_text(STARTER.replace(last_line, KILL))
    done = run(tmp_path, text(more=f", parameters: {{place: {place}, kill: {killed}}}") + "retries: 0\n")
    assert done.returncode == 3, done.stderr
    assert not lives(place)


PAUSED = """\
import os
import signal
import subprocess
from guest.process import Thread
from guest.synchronization import WaitBroken


class Pausing(Thread):
    def step(self):
        print("on kernel 1")
        with open(f"/proc/{os.getppid()}/stat") as stat:
            agent = stat.read().rpartition(")")[2].split()[1]
        pause = f"kill -STOP {agent}; until [ -e {self.process.parameters['dead']} ]; do sleep 0.05; done"
        subprocess.Popen(["sh", "-c", f"{pause}; kill -CONT {agent}"])
        signal.pause()


def main(process):
    try:
        process.start(Pausing(), on=1).join()
    except WaitBroken:
        print("told")
        open(process.parameters["dead"], "w").close()
"""


def test_what_programs_of_a_node_said_that_was_taken_for_dead_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PAUSED)
    file = text(more=f", parameters: {{dead: {tmp_path / 'dead'}}}") + "retries: 0\n"
    file = file.replace("region: 1MiB", "region: 1MiB, failure_deadline_s: 1")
    done = run(tmp_path, file)
    assert "node arm is gone: node arm: 'run' failed: fenced: " in done.stderr, done.stderr
    (results,) = (tmp_path / "results").iterdir()
    said = {node: (results / f"output/1/{node}.txt").read_text() for node in ("x86", "arm")}
    assert said == {"x86": "told\n", "arm": "on kernel 1\n"}


MANY = """\
import os
from guest.process import Thread


class Asleep(Thread):
    def __init__(self, all_are_here):
        self.all_are_here = all_are_here

    def step(self):
        self.all_are_here.wait()
        self.exit(os.nice(0))


def main(process):
    threads = process.parameters["threads"]
    all_are_here = process.barrier(threads + 1)
    asleep = [process.start(Asleep(all_are_here)) for _ in range(threads)]
    all_are_here.wait()
    process.figure("first", os.nice(0))
    process.figure("nice", asleep[0].join())
    assert {each.join() for each in asleep} == {asleep[0].join()}
"""


@pytest.mark.parametrize("nicer", [0, 3])
def test_many_threads_of_a_kernel_leave_its_daemon_room(tmp_path: Path, nicer: int) -> None:
    """All alike, and in the next point each has all of its weight again; also in a run that has little of the CPU."""
    (tmp_path / "own.py").write_text(MANY)
    matrix = "matrix: {workload.parameters.threads: [100, 2]}\n"
    done = run(tmp_path, text(more=", parameters: {threads: 2}") + matrix, "--json", by=["nice", "-n", str(nicer)])
    many, few = summary_of(done)["points"]
    own = os.nice(0) + nicer
    assert many["figures"] == {"first": own + 5, "nice": own + 5}  # 1.25 ** 5 is about 101 / 32
    assert few["figures"] == {"first": own, "nice": own}


HALF = """\
from guest.process import Thread


class Other(Thread):
    def __init__(self, event):
        self.event = event

    def step(self):
        print("on kernel", self.kernel)
        self.event.set()
        self.exit()


def main(process):
    print("main begins", end="")
    event = process.event()
    process.start(Other(event), on=1).join()
    FAIL
"""


@pytest.mark.parametrize(
    ("fail", "timeout_s", "outcome", "said"),
    [
        ("raise ValueError", 40, "FAILED", "ValueError"),
        ("assert 0", 40, "WRONG", "check: thread 0"),
        ("import ctypes; ctypes.string_at(0)", 40, "FAILED", "killed by SIGSEGV"),
        ("process.event().wait()", 2, "FAILED", "not over in 2 s, which is all that it may take"),
    ],
)
def test_what_programs_said_is_kept_when_they_fail(
    tmp_path: Path, fail: str, timeout_s: int, outcome: str, said: str
) -> None:
    (tmp_path / "own.py").write_text(HALF.replace("FAIL", fail))
    done = run(tmp_path, text().replace("timeout_s: 40", f"timeout_s: {timeout_s}"))
    assert done.returncode in (1, 3), done.stderr
    assert f" {outcome} " in done.stdout, done.stdout
    assert said in done.stderr, done.stderr
    (results,) = (tmp_path / "results").iterdir()
    assert "main begins" in (results / "output/1/x86.txt").read_text()
    assert (results / "output/1/arm.txt").read_text() == "on kernel 1\n"
