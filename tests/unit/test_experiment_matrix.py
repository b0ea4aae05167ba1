"""The matrix: which points a file amounts to, and what is wrong with one."""

from pathlib import Path

import pytest

from orchestrator.errors import FileError
from orchestrator.experiments.plan import Point, load
from orchestrator.experiments.workloads import SharedArray
from tests.unit.test_experiment_errors import GOOD

CONFIGS = Path(__file__).parents[2] / "configs"


def points(tmp_path: Path, matrix: str) -> tuple[Point, ...]:
    path = tmp_path / "experiment.yaml"
    path.write_text(GOOD + matrix)
    return load(path).points


def workload(point: Point) -> SharedArray:
    assert isinstance(point.experiment.workload, SharedArray)
    return point.experiment.workload


def problem(tmp_path: Path, matrix: str) -> str:
    with pytest.raises(FileError) as caught:
        points(tmp_path, matrix)
    return "\n".join(caught.value.problems).replace(f"{tmp_path}/experiment.yaml:", "")


def test_every_combination_is_a_point_and_repetitions_multiply_it(tmp_path: Path) -> None:
    found = points(
        tmp_path, "matrix: {workload.array: [4KiB, 8KiB], workload.threads.x86: [reader, writer]}\nrepeat: 3\n"
    )
    assert len(found) == 12
    assert [point.index for point in found] == list(range(12))
    assert {(workload(p).array, workload(p).roles("x86"), p.repetition) for p in found} == {
        (array, (role,), repetition)
        for array in (4096, 8192)
        for role in ("reader", "writer")
        for repetition in range(3)
    }


def test_a_mapping_takes_the_place_of_the_whole_mapping(tmp_path: Path) -> None:
    (point,) = points(tmp_path, "matrix: {workload.threads: [{arm: writer}]}\n")
    assert workload(point).roles("x86") == ("idle",)
    assert workload(point).roles("arm") == ("writer",)
    assert point.parameters == {"workload.threads": {"arm": "writer"}}


def test_a_path_that_only_has_a_default_may_vary(tmp_path: Path) -> None:
    found = points(tmp_path, "matrix: {coherency.notify: [poll, interrupt, adaptive]}\n")
    assert [c.notify for point in found if (c := point.experiment.coherency)] == ["poll", "interrupt", "adaptive"]


def test_a_key_that_only_the_matrix_gives_need_not_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(GOOD.replace("  array: 256KiB\n", "") + "matrix: {workload.array: [4KiB]}\n")
    assert workload(load(path).points[0]).array == 4096


