"""docs/json.md: every command that has --json is there, and says what it prints."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import application, main
from tests.unit.test_experiment_errors import GOOD

ROOT = Path(__file__).parents[2]
_SECTION = re.compile(r"^### `testbed ([a-z ]+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = dict(_SECTION.findall((ROOT / "docs/json.md").read_text()))


def commands(group: Any, *words: str) -> dict[str, Any]:
    """All commands below a group by their words."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        found |= (
            commands(command, *words, name) if hasattr(command, "commands") else {" ".join((*words, name)): command}
        )
    return found


def fields(command: str) -> set[str]:
    """Those that stand in the first column of a command's table."""
    rows = [line.split("|")[1] for line in SECTIONS[command].splitlines() if line.startswith("| `")]
    return {field for row in rows for field in re.findall(r"`([a-z_]+)`", row)}


def test_every_command_that_prints_json_says_which() -> None:
    with_json = {
        name
        for name, command in commands(typer.main.get_command(application())).items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert set(SECTIONS) == with_json


Answer = Callable[[str], Any]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Answer:
    """What a command prints, in a folder with an experiment `pair.yaml`."""
    (tmp_path / "pair.yaml").write_text(GOOD.replace("256KiB", "4KiB"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def told(words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["testbed", *words.split(), "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    return told


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("validate", "pair.yaml"),
        ("plan", "pair.yaml --stage local"),
        ("simulate", "pair.yaml"),
        ("fuzz", "--repeat 1 --only voting/delays"),
        ("verify", "--operations 1+1"),
        ("image list", ""),
    ],
)
def test_its_fields_are_those_of_its_table(answer: Answer, command: str, words: str) -> None:
    assert set(answer(f"{command} {words}")) == fields(command)
