"""Wrong experiment files: every problem at once, each with its place, what was found, and the nearest valid word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import FileError
from orchestrator.experiments.plan import load
from orchestrator.experiments.workloads import SharedArray

GOOD = """\
name: pair
testbed:
  nodes:
    x86: {arch: x86_64, memory: 512MiB}
    arm: {arch: aarch64}
  links:
    shm0: {kind: ivshmem-doorbell, size: 64MiB, nodes: [x86, arm]}
coherency: {link: shm0, region: 4MiB}
workload:
  kind: shared-array
  threads: {x86: writer, arm: reader}
  array: 256KiB
"""


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path) -> list[str]:
    with pytest.raises(FileError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    return [problem.replace(f"{path}:", "") for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_right_file_is_one_point_with_defaults(write: Write) -> None:
    only = load(write(GOOD))
    assert len(only.points) == 1
    experiment = only.points[0].experiment
    assert experiment.coherency is not None
    assert experiment.workload is not None
    assert experiment.coherency.pages == 1024
    assert experiment.workload.pages == 64
    assert experiment.testbed.nodes["arm"].memory == 512 << 20


@pytest.mark.parametrize(
    ("old", "new", "problem", "near"),
    [
        (
            "name: pair",
            "nmae: pair",
            "1:1: found unknown key 'nmae', expected coherency, expect, extends, matrix, name",
            "name",
        ),
        ("name: pair", "name: pair/..", "1:7: found 'pair/..', expected at most 48 letters, digits, '.', '_'", ""),
        ("x86_64", "x86-64", "4:17: found 'x86-64', expected x86_64 or aarch64", "x86_64"),
        ("arch: aarch64", "arhc: aarch64", "5:11: found unknown key 'arhc', expected accelerator, arch", "arch"),
        ("arch: aarch64", "arhc: aarch64", "5:10: found no key 'arch' in testbed.nodes.arm, expected 'arch: …'", ""),
        ("512MiB", "512MB", "4:33: found '512MB', expected a size such as 64MiB, 4KiB or 4096", "512MiB"),
        ("512MiB", "64MiB", "4:33: found '64MiB', expected at least 128MiB", ""),
        ("[x86, arm]", "[x86, amr]", "7:62: found the node 'amr', which is not in testbed.nodes, expected x86", "arm"),
        ("[x86, arm]", "[x86]", "7:56: found a list of 1 value, expected at least 2 values", ""),
        ("[x86, arm]", "[x86, x86]", "7:56: found a list of 2 values, expected each node once", ""),
        ("size: 64MiB", "size: 65MiB", "7:42: found '65MiB', expected a power of two, such as 64MiB or 128MiB", ""),
        ("size: 64MiB", "size: 1GiB", "7:42: found '1GiB', expected at most the 512MiB of node x86", ""),
        (
            "kind: ivshmem-doorbell",
            "kind: ivshmem-plain",
            "8:19: found the link 'shm0', which is no shared memory with doorbells, expected a link of kind",
            "",
        ),
        ("ivshmem-doorbell", "ivshmem-dorbell", "7:18: found 'ivshmem-dorbell', expected", "ivshmem-doorbell"),
        ("size: 64MiB", "size: 64MiB, vectors: 99", "7:58: found 99, expected at most 32", ""),
        ("link: shm0", "link: shm1", "8:19: found the link 'shm1', which is not in testbed.links, expected", "shm0"),
        ("region: 4MiB", "region: 128MiB", "8:33: found a region of 128MiB, expected at most 64MiB, the size", ""),
        (
            "region: 4MiB",
            "region: 4MiB, resident: 1MiB",
            "8:49: found 1MiB on each of 2 kernels, expected at least 2MiB",
            "",
        ),
        (
            "kind: shared-array\n  threads: {x86: writer, arm: reader}\n  array: 256KiB",
            "kind: process\n  file: own.py\n  processes: 100",
            "12:14: found 10 pages that each of 100 processes has in a region of 4MiB, expected more than 17",
            "",
        ),
        (
            "kind: shared-array\n  threads: {x86: writer, arm: reader}\n  array: 256KiB",
            "kind: process\n  file: own.py\n  processes: 2\n  pages: 600",
            "13:10: found 600, expected at most the 512 pages that each of 2 processes has in a region of 4MiB",
            "",
        ),
        (
            "kind: shared-array\n  threads: {x86: writer, arm: reader}\n  array: 256KiB",
            "kind: process\n  file: own.py\n  pages: 17",
            "12:10: found 17, expected more than the 17 pages that the process needs for itself",
            "",
        ),
        (
            "kind: shared-array\n  threads: {x86: writer, arm: reader}\n  array: 256KiB",
            "kind: process\n  file: own.py\n  kernels: 3",
            "12:12: found 3, expected at most 2, the nodes of shm0",
            "",
        ),
        ("region: 4MiB", "region: 4097", "8:33: found 4097, expected a multiple of 4KiB", ""),
        ("link: shm0", "link: shm0, protocol: votin", "8:35: found 'votin', expected", "voting"),
        ("x86: writer", "x68: writer", "11:13: found the node 'x68', which is not in testbed.nodes, expected", "x86"),
        ("arm: reader", "arm: reder", "11:31: found 'reder', expected reader, writer or idle", "reader"),
        ("array: 256KiB", "array: 8MiB", "12:10: found an array of 8MiB, expected at most 4MiB, the region", ""),
        (
            "x86: writer, arm: reader",
            "x86: idle",
            "11:12: found a mapping, expected a reader or writer on one node",
            "",
        ),
        ("array: 256KiB", "array: 256KiB\n  stride: 4", "13:11: found 4, expected at least 8B", ""),
        ("array: 256KiB", "array: 256KiB\n  stride: 1MiB", "13:11: found '1MiB', expected at most 4KiB", ""),
        ("array: 256KiB", "array: 256KiB\n  iterations: yes", "13:15: found true, expected a whole number", ""),
        ("array: 256KiB", "array: 256KiB\n  iterations: 1:30", "13:15: found '1:30', expected a whole number", ""),
        (
            "shared-array",
            "shared-aray",
            "10:9: found 'shared-aray', expected shared-array, script, process, native or command",
            "shared-array",
        ),
    ],
)
def test_a_wrong_word_is_named_with_its_place_and_the_nearest_valid_one(
    write: Write, old: str, new: str, problem: str, near: str
) -> None:
    found = problems(write(changed(old, new)))
    (one,) = [each for each in found if each.startswith(problem)] or [f"not there: {found}"]
    assert one.endswith(f"(did you mean '{near}'?)") == bool(near), one


@pytest.mark.parametrize(
    ("old", "new", "only"),
    [
        ("[x86, arm]", "[x86, X86]", "7:62: found the node 'X86', which is not in testbed.nodes, expected x86 or arm"),
        ("    x86: {", "    X86: {", "4:5: found the name 'X86', expected at most 31 lower-case letters"),
        (
            "kind: shared-array\n  threads: {x86: writer, arm: reader}\n  array: 256KiB",
            f"kind: process\n  file: {__file__}\n  parameters: {{sizes: [1, 2]}}",
            "12:23: found a list of 2 values, expected a number, a word, true or false",
        ),
        ("nodes: [x86, arm]}", "nodes: [x86, arm]", "7:11: found a '{' that is not closed before line 8, expected"),
    ],
)
def test_one_mistake_is_told_once(write: Write, old: str, new: str, only: str) -> None:
    (found,) = problems(write(changed(old, new)))
    assert found.startswith(only)


def test_sizes_are_sizes_everywhere(write: Write) -> None:
    experiment = load(write(GOOD + "  stride: 1KiB\n")).points[0].experiment
    assert isinstance(experiment.workload, SharedArray)
    assert experiment.workload.stride == 1024


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = changed("x86_64", "riscv").replace("shm0, region: 4MiB", "shm9, region: 4MB").replace("reader", "raeder")
    lines = [int(problem.split(":")[0]) for problem in problems(write(text))]
    assert lines == sorted(lines)
    assert set(lines) == {4, 8, 11}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [unclosed\n", "1:7: found a '[' that is not closed before line 2, expected ',' or ']'"),
        ("a: b: c\n", "1:5: found broken YAML: mapping values are not allowed here"),
        ("", "1:1: found an empty file, expected an experiment"),
        ("just words\n", "1:1: found 'just words', expected a mapping"),
        ("- a\n- b\n", "1:1: found a list of 2 values, expected a mapping"),
        ("name: a\0b\n", "1:1: found"),
    ],
)
def test_what_is_no_experiment_is_refused_with_a_place(write: Write, text: str, expected: str) -> None:
    assert problems(write(text))[0].startswith(expected), problems(write(text))


def test_a_key_given_twice_is_refused(write: Write) -> None:
    text = changed("    arm: {arch", "    x86: {arch: aarch64}\n    arm: {arch")
    assert problems(write(text)) == ["5:5: found 'x86' a second time, expected it once (first in line 4)"]


def test_an_alias_bomb_is_refused_before_it_expands(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = problems(write("\n".join(lines)))
    assert "aliases that expand without end" in found[0]


def test_a_list_that_contains_itself_is_refused(write: Write) -> None:
    assert "nesting deeper than" in problems(write("name: &a [*a]\n"))[0]


def test_a_tag_that_names_python_is_refused_and_not_run(write: Write, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    found = problems(write(changed("pair", f'!!python/object/apply:os.mkdir ["{witness}"]')))
    assert found
    assert not witness.exists()


def test_a_missing_file_suggests_the_one_beside_it(write: Write) -> None:
    path = write(GOOD)
    with pytest.raises(FileError, match=r"found no such file, .* \(did you mean '.*experiment\.yaml'\?\)"):
        load(path.with_name("experimnet.yaml"))


def test_a_directory_and_bytes_that_are_no_text_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="found a directory"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes("a: 1\nb: é".encode() + b"\xff\n")
    with pytest.raises(FileError, match=r"binary\.yaml:2:6: found the byte 0xff, which is no UTF-8"):
        load(tmp_path / "binary.yaml")


def test_a_link_to_nowhere_is_not_told_to_be_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").symlink_to("gone.yaml")
    with pytest.raises(FileError, match=r"found a link to gone\.yaml, which is not there, expected [^(]*$"):
        load(tmp_path / "quick.yaml")


def test_a_segment_too_small_for_its_nodes_is_refused(write: Write) -> None:
    nodes = "\n".join(f"    n{index}: {{arch: x86_64}}" for index in range(40))
    names = ", ".join(f"n{index}" for index in range(40))
    text = changed("    arm: {arch: aarch64}", "    arm: {arch: aarch64}\n" + nodes)
    text = text.replace("[x86, arm]", f"[x86, arm, {names}]").replace("size: 64MiB", "size: 16MiB")
    assert any(
        "expected at least 64MiB: a ring and page slots for every pair of 42 nodes" in p for p in problems(write(text))
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("mesages.protocol < 4", "14:5: found 'mesages.protocol', expected a name of a point's results"),
        ("verified = true", "found 'verified = true', expected an expression such as verified == true (did you mean"),
        ("iterations < open", "14:18: found 'open', expected a name"),
    ],
)
def test_an_expectation_that_cannot_be_understood_is_a_problem_of_the_file(
    write: Write, expression: str, expected: str
) -> None:
    found = problems(write(GOOD + f"expect:\n  - {expression}\n"))
    assert any(expected in problem for problem in found), found
