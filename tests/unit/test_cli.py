"""The command line: what it answers at once, exit codes, and which stream says what."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrator import output
from orchestrator.cli import application, main
from orchestrator.commands import MODULES
from orchestrator.errors import Stopped
from orchestrator.experiments.experiment import Experiment
from orchestrator.experiments.plan import load
from tests.unit.test_experiment_errors import GOOD

ROOT = Path(__file__).parents[2]


def command_line(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestrator", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, env=environment)


COMMANDS = [
    ["run"], ["up"], ["ps"], ["ssh"], ["down"], ["validate"], ["schema"],
    ["simulate"], ["image", "list"], ["image", "build"], ["image", "inspect"], ["image", "verify"],
    ["image", "prune"], ["results", "show"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_an_example(command: list[str]) -> None:
    done = command_line(*command, "--help")
    assert done.returncode == 0
    assert f"testbed {' '.join(command)}" in done.stdout.partition("Examples:")[2]


def test_help_and_completion_import_nothing_heavy() -> None:
    code = "import sys, orchestrator.cli; print(*sorted(sys.modules.keys() & sys.argv[1:]))"
    heavy = ["libvirt", "paramiko", "pydantic", "yaml", "rich"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "", done.stderr


def test_version_is_the_packages() -> None:
    assert re.fullmatch(r"testbed \d+\.\d+\S*\n", command_line("--version").stdout)


def test_a_right_file_validates(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD)
    done = command_line("validate", "pair.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "pair.yaml: ok, 1 point\n")
    done = command_line("validate", "pair.yaml", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"outcome": "passed", "points": 1}


def test_the_schema_knows_every_key_and_every_word() -> None:
    schema = json.loads(command_line("schema").stdout)
    for name in ("Experiment", "ExtendingExperiment"):
        text = json.dumps(schema["$defs"][name])
        assert all(f'"{key}": {{' in text for key in Experiment.model_fields)
    assert schema["$defs"]["Experiment"]["additionalProperties"] is False
    assert schema["$defs"]["Arch"]["enum"] == ["x86_64", "aarch64"]


def test_the_schema_that_comes_with_the_experiments_is_the_models() -> None:
    kept = (ROOT / "configs/experiment.schema.json").read_text()
    assert kept == command_line("schema").stdout, "testbed schema > configs/experiment.schema.json"
    for folder, schema in (("configs", ""), ("configs/nightly", "../")):
        for path in (ROOT / folder).glob("*.yaml"):
            assert path.read_text().startswith(f"# yaml-language-server: $schema={schema}experiment.schema.json\n")
            assert load(path).points


@pytest.mark.parametrize("command", ["run", "up", "validate"])
def test_wrong_input_ends_with_two_before_anything_starts(command: str, tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD.replace("x86_64", "x86-64").replace("kind:", "knid:"))
    done = command_line(command, "pair.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "pair.yaml:4:17: found 'x86-64', expected x86_64 or aarch64 (did you mean 'x86_64'?)" in done.stderr
    assert "problems; nothing was started" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair.yaml"]


def test_a_missing_file_ends_with_two(tmp_path: Path) -> None:
    done = command_line("run", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("nowhere.yaml: found no such file, expected an experiment file")


def test_with_json_standard_output_holds_json_even_for_a_wrong_file(tmp_path: Path) -> None:
    done = command_line("run", "nowhere.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "error"
    assert answer["error"]["kind"] == "FileError"
    assert len(answer["error"]["problems"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["up", "x.yaml", "--json", "--fly"], "No such option: --fly"),
        (["plan", "--json"], "Missing argument 'FILE'."),
        (["run", "x.yaml", "--json", "--stage", "moon"], "Invalid value for '--stage': "),
    ],
)
def test_a_wrong_command_line_is_told_as_json_too(words: list[str], message: str) -> None:
    done = command_line(*words)
    assert done.returncode == 2
    assert message in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "InputError"
    assert error["message"].startswith(message)


def test_json_that_a_guest_is_to_print_is_not_ours(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "orchestrator", "ssh", "x86", "--", "lsblk", "--json"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("put_before", [False, True])
def test_a_command_that_is_stopped_prints_one_json_document(
    put_before: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        if put_before:
            output.put('{"outcome": "interrupted", "points": []}')
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("orchestrator.experiments.plan.load", stopped)
    monkeypatch.setattr(sys, "argv", ["testbed", "validate", "pair.yaml", "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 128 + signal.SIGTERM
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "interrupted"
    assert ("points" in told) == put_before


def test_machines_without_a_workload_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "machines.yaml").write_text(GOOD.partition("coherency:")[0])
    assert command_line("validate", "machines.yaml", cwd=tmp_path).returncode == 0
    done = command_line("run", "machines.yaml", "--stage", "local", cwd=tmp_path)
    assert done.returncode == 2
    assert "found no coherency and workload, expected both to run it" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["fly"], ["run"], ["run", "x.yaml", "--stage", "moon"], ["image", "build", "vax"], ["results", "show", "x"]],
)
def test_words_that_mean_nothing_end_with_two(words: list[str], tmp_path: Path) -> None:
    done = command_line(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stage", ["local", "sim"])
@pytest.mark.parametrize("option", ["--keep", "--accel=kvm"])
def test_what_needs_guests_is_refused_where_there_are_none(option: str, stage: str, tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD)
    done = command_line("run", "pair.yaml", "--stage", stage, option, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{option.partition('=')[0]}: found with --stage {stage}, expected real guests" in done.stderr
    assert not (tmp_path / "results").exists()


def test_paramiko_s_own_words_do_not_reach_the_terminal() -> None:
    program = "import logging, testbed.shell; logging.getLogger('paramiko.transport').error('Socket exception')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_defect_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_path: Path, _overrides: object) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr("orchestrator.experiments.plan.load", broken)
    monkeypatch.setattr(sys, "argv", ["testbed", "validate", "pair.yaml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    said = capsys.readouterr().err
    assert "a defect of testbed itself: RuntimeError: nobody thought of this" in said
    assert "Traceback" in said
    assert "report it" in said


def test_a_defect_in_a_run_keeps_its_traceback_with_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("nobody thought of this")

    (tmp_path / "pair.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.run_command.run", broken)
    monkeypatch.setattr(sys, "argv", ["testbed", "run", "pair.yaml", "--stage", "local", "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 3
    summary = json.loads(out)
    assert (summary["outcome"], summary["error"]["kind"]) == ("error", "defect")
    (kept,) = tmp_path.glob("results/*/traceback.txt")
    assert "nobody thought of this" in kept.read_text()
    assert str(kept) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [(), ("run",), ("bench",), ("litmus",), ("replay",), ("simulate",), ("up",), ("verify",)]
)
def test_examples_in_the_help_have_a_line_each(words: tuple[str, ...]) -> None:
    lines = [line.strip() for line in command_line(*words, "--help").stdout.splitlines()]
    assert not any("\\b" in line for line in lines)
    following = lines[lines.index("Examples:") + 1]
    assert following.startswith("testbed ")
    assert following.count("testbed") == 1


def test_what_a_file_holds_cannot_paint_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(GOOD.replace("name: pair", r'name: "pa\e[31mir\a"'))
    said = command_line("validate", "pair.yaml", cwd=tmp_path).stderr
    assert r"found 'pa\x1b[31mir\x07', expected" in said
    assert "\x1b" not in command_line("validate", "\x1b[2J.yaml", cwd=tmp_path).stderr


def test_hints_name_the_command_as_it_was_typed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "orchestrator", "ssh", "x86", "--", "true"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TESTBED_COMMAND": "../pop/tb"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "hint: `../pop/tb up FILE` makes one" in done.stderr
    del environment["TESTBED_COMMAND"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert "hint: `testbed up FILE` makes one" in done.stderr


def test_each_command_is_found_in_the_module_that_is_said_to_have_it() -> None:
    """Only that module is imported when the command is typed."""
    whole = typer.main.get_command(application())
    own = typer.main.get_command(application(["run"]))
    assert isinstance(whole, typer.core.TyperGroup)
    assert isinstance(own, typer.core.TyperGroup)
    assert set(whole.commands) == set(MODULES) | set(own.commands)
    for word in MODULES:
        part = typer.main.get_command(application([word, "--help"]))
        assert isinstance(part, typer.core.TyperGroup)
        assert word in part.commands
        assert len(part.commands) < len(whole.commands) / 3


def test_a_typed_command_does_not_load_the_others() -> None:
    code = "import sys; from orchestrator.cli import application; application(['image']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in MODULES.values() if f"orchestrator.commands.{name}" in loaded} == {"image"}


def test_finding_images_that_are_there_does_not_wait_for_the_model_of_experiments(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.cli import application; sys.argv[1:] = ['image', 'build', '--offline']\n"
        "try: application(sys.argv[1:])(standalone_mode=False)\n"
        "except Exception as error: print(type(error).__name__, *sys.modules)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("Failure "), "there are no images, and none may be built"
    slow = {"orchestrator.experiments.experiment", "yaml", "libvirt", "paramiko", "rich.console"}
    assert not slow & set(done.stdout.split())
