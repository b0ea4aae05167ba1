"""`testbed verify`: what it prints and keeps of a search, what it refuses, and counterexamples gone through again."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from guest.protocol.effects import Discard, Effect
from guest.protocol.messages import Message
from guest.protocol.page import Page
from guest.protocol.registry import PROTOCOLS
from guest.protocol.threads import ThreadsEngine
from guest.protocol.voting import VotingEngine
from images.errors import Failure
from orchestrator.checker.default_set import DEFAULT, QUICK, THOROUGH
from orchestrator.checker.scenario import Links, Scenario, Start
from orchestrator.checker.search import Report, explore
from orchestrator.checker.thread_system import ThreadScenario
from orchestrator.cli import application, main
from orchestrator.errors import Stopped


class KeepsItsCopy(VotingEngine):
    """Grants a write, and keeps its own copy readable."""

    def judge(self, page: Page, sender: int, message: Message, effects: list[Effect]) -> None:
        super().judge(page, sender, message, effects)
        effects[:] = [effect for effect in effects if not isinstance(effect, Discard)]


class Impatient(VotingEngine):
    """Writes a shared page without asking anybody."""

    def _start_vote(self, page: Page, effects: list[Effect]) -> None:
        self._win(page, effects)


def verify(*words: str) -> Result:
    return CliRunner().invoke(application(), ["verify", "--quiet", *words])


def ended(result: Result) -> tuple[int, str]:
    assert isinstance(result.exception, Failure), result.output
    return result.exception.exit_code, f"{result.exception.message}\n{result.exception.hint}"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A registry with an engine that writes without a vote; and a folder to stand in."""
    monkeypatch.setitem(PROTOCOLS, "impatient", Impatient)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_scenario_is_searched_and_counted() -> None:
    result = verify("--operations", "1+1", "--links", "reordered", "--start", "shared")
    assert result.exit_code == 0, result.output
    assert "2 × 1+1" in result.stdout
    assert "no violation" in result.stdout
    assert "states/s" in result.stdout


def test_json_is_all_there_is_on_standard_output() -> None:
    told = json.loads(verify("--protocol", "voting", "--kernels", "2", "--deaths", "1", "--json").stdout)
    (scenario,) = told["scenarios"]
    assert (told["outcome"], told["complete"], told["trace"]) == ("passed", True, None)
    assert (scenario["protocol"], scenario["operations"], scenario["deaths"]) == ("voting", [1, 1], 1)
    assert told["states"] == scenario["states"] > 100


def test_a_violation_is_drawn_kept_and_found_again_by_the_command_it_names(broken: Path) -> None:
    result = verify("--protocol", "impatient", "--operations", "1+1", "--start", "shared")
    code, said = ended(result)
    assert code == 1
    assert "invariant 1: a page is writable in one kernel and readable in another" in said
    assert "testbed verify --replay violation-impatient.json" in said
    assert "kernel 0" in result.stdout
    assert "writes page 0" in result.stdout
    again = verify("--replay", "violation-impatient.json")
    assert ended(again)[0] == 1
    assert "writes page 0" in again.stdout
    assert "kernel 1: " in again.stdout


def test_a_violation_among_threads_is_drawn_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ThreadsEngine, "_tidy", lambda *_: None)  # a kernel waits for a dead home to end its part
    monkeypatch.setattr("orchestrator.checker.default_set.THREADS", [ThreadScenario(2, deaths=1)])
    result = verify("--protocol", "threads")
    code, said = ended(result)
    assert code == 1
    assert "home is dead, nothing is left on kernel 1, and its part stays" in said
    assert "├──────────▶A     THREAD_MIGRATE thread 0\n" in result.stdout
    again = verify("--replay", "violation-threads.json")
    assert ended(again)[0] == 1
    assert "kernel 1: has the process" in again.stdout


def test_a_scenario_of_pages_is_none_of_threads() -> None:
    code, said = ended(verify("--protocol", "threads", "--deaths", "1"))
    assert code == 2
    assert "found --protocol threads and a scenario of pages, expected one of the sets" in said


def test_a_trace_is_never_written_over_another(broken: Path) -> None:
    for _ in range(2):
        verify("--protocol", "impatient", "--start", "shared")
    assert sorted(path.name for path in broken.iterdir()) == ["violation-impatient-2.json", "violation-impatient.json"]


