"""Programs of the user's on coherent memory: Python functions and C, checked by themselves, their words kept."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.local.test_run_local import ROOT, command, environment, run, summary_of

HEAD = """\
name: own
testbed:
  nodes: {x86: {arch: x86_64}, arm: {arch: aarch64}}
  links: {shm0: {kind: ivshmem-doorbell, size: 16MiB, nodes: [x86, arm]}}
coherency: {link: shm0, region: 1MiB}
"""
SCRIPT = HEAD + "workload: {kind: script, file: own.py, threads: {x86: writer, arm: [reader, reader]}, iterations: 3"
FUNCTIONS = """\
def writer(part):
    words = part.memory.cast("Q")
    for iteration in range(part.iterations):
        words[512] = part.parameters.get("wrong", iteration + 1)
        part.barrier()
        part.barrier()
    print("rank", part.rank, "of", part.ranks, "wrote", words[512], "with seed", part.seed)
    part.figure("last", words[512])


def reader(part):
    words = part.memory.cast("Q")
    for iteration in range(part.iterations):
        part.barrier()
        part.check(4096, iteration + 1, words[512], iteration)
        part.barrier()
    assert part.members("reader") == [1, 2], part.members("reader")
    part.figure("last", 0)
"""
NATIVE = HEAD + "workload: {kind: native, source: own.c, threads: {x86: a, arm: [b, c]}, iterations: 4"
SOURCE = r"""
#include "testbed.h"
int main(int argc, char **argv)
{
    struct testbed *bed = testbed_attach();
    volatile long *shared = bed->memory;
    for (int i = 0; i < bed->iterations; i++) {
        if (bed->rank == i % bed->ranks)
            shared[i * 512] = bed->seed + i;
        testbed_barrier();
        if (shared[i * 512] != (long)bed->seed + i)
            return 1;
    }
    printf("%s is rank %d of %d on kernel %d of %d\n", bed->role, bed->rank, bed->ranks, bed->kernel, bed->kernels);
    testbed_figure("rank", bed->rank);
    if (argc > 1 && !strcmp(argv[1], "crash"))
        *(volatile int *)8 = 0;
    return argc > 1 ? atoi(argv[1]) : 0;
}
"""


def folder_of(summary: dict[str, Any]) -> Path:
    return Path(summary["results"])


def test_functions_of_a_script_share_memory_meet_and_report(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    text = SCRIPT + "}\nseed: 40\nrepeat: 2\nexpect: [verified == true, figures.last == 3, messages.protocol > 4]\n"
    summary = summary_of(run(tmp_path, text, "--json"))
    assert [point["figures"] for point in summary["points"]] == [{"last": 3}] * 2
    assert summary["points"][0]["roles"] == {"x86": ["writer"], "arm": ["reader", "reader"]}
    said = [(folder_of(summary) / f"output/{number}/x86.txt").read_text() for number in (1, 2)]
    assert said == [f"rank 0 of 3 wrote 3 with seed {seed}\n" for seed in (40, 41)]
    (kept,) = folder_of(summary).glob("files/*/own.py")
    assert kept.read_text() == FUNCTIONS


def test_a_value_that_a_script_finds_wrong_fails_its_point_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    done = run(tmp_path, SCRIPT + ", parameters: {wrong: 9}}\n", "--json")
    assert done.returncode == 1
    (point,) = json.loads(done.stdout)["points"]
    assert point["mismatch_count"] == 2 * 3
    assert "node arm, page 1, offset 0: expected 0x1, found 0x9 (iteration 0, thread 0)" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("== [1, 2]", "== [1]", 1, ": AssertionError: [1, 2]"),
        ("iteration + 1, words", "itertion + 1, words", 3, "NameError: name 'itertion'"),
        ("def reader", "def redaer", 3, "found no function 'reader', expected one of: writer, redaer"),
        ("def reader(part)", "def reader(part", 3, "SyntaxError"),
    ],
)
def test_a_script_that_fails_is_told_apart_from_one_that_is_broken(
    tmp_path: Path, old: str, new: str, code: int, said: str
) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS.replace(old, new))
    done = run(tmp_path, SCRIPT + "}\n")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    if "itertion" in new:
        assert 'File "own.py", line 15, in reader' in done.stderr
        assert "program.py" not in done.stderr


def test_c_attaches_and_is_otherwise_unchanged(tmp_path: Path) -> None:
    (tmp_path / "own.c").write_text(SOURCE)
    text = NATIVE + "}\nseed: 5\nexpect: [verified == true, figures.rank == 2]\n"
    summary = summary_of(run(tmp_path, text, "--json"))
    (point,) = summary["points"]
    assert point["messages_total"] >= 4 * 4
    said = (folder_of(summary) / "output/1/arm.txt").read_text()
    assert sorted(said.splitlines()) == ["b is rank 1 of 3 on kernel 1 of 2", "c is rank 2 of 3 on kernel 1 of 2"]


@pytest.mark.parametrize(
    ("argument", "code", "said"),
    [("3", 1, "check: thread"), ("crash", 3, "ended early: killed by SIGSEGV")],
)
def test_c_that_sees_something_wrong_is_told_apart_from_c_that_crashes(
    tmp_path: Path, argument: str, code: int, said: str
) -> None:
    (tmp_path / "own.c").write_text(SOURCE)
    done = run(tmp_path, NATIVE + f', arguments: ["{argument}"]}}\n')
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("testbed_attach();", "testbed: testbed_attach is called a second time: "),
        ("testbed_mutex_unlock(bed->memory);", "testbed: a mutex that nobody holds is unlocked: "),
        ('testbed_figure("x", 0.0 / (bed->seed - bed->seed));', "testbed: a figure is not a finite number: "),
        ('testbed_figure("a\\"b", 1);', "testbed: the name of a figure has a quotation mark, "),
        ('for (;;) testbed_figure("x", 1);', "testbed: the figures of this thread take too much room: "),
        ("if (!fork()) return 2; wait(&status); return 7;", "ExitStatus: 7"),
        ("if (!fork()) return *(volatile char *)bed->memory; wait(&status); return status;", "check: thread"),
    ],
)
def test_what_c_does_wrong_with_the_header_is_told(tmp_path: Path, statement: str, said: str) -> None:
    begin = "int status = 0; struct testbed *bed = testbed_attach();"
    includes = '#include "testbed.h"\n#include <sys/wait.h>\n'
    (tmp_path / "own.c").write_text(f"{includes}int main(void) {{ {begin} {statement} return status; }}\n")
    done = run(tmp_path, NATIVE + ", }\n")
    assert (done.returncode in (1, 3), said in done.stderr) == (True, True), done.stderr


def test_the_name_of_a_figure_of_c_may_be_no_text(tmp_path: Path) -> None:
    source = '#include "testbed.h"\nint main(void) { testbed_attach(); testbed_figure("\\xff", 1); return 0; }\n'
    (tmp_path / "own.c").write_text(source)
    (point,) = summary_of(run(tmp_path, NATIVE + "}\n", "--json"))["points"]
    assert point["figures"] == {"\N{REPLACEMENT CHARACTER}": 1.0}


def test_c_that_meets_others_before_it_attaches_is_told(tmp_path: Path) -> None:
    source = (
        '#include "testbed.h"\nint main(void) { printf("begun\\n"); testbed_barrier(); testbed_attach(); return 0; }\n'
    )
    (tmp_path / "own.c").write_text(source)
    done = run(tmp_path, NATIVE + "}\n")
    assert "testbed: something of testbed.h is called before testbed_attach: " in done.stderr, done.stderr
    assert "begun\n" in done.stderr


def test_what_does_not_compile_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "own.c").write_text(SOURCE.replace("return 1;", "return one;"))
    done = run(tmp_path, NATIVE + "}\n")
    assert done.returncode == 2
    assert "own.c:12:20: error:" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_program_that_is_not_there_is_a_problem_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    done = run(tmp_path, SCRIPT.replace("own.py", "ownn.py") + "}\n")
    assert done.returncode == 2
    assert "quick.yaml:6:32: found 'ownn.py': No such file or directory, expected a file" in done.stderr
    assert "(did you mean 'own.py'?)" in done.stderr


def test_what_a_run_keeps_of_a_program_runs_by_itself(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    summary = summary_of(run(tmp_path, SCRIPT + "}\nmatrix: {workload.file: [own.py]}\n", "--json"))
    shutil.copytree(folder_of(summary) / "files", tmp_path / "elsewhere" / "files")
    resolved = (folder_of(summary) / "resolved.yaml").read_text()
    again = summary_of(run(tmp_path / "elsewhere", resolved, "--json"))
    assert again["points"][0]["figures"] == {"last": 3}


def test_every_node_of_the_link_has_a_thread(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    done = run(tmp_path, SCRIPT.replace(", arm: [reader, reader]", "") + "}\n")
    assert done.returncode == 2
    assert "found no thread for arm, expected one for every node of shm0" in done.stderr


def test_integer_sort_is_verified_as_published(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path, dirs_exist_ok=True)
    summary = summary_of(run(tmp_path, (tmp_path / "integer-sort.yaml").read_text(), "--json"))
    assert [point["verified"] for point in summary["points"]] == [True] * 2
    said = (folder_of(summary) / "output/2/x86.txt").read_text()
    assert "IS class S on 4 threads of 2 kernels: 65536 keys" in said
    assert "0 wrong ranks" in said
    source = tmp_path / "programs" / "is.c"
    source.write_text(source.read_text().replace("sum += (double)x", "sum += 0.5 * (double)x"))
    assert run(tmp_path, (tmp_path / "integer-sort.yaml").read_text()).returncode == 1


def test_a_stencil_in_numpy_is_right_to_the_last_bit(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "stencil.yaml").read_text()
    assert [point["verified"] for point in summary_of(run(tmp_path, text, "--json"))["points"]] == [True] * 2
    script = tmp_path / "programs" / "stencil.py"
    script.write_text(script.read_text().replace("2], first, end)", "2], first + 1, end)"))
    assert run(tmp_path, text).returncode == 1


@pytest.mark.parametrize("kind", ["script", "native"])
def test_the_examples_of_the_page_about_workloads_run(tmp_path: Path, kind: str) -> None:
    page = (ROOT / "docs" / "workloads.md").read_text()
    blocks = re.findall(r"^```(?:yaml|python|c)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (number,) = [number for number, text in enumerate(blocks) if f"kind: {kind}" in text]
    workload, program = blocks[number], blocks[number + 1]
    (tmp_path / {"script": "ring.py", "native": "ring.c"}[kind]).write_text(program)
    head = HEAD.replace("1MiB", "16KiB")
    assert (
        summary_of(run(tmp_path, head + workload, "--json"))["points"][0]["figures"]["sum"]
        == {"script": 30, "native": 9}[kind]
    )


@pytest.mark.parametrize("words", [("run", "--stage", "sim"), ("simulate",)])
def test_engines_alone_run_no_programs(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "own.py").write_text(FUNCTIONS)
    (tmp_path / "own.yaml").write_text(SCRIPT + "}\n")
    line = command(*words, "own.yaml")
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment())
    assert done.returncode == 2
    assert "own.yaml: found a workload of kind script, expected shared-array to simulate it" in done.stderr