def test_points_of_one_testbed_share_it_and_others_get_their_own(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    matrix = "matrix: {testbed.nodes.arm.memory: [256MiB, 512MiB], workload.array: [4KiB, 8KiB, 16KiB]}\n"
    path.write_text(GOOD + matrix)
    assert [len(group) for _, group in load(path).testbeds] == [3, 3]


def test_a_key_that_is_no_path_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    text = problem(tmp_path, "matrix: {workload.aray: [4KiB]}\n")
    assert text.startswith("13:10: found 'workload.aray', which is no path of this file")
    assert "did you mean 'workload.array'?" in text


@pytest.mark.parametrize("key", ["name", "matrix", "repeat", "expect", "testbed.nodes.nobody.memory"])
def test_what_belongs_to_the_whole_file_cannot_vary(tmp_path: Path, key: str) -> None:
    assert f"found '{key}', which is no path" in problem(tmp_path, f"matrix: {{{key}: [1]}}\n")


def test_a_wrong_value_is_reported_where_it_stands_in_the_matrix_and_once(tmp_path: Path) -> None:
    matrix = "matrix:\n  workload.array: [4KiB, 4KB]\n  coherency.notify: [poll, adaptive]\n"
    text = problem(tmp_path, matrix)
    assert text == "14:26: found '4KB', expected a size such as 64MiB, 4KiB or 4096 (did you mean '4KiB'?)"


def test_a_value_inside_a_mapping_of_the_matrix_is_found_there(tmp_path: Path) -> None:
    text = problem(tmp_path, "matrix:\n  workload.threads:\n    - {x86: writer, arm: reader}\n    - {x86: writter}\n")
    assert text.startswith("16:13: found 'writter', expected reader, writer or idle (did you mean 'writer'?)")


def test_a_value_that_the_matrix_overrules_must_be_right_too(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    text = GOOD.replace("arm: reader", "arm: raeder").replace("256KiB", "1TiBx")
    file.write_text(text + "matrix:\n  workload.threads: [{x86: writer}]\n  workload.array: [4KiB]\n")
    with pytest.raises(FileError) as raised:
        load(file)
    told = "\n".join(raised.value.problems)
    assert "found 'raeder', expected reader, writer or idle" in told
    assert "found '1TiBx', expected a size" in told
    assert len(raised.value.problems) == 2


def test_a_combination_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    matrix = "matrix:\n  coherency.region: [4KiB, 1MiB]\n  workload.array: [4KiB, 1MiB]\n"
    text = problem(tmp_path, matrix)
    assert text == "15:26: found an array of 1MiB, expected at most 4KiB, the region (1 pages)"


def test_a_matrix_without_bound_is_refused(tmp_path: Path) -> None:
    many = ", ".join(str(8 * n) for n in range(1, 200))
    text = problem(tmp_path, f"matrix:\n  workload.stride: [{many}]\n  workload.iterations: [{many}]\n")
    assert "found 39601 combinations, expected at most 10000" in text


def test_zipped_values_go_together_and_make_a_grid_with_the_others(tmp_path: Path) -> None:
    zipped = "matrix:\n  workload.stride: [8, 16]\n"
    zipped += "  zip: {workload.array: [4KiB, 8KiB, 16KiB], workload.iterations: [1, 2, 3]}\n"
    found = [(workload(p).stride, workload(p).array, workload(p).iterations) for p in points(tmp_path, zipped)]
    assert found == [(stride, 4096 << n, n + 1) for stride in (8, 16) for n in range(3)]


def test_two_zips_are_a_grid_of_each_other(tmp_path: Path) -> None:
    zips = "{workload.array: [4KiB, 8KiB], workload.iterations: [1, 2]}, {workload.stride: [8, 16]}"
    assert len(points(tmp_path, f"matrix: {{zip: [{zips}]}}\n")) == 4


def test_zipped_lists_of_unequal_length_are_refused(tmp_path: Path) -> None:
    text = problem(tmp_path, "matrix:\n  zip:\n    workload.array: [4KiB, 8KiB]\n    workload.iterations: [1]\n")
    assert text == "16:5: found 1 values for 'workload.iterations', expected 2, as many as 'workload.array' has"


def test_what_is_excluded_is_left_out_and_what_is_included_is_added(tmp_path: Path) -> None:
    text = "matrix:\n  grid: {workload.array: [4KiB, 8KiB], workload.iterations: [1, 2]}\n"
    text += "  exclude: [{workload.array: 8192, workload.iterations: 2}]\n  include: [{workload.array: 1MiB}]\n"
    found = points(tmp_path, text)
    assert [(workload(p).array, workload(p).iterations) for p in found] == [
        (4096, 1),
        (4096, 2),
        (8192, 1),
        (1 << 20, 16),
    ]
    assert found[-1].parameters == {"workload.array": "1MiB", "workload.iterations": 16}


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ("{exclude: [{workload.array: 4MiB}], workload.array: [4KiB]}", "13:20: found an exclusion of workload.array"),
        (
            "{exclude: [{workload.aray: 4KiB}], workload.array: [4KiB]}",
            "13:21: found 'workload.aray', which is no path",
        ),
        ("{exclude: [{workload.array: 4KiB}], workload.array: [4KiB]}", "13:19: found no combination that is not"),
        ("{include: [{workload.array: 4KB}]}", "13:37: found '4KB', expected a size"),
        ("{exclud: [{workload.array: 4KiB}]}", "13:10: found 'exclud', which is no path of this file"),
        ("{zip: [4]}", "13:16: found 4, expected a mapping"),
        ("{include: 3}", "13:19: found 3, expected a list"),
        ("{workload.array: [4KiB], grid: {workload.array: [8KiB]}}", "13:41: found 'workload.array' a second time"),
    ],
)
def test_a_wrong_part_of_the_matrix_is_told_where_it_stands(tmp_path: Path, matrix: str, expected: str) -> None:
    assert expected in problem(tmp_path, f"matrix: {matrix}\n")


@pytest.mark.parametrize("name", ["quickstart.yaml", "counts.yaml"])
def test_the_experiments_that_come_with_the_project_are_right(name: str) -> None:
    assert load(CONFIGS / name).points


def test_the_quickstart_covers_three_workloads_on_one_page_and_on_many() -> None:
    found = {
        (workload(p).pages, *sorted(r for n in ("x86", "arm") for r in workload(p).roles(n)))
        for p in load(CONFIGS / "quickstart.yaml").points
    }
    roles = [("reader", "reader"), ("reader", "writer"), ("writer", "writer")]
    assert found == {(pages, *pair) for pages in (1, 64) for pair in roles}
