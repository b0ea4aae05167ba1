"""Files that extend files, and `--set`: what wins, and where errors say that a wrong value stands."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import FileError, InputError
from orchestrator.experiments.plan import Plan, Point, load
from orchestrator.experiments.workloads import SharedArray
from tests.unit.test_experiment_errors import GOOD


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(GOOD)


def loaded(text: str, *overrides: str) -> Plan:
    Path("top.yaml").write_text(text)
    return load(Path("top.yaml"), overrides)


def array(plan: Plan, index: int = 0) -> SharedArray:
    workload = plan.points[index].experiment.workload
    assert isinstance(workload, SharedArray)
    return workload


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(FileError) as caught:
        loaded(text, *overrides)
    return list(caught.value.problems)


def test_what_a_file_says_wins_over_what_it_extends_key_by_key() -> None:
    plan = loaded("extends: base.yaml\nname: other\nworkload: {array: 4KiB, threads: {arm: writer}}\n")
    assert (plan.name, array(plan).array) == ("other", 4096)
    assert (array(plan).roles("x86"), array(plan).roles("arm")) == (("writer",), ("writer",))


def test_null_takes_a_key_away_and_a_later_base_wins_over_an_earlier_one() -> None:
    Path("second.yaml").write_text("extends: base.yaml\nrepeat: 2\nworkload: {iterations: 3}\n")
    plan = loaded("extends: [base.yaml, second.yaml]\nworkload: {threads: {arm: null}}\n")
    assert (len(plan.points), array(plan).iterations) == (2, 3)
    assert array(plan).roles("arm") == ("idle",)


def test_a_base_is_found_beside_the_file_that_names_it() -> None:
    Path("folder").mkdir()
    Path("folder/middle.yaml").write_text("extends: ../base.yaml\nrepeat: 3\n")
    assert len(loaded("extends: folder/middle.yaml\n").points) == 3


def test_an_error_in_a_base_is_told_in_the_base_and_one_above_it_above() -> None:
    Path("base.yaml").write_text(GOOD.replace("x86_64", "x86-64"))
    found = problems("extends: base.yaml\nworkload:\n  iterations: none\n")
    assert found == [
        "top.yaml:3:15: found 'none', expected a whole number",
        "base.yaml:4:17: found 'x86-64', expected x86_64 or aarch64 (did you mean 'x86_64'?)",
    ]


def test_what_neither_file_has_is_missing_where_the_mapping_stands_last() -> None:
    Path("base.yaml").write_text(GOOD.replace("  array: 256KiB\n", ""))
    (found,) = problems("extends: base.yaml\nrepeat: 2\nworkload:\n  iterations: 3\n")
    assert found.startswith("top.yaml:4:3: found no key 'array' in workload")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("bsae.yaml", "top.yaml:1:10: 'bsae.yaml': found no such file, expected an experiment file (did you mean"),
        ("top.yaml", "top.yaml:1:10: found 'top.yaml', which is itself, expected another file"),
        ("[]", "top.yaml:1:10: found an empty list, expected a file to extend"),
        ("3", "top.yaml:1:10: found 3, expected a file to extend, or a list of files"),
        ("list.yaml", "list.yaml:1:1: found a list of 1 value, expected a mapping"),
        ("open.yaml", "open.yaml:1:7: found a '[' that is not closed before line 2"),
    ],
)
def test_a_base_that_cannot_be_had_is_told_where_it_is_named(name: str, problem: str) -> None:
    Path("list.yaml").write_text("- a\n")
    Path("open.yaml").write_text("name: [a\n")
    assert problems(f"extends: {name}\n")[0].startswith(problem)


def test_files_that_extend_each_other_are_refused() -> None:
    Path("a.yaml").write_text("extends: top.yaml\n")
    assert "a.yaml:1:10: found 'top.yaml', which is a file that extends this one" in problems("extends: a.yaml\n")[0]


def test_set_wins_over_file_base_and_matrix() -> None:
    matrix = "matrix: {workload.array: [4KiB, 8KiB], workload.iterations: [1, 2]}\n"
    plan = loaded("extends: base.yaml\n" + matrix, "workload.array=64KiB", "repeat=2")
    assert [(array(plan, i).array, array(plan, i).iterations) for i in range(4)] == [
        (65536, 1),
        (65536, 1),
        (65536, 2),
        (65536, 2),
    ]
    assert [point.parameters for point in plan.points[::2]] == [{"workload.iterations": 1}, {"workload.iterations": 2}]


def test_set_reaches_into_a_value_of_the_matrix_and_points_that_are_alike_then_are_one() -> None:
    matrix = "matrix: {workload.threads: [{x86: writer, arm: reader}, {x86: reader, arm: reader}]}\n"
    plan = loaded(GOOD + matrix, "workload.threads.x86=writer")
    assert [point.parameters for point in plan.points] == [{"workload.threads": {"x86": "writer", "arm": "reader"}}]


def test_set_gives_the_matrix_other_values_and_takes_keys_away() -> None:
    matrix = "matrix: {workload.array: [4KiB, 8KiB]}\n"
    assert len(loaded(GOOD + matrix, "matrix.workload.array=[4KiB, 8KiB, 16KiB]").points) == 3
    assert len(loaded(GOOD + matrix, "matrix=null").points) == 1


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("workload.aray=4KiB", "found 'workload.aray', which is no path of this file, expected array, iterations"),
        ("workload.array=4KB", "found '4KB', expected a size such as 64MiB, 4KiB or 4096 (did you mean '4KiB'?)"),
        ("workload.array", "found 'workload.array', expected PATH=VALUE"),
        ("workload.array=", "found nothing after '=', expected a value"),
        ("workload.threads={x86: wirter}", "found 'wirter', expected reader, writer or idle (did you mean 'writer'?)"),
        ("expect=[verified = true]", "found 'verified = true', expected an expression"),
        ("repeat=[1", "found '<stream end>'"),
        ("matrix.workload.aray=[1]", "found 'workload.aray', which is no path of this file"),
        ("extends=base.yaml", "found 'extends', which is no path of this file"),
    ],
)
def test_an_error_in_an_option_names_the_option(option: str, problem: str) -> None:
    found = problems(GOOD, option)
    assert any(each.startswith(f"--set {option}: {problem}") for each in found), found


def test_errors_of_file_base_and_options_come_all_at_once() -> None:
    Path("base.yaml").write_text(GOOD.replace("x86_64", "x86-64"))
    found = problems("extends: base.yaml\nrepeat: 0\n", "seed=-1", "nmae=b")
    assert [each.partition(":")[0] for each in found] == ["top.yaml", "--set nmae=b", "--set seed=-1", "base.yaml"]


def test_the_content_of_a_plan_is_a_file_of_its_own_with_the_same_points() -> None:
    matrix = "matrix:\n  zip: {workload.array: [4KiB, 8KiB], workload.iterations: [1, 2]}\n"
    plan = loaded("extends: base.yaml\nrepeat: 2\nseed: 7\n" + matrix, "workload.threads.arm=writer")
    again = loaded(yaml.safe_dump(plan.content, sort_keys=False))

    def told(points: tuple[Point, ...]) -> list[Any]:
        return [(point.parameters, point.seed, point.experiment.model_dump(exclude={"matrix"})) for point in points]

    assert told(again.points) == told(plan.points)
    assert list(again.points[0].experiment.testbed.nodes) == ["x86", "arm"]
    assert [point.seed for point in plan.points] == [7, 8, 7, 8]


def test_the_driver_of_a_file_that_names_none_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver(*overrides: str) -> str:
        plan = loaded("extends: base.yaml\nmatrix: {workload.iterations: [1, 2]}\n", *overrides)
        chosen = {point.experiment.testbed.driver for point in plan.points}
        with monkeypatch.context() as later:  # what a run keeps goes on by the same driver
            later.delenv("TESTBED_DRIVER", raising=False)
            again = loaded(plan.resolved())
        assert {point.experiment.testbed.driver for point in again.points} == chosen
        (name,) = chosen
        return name

    monkeypatch.delenv("TESTBED_DRIVER", raising=False)
    assert driver() == "embedded"
    monkeypatch.setenv("TESTBED_DRIVER", "session")
    assert driver() == "session"
    assert driver("testbed.driver=system") == "system"
    monkeypatch.setenv("TESTBED_DRIVER", "demon")
    with pytest.raises(InputError, match="TESTBED_DRIVER: found 'demon', expected one of: embedded, session, system"):
        driver()
