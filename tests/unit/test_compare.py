"""Changes told from noise: found where they are, not called where they are not, and never by a percentage alone."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InputError
from orchestrator.results.baseline import FILE, baseline_of, read_baselines, set_baseline
from orchestrator.results.compare import ALPHA, Compared, Comparison, Verdict, compare
from orchestrator.results.directories import read_summary
from orchestrator.results.past_run import PastPoint, PastRun
from orchestrator.results.rank_tests import RankTest, holm, mann_whitney, signed_rank
from tests.unit.past_runs import MATRIX, past_run
from tests.unit.test_experiment_errors import GOOD

ROOT = Path(__file__).parents[2]


def side(values: dict[str, list[float]], messages: int = 64, **summary: Any) -> list[PastRun]:
    """One run: by point, what a remote read took in each repetition."""
    points: list[PastPoint] = []
    for name, own in values.items():
        for repetition, value in enumerate(own):
            latency = {"remote_read": {"count": 9, "median": value, "p99": value}}
            result = {"verified": True, "expectations": [], "messages_total": messages, "latency_us": latency}
            points.append(PastPoint(len(points), {"workload.array": name}, repetition, result=result))
    return [PastRun(Path(), {"outcome": "passed", **summary}, tuple(points), ())]


def drawn(choose: random.Random, points: int, repetitions: int, factor: float = 1.0) -> dict[str, list[float]]:
    return {
        str(point): [factor * (point + 1) * 100 * choose.lognormvariate(0, 0.1) for _ in range(repetitions)]
        for point in range(points)
    }


def of(found: Compared, metric: str) -> tuple[Comparison, list[Comparison]]:
    (overall,) = [each for each in found.overall if each.metric == metric]
    return overall, [each for each in found.points if each.metric == metric]


def test_a_change_is_found_point_by_point_and_over_all(seed: int) -> None:
    choose = random.Random(seed)
    overall, points = of(compare(side(drawn(choose, 6, 12)), side(drawn(choose, 6, 12, 1.8))), "remote_read_us")
    assert [each.verdict for each in points] == [Verdict.WORSE] * 6
    assert all(each.effect > 0.9 and each.p_corrected < ALPHA for each in points)
    # Six points can have a p of 1/32 at best, which two metrics make 1/16 of.
    assert (overall.verdict, overall.effect) == (Verdict.TOO_FEW, 1.0)
    assert overall.ratio is not None
    assert overall.low is not None
    assert 1.5 < overall.low < overall.ratio < 2.1


def test_a_small_shift_that_no_point_shows_is_found_over_all(seed: int) -> None:
    choose = random.Random(seed)
    overall, points = of(compare(side(drawn(choose, 60, 3)), side(drawn(choose, 60, 3, 0.85))), "remote_read_us")
    assert overall.verdict is Verdict.BETTER
    assert overall.effect < 0
    assert {each.verdict for each in points} <= {Verdict.SAME, Verdict.TOO_FEW}


def test_noise_is_seldom_called_a_change() -> None:
    """Of 100 comparisons of a run with itself, a change is called in 5 at most; 14 is four deviations above."""
    choose = random.Random(1)
    called = 0
    for _ in range(100):
        found = compare(side(drawn(choose, 5, 8)), side(drawn(choose, 5, 8)))
        called += any(each.verdict in (Verdict.WORSE, Verdict.BETTER) for each in found.points)
    assert called <= 14


def test_three_repetitions_say_that_they_are_too_few_and_not_that_nothing_changed() -> None:
    found = compare(side({"4KiB": [10.0, 11.0, 12.0]}), side({"4KiB": [20.0, 21.0, 22.0]}))
    (point,) = [each for each in found.points if each.metric == "remote_read_us"]
    assert (point.effect, point.verdict) == (1.0, Verdict.TOO_FEW)
    assert point.ratio is not None
    assert round(point.ratio, 2) == 1.91
    assert found.worse == []


def test_counts_that_never_differ_are_no_change() -> None:
    found = compare(side({"4KiB": [1.0, 2.0, 3.0]}), side({"4KiB": [1.0, 2.0, 3.0]}))
    (messages,) = [each for each in found.points if each.metric == "messages"]
    assert (messages.p, messages.effect, messages.verdict) == (1.0, 0.0, Verdict.SAME)


def test_counts_that_always_differ_are_a_change() -> None:
    repetitions = [float(number) for number in range(10)]
    found = compare(side({"4KiB": repetitions}), side({"4KiB": repetitions}, messages=66))
    (messages,) = [each for each in found.points if each.metric == "messages"]
    assert (messages.verdict, messages.ratio, messages.low, messages.high) == (Verdict.WORSE, 66 / 64, 66 / 64, 66 / 64)


@pytest.mark.parametrize("ties", [False, True])
def test_the_tests_are_those_of_scipy_where_scipy_is_exact(seed: int, ties: bool) -> None:
    from scipy import stats

    choose = random.Random(seed)
    for _ in range(20):
        base, new = ([choose.gauss(shift, 1) for _ in range(5)] for shift in (0, 1))
        if ties:
            base, new = ([float(round(each)) for each in own] for own in (base, new))
            exact = stats.PermutationMethod(n_resamples=10_000)
            expected = stats.mannwhitneyu(new, base, method=exact).pvalue
        else:
            expected = stats.mannwhitneyu(new, base, method="exact").pvalue
            assert signed_rank(base).p == pytest.approx(stats.wilcoxon(base, method="exact").pvalue)
        assert mann_whitney(base, new).p == pytest.approx(expected)


def test_what_cannot_be_gone_through_is_drawn_and_comes_near(seed: int) -> None:
    from scipy import stats

    choose = random.Random(seed)
    base, new = ([choose.gauss(shift, 1) for _ in range(20)] for shift in (0, 0.5))
    assert mann_whitney(base, new).p == pytest.approx(stats.mannwhitneyu(new, base).pvalue, abs=0.03)
    assert signed_rank(base).p == pytest.approx(stats.wilcoxon(base).pvalue, abs=0.03)
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == RankTest(0.1, 0.1, 1.0)


def test_holm_is_the_textbooks() -> None:
    assert [round(each, 10) for each in holm([0.01, 0.04, 0.03, 0.005])] == [0.03, 0.06, 0.06, 0.02]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_points_of_one_side_alone_are_counted_and_hosts_that_differ_are_named() -> None:
    base = side({"4KiB": [1.0], "8KiB": [1.0]}, stage="vm", nodes=[{"name": "arm", "accelerator": "tcg", "image": "a"}])
    new = side({"4KiB": [1.0], "1MiB": [1.0]}, stage="vm", nodes=[{"name": "arm", "accelerator": "kvm", "image": "a"}])
    found = compare(base, new)
    assert (found.only_base, found.only_new) == (1, 1)
    assert found.unalike == ("accelerators: arm tcg → arm kvm",)


def test_the_same_runs_always_compare_alike() -> None:
    choose = random.Random(7)
    base, new = side(drawn(choose, 8, 5)), side(drawn(choose, 8, 5))
    assert compare(base, new) == compare(base, new)


def test_a_baseline_is_kept_by_experiment_and_stage(tmp_path: Path) -> None:
    results = tmp_path / "results"
    runs = [past_run(tmp_path, results) for _ in range(2)]
    assert set_baseline(results, runs) == "pair/vm"
    assert read_baselines(results)["pair/vm"]["runs"] == [run.name for run in runs]
    assert [run.run_id for run in baseline_of(results, read_summary(runs[0]))] == [run.name for run in runs]
    with pytest.raises(InputError, match="found no baseline of other/vm; there are pair/vm"):
        baseline_of(results, {"experiment": "other", "stage": "vm"})


def test_a_baseline_is_of_runs_that_passed_and_are_here(tmp_path: Path) -> None:
    results = tmp_path / "results"
    failed = past_run(tmp_path, results, GOOD + MATRIX + "expect: [pages == 7]\n")
    with pytest.raises(InputError, match="ended as 'failed', expected one that passed"):
        set_baseline(results, [failed])
    elsewhere = past_run(tmp_path, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="expected a run in"):
        set_baseline(results, [elsewhere])
    assert not (results / FILE).exists()


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "orchestrator", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_commands_tell_and_their_exit_code_says_worse(tmp_path: Path) -> None:
    text = GOOD + MATRIX.replace("repeat: 2", "repeat: 12")
    old = past_run(tmp_path, tmp_path / "results", text)
    assert "no baseline" in command(tmp_path, "baseline", "show").stdout
    assert command(tmp_path, "compare").returncode == 2
    assert command(tmp_path, "baseline", "set", old.name).stdout == f"baseline of pair/vm: {old.name}\n"
    same = command(tmp_path, "compare", "baseline", old.name)
    assert same.returncode == 0, same.stderr
    assert "worse" not in same.stdout
    past_run(tmp_path, tmp_path / "results", text, read_us=60.0)
    slower = command(tmp_path, "compare", "baseline", "last")
    assert slower.returncode == 1
    assert "remote_read_us, iterations 1, notify poll: 22 → 62 (ratio 2.818" in slower.stderr
    told = json.loads(command(tmp_path, "compare", "--json").stdout)
    worse = {each["metric"] for each in told["points"] if each["verdict"] == "worse"}
    assert worse == {"remote_read_us"}
    assert json.loads(command(tmp_path, "baseline", "show", "--json").stdout)["pair/vm"]["runs"] == [old.name]