def test_a_trace_of_an_engine_that_was_mended_since_says_so(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "keeps", KeepsItsCopy)
    ended(verify("--protocol", "keeps", "--operations", "1+1", "--start", "shared", "--save-trace", "it.json"))
    monkeypatch.setitem(PROTOCOLS, "keeps", VotingEngine)
    result = verify("--replay", "it.json")
    assert result.exit_code == 0
    assert "no violation any more" in result.stdout


def test_a_trace_that_fits_no_engine_is_refused_with_the_step(broken: Path) -> None:
    ended(verify("--protocol", "impatient", "--operations", "1+1", "--start", "shared", "--save-trace", "it.json"))
    trace = json.loads(Path("it.json").read_text())
    trace["moves"][0]["says"] = "writes page 7"
    Path("it.json").write_text(json.dumps(trace))
    code, said = ended(verify("--replay", "it.json"))
    assert code == 2
    assert "step 1 of the trace is 'kernel 0 writes page 7', but here the engine allows only: kernel 0 writes" in said
    Path("it.json").write_text(json.dumps(trace | {"format": 99}))
    assert "found format 99, expected 1" in ended(verify("--replay", "it.json"))[1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--protocol", "votng"], "did you mean 'voting'?"),
        (["--operations", "1+x"], "found operations '1+x'"),
        (["--operations", "1+1", "--kernels", "3"], "found 3 kernels, but operations of 2"),
        (["--deaths", "2"], "found 2 deaths, expected 0 to 1"),
        (["--pages", "0"], "found 0 pages, expected 1 to 8"),
        (["--quick", "--pages", "2"], "found --quick and a scenario"),
        (["--quick", "--thorough"], "found --quick and --thorough, expected one of them"),
        (["--replay", "nothing.json"], "nothing.json: No such file"),
        (["--replay", "x.json", "--quick"], "found options beside --replay"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_searched(words: list[str], found: str) -> None:
    code, said = ended(verify(*words))
    assert code == 2
    assert found in said


def test_the_sets_have_every_start_and_every_kind_of_links_and_two_and_three_kernels() -> None:
    for scenarios in (QUICK, DEFAULT, THOROUGH):
        assert {scenario.start for scenario in scenarios} == set(Start)
        assert {scenario.links for scenario in scenarios} == set(Links)
        assert {scenario.pages for scenario in scenarios} == {1, 2}
        assert {2, 3} <= {scenario.kernels for scenario in scenarios}
        assert max(scenario.deaths for scenario in scenarios) > 0
        assert max(scenario.give_ups for scenario in scenarios) > 0
        assert max(scenario.returns for scenario in scenarios) > 0
        assert max(scenario.leaves for scenario in scenarios) > 0


def test_no_room_for_the_answer_is_no_violation() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "orchestrator", "verify", "--operations", "1+1", "--json", "-q"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("testbed: error: standard output cannot be written: No space left on device")
    assert "Traceback" not in done.stderr


def test_a_search_that_was_cut_short_does_not_say_passed() -> None:
    done = verify("--operations", "1+1", "--limit", "5", "--json")
    told = json.loads(done.stdout)
    assert (told["outcome"], told["complete"]) == ("incomplete", False)
    code, said = ended(done)
    assert code == 1
    assert said.startswith(f"no violation so far, but {len(PROTOCOLS)} of {len(PROTOCOLS)} scenarios not searched to")


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_what_was_searched_before_it_was_stopped_is_told(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first_alone(scenarios: list[Scenario], *, limit: int, jobs: int) -> Iterator[tuple[int, Report]]:
        yield 1, explore(scenarios[1], limit=limit // jobs)
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("orchestrator.commands.verify_command.explore_all", first_alone)
    monkeypatch.setattr(sys, "argv", ["testbed", "verify", "--operations", "1+1", "--jobs", "1", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 130
    assert "testbed: stopped by SIGINT" in err
    if words:
        told = json.loads(out)
        assert (told["outcome"], told["complete"], len(told["scenarios"])) == ("interrupted", False, 1)
        assert told["scenarios"][0]["protocol"] == list(PROTOCOLS)[1]
    else:
        assert "no violation" in out
