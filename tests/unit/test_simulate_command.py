"""`testbed simulate` from outside: same bytes, failures that can be repeated, wrong words refused."""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guest.protocol.effects import Effect
from guest.protocol.messages import Message
from guest.protocol.page import Page
from guest.protocol.registry import PROTOCOLS
from guest.protocol.voting import VotingEngine
from orchestrator.cli import main
from orchestrator.errors import Stopped
from orchestrator.simulator import growth
from orchestrator.simulator.world import World
from tests.unit.test_experiment_errors import GOOD
from tests.unit.test_simulator import Unprotected

PAIR = GOOD.replace("arm: reader", "arm: writer").replace("256KiB", "16KiB")


class GrantsForgotten(VotingEngine):
    """A copy is installed though its invalidation was granted."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().judge(page, sender, message, effects)
        page.granted = ()


class CommandLine:
    """`testbed WORDS…` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(sys, "argv", ["testbed", *shlex.split(words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return (ended.value.code, *self._capsys.readouterr())


@pytest.fixture
def testbed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    Path("pair.yaml").write_text(PAIR)
    return CommandLine(monkeypatch, capsys)


EVERYTHING = "--delay-us 0:300 --reorder --duplicate 0.1 --lose-doorbell 0.1 --slow k1=3 --kill k2@5000 --kernels 3"


def test_the_same_command_prints_the_same_bytes_and_writes_the_same_log(testbed: CommandLine) -> None:
    runs = []
    for _ in range(2):
        code, out, err = testbed(f"simulate pair.yaml --seeds 3..5 {EVERYTHING} --json --log events.jsonl")
        assert (code, err) == (0, "")
        runs.append((out, Path("events.jsonl").read_bytes()))
    assert runs[0] == runs[1]
    told = json.loads(runs[0][0])
    assert [each["seed"] for each in told["simulations"]] == [3, 4, 5]
    assert told["outcome"] == "passed"
    assert testbed(f"simulate pair.yaml --seeds 4..6 {EVERYTHING} --json")[1] != runs[0][0]


def test_many_seeds_stop_at_the_first_failure_and_the_command_it_prints_repeats_it(
    testbed: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "voting", GrantsForgotten)
    code, out, err = testbed(f"simulate pair.yaml --repeat 200 {EVERYTHING} --json")
    told = json.loads(out)
    assert code == 1
    assert told["outcome"] == "failed"
    assert [each["failure"] is None for each in told["simulations"][-2:]][-1:] == [False]
    assert all(each["failure"] is None for each in told["simulations"][:-1])
    again = err.partition("hint: repeat it with: `testbed ")[2].strip().rstrip("`")
    assert again == told["repeat"].removeprefix("testbed ")
    seed = told["simulations"][-1]["seed"]
    assert f"--seed {seed} --point 1 --kernels 3" in again
    code, out, repeated = testbed(f"{again} --json")
    assert code == 1
    assert json.loads(out)["simulations"] == told["simulations"][-1:]
    assert repeated == err
    monkeypatch.undo()


def test_a_failure_names_seed_point_and_the_last_events(testbed: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "voting", GrantsForgotten)
    code, _, err = testbed("simulate pair.yaml --repeat 500 --delay-us 0:300 --kernels 4")
    assert code == 1
    assert "point 1 (the only point) failed" in err
    assert "two copies: page" in err
    assert "the last events:" in err
    assert " receives " in err


def test_without_faults_the_file_s_own_expectations_are_judged(testbed: CommandLine) -> None:
    Path("pair.yaml").write_text(PAIR + "expect:\n  - messages.protocol == 4\n")
    code, _, err = testbed("simulate pair.yaml")
    assert code == 1
    assert "does not hold: messages.protocol == 4" in err
    assert "repeat it with: `testbed simulate pair.yaml --seed 0 --point 1" in err
    assert testbed("simulate pair.yaml --kernels 3")[0] == 0  # they were about two kernels


def test_lost_pages_are_named(testbed: CommandLine) -> None:
    code, out, _ = testbed("simulate pair.yaml --kill x86@3000")
    assert code == 0
    assert "page lost: node arm, thread 0, page " in out
    code, out, _ = testbed("simulate pair.yaml --kill x86@3000 --json")
    lost = json.loads(out)["simulations"][0]["lost"]
    assert lost[0]["error"] == "page lost"
    assert lost[0]["node"] == "arm"


def test_a_kill_that_comes_too_late_is_mentioned(testbed: CommandLine) -> None:
    assert "note: x86 was to die at 90000000 µs" in testbed("simulate pair.yaml --kill x86@90000000")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "found no FILE"),
        ("nowhere.yaml", "found no such file"),
        ("pair.yaml --delay-us fast", "--delay-us: found 'fast', expected MIN:MAX"),
        ("pair.yaml --delay-us 9:3", "--delay-us: found '9:3', expected MIN at most MAX"),
        ("pair.yaml --duplicate 2", "--duplicate"),
        ("pair.yaml --slow arm", "--slow: found 'arm', expected NODE=FACTOR"),
        ("pair.yaml --slow amr=3", "--slow: found 'amr', expected one of x86, arm\nhint: did you mean 'arm'?"),
        ("pair.yaml --kill arm@soon", "--kill: found 'arm@soon', expected NODE@TIME"),
        ("pair.yaml --kill arm@1 --kill arm@2", "found 'arm' twice"),
        ("pair.yaml --kill arm@1 --kill x86@2", "expected one that survives"),
        ("pair.yaml --kernels 1001", "--kernels: found '1001', expected a whole number from 1 to 1000"),
        ("pair.yaml --kernels 2..4", "--kernels: found '2..4', expected a whole number"),
        ("pair.yaml --kernels 4 --slow arm=2", "with --kernels N they are named k0, k1"),
        ("pair.yaml --seeds 5", "--seeds: found '5', expected A..B"),
        ("pair.yaml --seeds 1..200000", "expected at most 100000 of them"),
        ("pair.yaml --seeds 1..2 --seed 1", "--seeds: found with --seed"),
        ("pair.yaml --point 2", "--point: found 2, but pair.yaml has 1 point"),
        ("pair.yaml --log nowhere/events.jsonl", "cannot write nowhere/events.jsonl"),
        ("pair.yaml --plot x.svg", "--plot: found without --growth"),
        ("pair.yaml --growth", "--growth: found a FILE"),
        ("--growth --kernels 1..4", "--kernels: found '1..4'"),
        ("--growth --kernels 2..65", "--kernels: found '2..65'"),
        ("--growth --plot nowhere/growth.svg --kernels 2..3", "cannot write nowhere/growth.svg"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(testbed: CommandLine, words: str, said: str) -> None:
    code, out, err = testbed(f"simulate {words}")
    assert code == 2
    assert out == ""
    assert said in err
    assert [path.name for path in Path().iterdir()] == ["pair.yaml"]


def test_growth_is_a_table_json_and_a_picture(testbed: CommandLine) -> None:
    code, out, _ = testbed("simulate --kernels 2..4 --plot growth.svg")
    assert code == 0
    assert "14 + 10" in out
    assert "all as the formulas say" in out
    picture = Path("growth.svg").read_bytes()
    code, out, err = testbed("simulate --growth --kernels 2..4 --plot growth.svg --json")
    assert (code, err) == (0, "")
    assert {cost["kernels"] for cost in json.loads(out)["growth"]} == {2, 3, 4}
    assert Path("growth.svg").read_bytes() == picture


def test_growth_that_is_not_as_the_formulas_say_fails(testbed: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Talkative(VotingEngine):
        """Asks everybody, where the owner would do."""

        def _ask(self, page: Page, kernel: int, effects: list[Effect]) -> None:
            self._ask_copyset(page, effects)

    monkeypatch.setattr(growth, "PROTOCOLS", {"voting": Talkative})
    code, out, err = testbed("simulate --growth --kernels 3..3")
    assert code == 1
    assert "(formula: 8)" in out
    assert "differ from the formulas" in err


def test_an_experiment_runs_on_the_stage_sim_with_the_results_of_every_stage(testbed: CommandLine) -> None:
    Path("pair.yaml").write_text(PAIR + "repeat: 2\n")
    points = []
    for _ in range(2):
        code, out, err = testbed("run pair.yaml --stage sim --json")
        assert code == 0, err
        summary = json.loads(out)
        assert (summary["stage"], summary["outcome"]) == ("sim", "passed")
        assert {node["name"]: node["accelerator"] for node in summary["nodes"]} == {"x86": "none", "arm": "none"}
        assert all(point["verified"] for point in summary["points"])
        assert (Path(summary["results"]) / "events.jsonl").is_file()
        points.append(summary["points"])
    assert points[0] == points[1]
    assert [point["repetition"] for point in points[0]] == [0, 1] * (len(points[0]) // 2)
    assert points[0][0]["latency_us"] != points[0][1]["latency_us"], "both repetitions had the same chance"


def test_a_violation_on_the_stage_sim_fails_the_run_with_the_command_that_repeats_it(
    testbed: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "voting", Unprotected)
    code, out, err = testbed("run pair.yaml --stage sim --json")
    assert code == 1
    summary = json.loads(out)
    assert summary["outcome"] == "failed"
    again = summary["error"]["hint"].removeprefix("repeat it with: `testbed ").rstrip("`")
    assert again.startswith("simulate pair.yaml --seed 0 --point 1")
    assert "the last events" in err
    code, out, _ = testbed(again + " --json")
    assert (code, json.loads(out)["outcome"]) == (1, "failed")


def test_a_value_put_in_is_simulated_and_stands_in_the_command_that_repeats_a_failure(
    testbed: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "simulate pair.yaml --set workload.iterations=3 --set coherency.protocol=origin"
    code, out, _ = testbed(f"{words} --json")
    (simulated,) = json.loads(out)["simulations"]
    assert (code, simulated["iterations"]) == (0, 3)
    assert (
        simulated["messages_total"]
        != json.loads(testbed(f"{words[:-6]}voting --json")[1])["simulations"][0]["messages_total"]
    )
    monkeypatch.setitem(PROTOCOLS, "origin", Unprotected)
    code, _, said = testbed(words)
    assert code == 1
    again = said.partition("repeat it with: `testbed ")[2].partition("`")[0]
    assert "--set=workload.iterations=3 --set=coherency.protocol=origin" in again
    assert testbed(again)[0] == 1


@pytest.mark.parametrize(
    ("words", "done"), [("simulate pair.yaml --seeds 0..9", "simulations"), ("fuzz --repeat 9", "mixtures")]
)
def test_what_was_done_before_it_was_stopped_is_told(
    testbed: CommandLine, monkeypatch: pytest.MonkeyPatch, words: str, done: str
) -> None:
    worlds = 0

    def third_one_never(world: World, *, _run: Callable[[World], None] = World.run) -> None:
        nonlocal worlds
        worlds += 1
        if worlds == 3:
            raise Stopped(signal.SIGINT)
        _run(world)

    monkeypatch.setattr(World, "run", third_one_never)
    code, out, err = testbed(f"{words} --json")
    told = json.loads(out)
    assert (code, told["outcome"], told["repeat"]) == (130, "interrupted", None)
    assert "stopped by SIGINT" in err
    assert (len(told[done]) if done == "simulations" else told[done][0]["simulations"]) == 2


def test_fuzzing_puts_every_protocol_under_every_mixture_it_is_to_stand(testbed: CommandLine) -> None:
    code, out, _ = testbed("fuzz --repeat 30 --json")
    told = json.loads(out)
    assert (code, told["outcome"]) == (0, "passed")
    assert {each["simulations"] for each in told["mixtures"]} == {30}
    names = [f"{each['protocol']}/{each['mixture']}" for each in told["mixtures"]]
    assert {"voting/delays", "voting/reorder+duplicates", "origin/reorder+deaths"} <= set(names)
    assert all((each["deaths"] > 0) == ("deaths" in each["mixture"]) for each in told["mixtures"])
    assert json.loads(testbed("fuzz --repeat 30 --json")[1]) == told


def test_fuzzing_ends_at_the_first_failure_with_the_command_that_repeats_it(
    testbed: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROTOCOLS, "voting", GrantsForgotten)
    code, out, err = testbed("fuzz --repeat 1000 --json")
    told = json.loads(out)
    assert (code, told["outcome"]) == (1, "failed")
    failed = told["mixtures"][-1]
    assert failed["simulations"] == failed["failed_seed"] + 1
    assert "the last events" in err
    code, out, _ = testbed(told["repeat"].removeprefix("testbed ") + " --json")
    (again,) = json.loads(out)["mixtures"]
    assert (code, again["failure"], again["last"]) == (1, failed["failure"], failed["last"])


def test_a_mixture_that_is_not_there_is_refused_with_the_nearest(testbed: CommandLine) -> None:
    code, _, err = testbed("fuzz --only voting/death")
    assert code == 2
    assert "found 'voting/death', expected PROTOCOL/MIXTURE; do you mean voting/deaths?" in err
