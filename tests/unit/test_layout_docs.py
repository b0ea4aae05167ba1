"""Documentation that names things that do not exist, or leaves out things that do, is broken like a test is."""

import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

from orchestrator import cli
from orchestrator.experiments import experiment, workloads
from orchestrator.experiments.expectation import NAMES
from orchestrator.experiments.experiment import Experiment
from orchestrator.experiments.fields import Model
from orchestrator.experiments.plan import load

ROOT = Path(__file__).resolve().parents[2]


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def examples(page: Path) -> Iterator[str]:
    """Command lines a page shows: in fenced or indented blocks, and in `code`."""
    for line in page.read_text().splitlines():
        for shown in [line.strip(), *re.findall(r"`([^`]+)`", line)]:
            found = re.match(r"(?:\$ )?(?:\./tb|testbed) ([a-z].*)", shown)
            if found and (line.startswith(("    ", "./tb", "$ ", "testbed ")) or shown != line.strip()):
                yield found[1]


def models() -> list[type[BaseModel]]:
    everything = [*vars(experiment).values(), *vars(workloads).values()]
    return [
        found
        for found in everything
        if isinstance(found, type) and issubclass(found, BaseModel) and not found.__name__.startswith("_")
        and found not in (BaseModel, Model)
    ]  # fmt: skip


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_command_a_page_shows_exists() -> None:
    from orchestrator.cli import application

    group = typer.main.get_command(application())
    known = {*getattr(group, "commands", {}), "test"}
    wrong = [
        f"{page.relative_to(ROOT)}: {example}"
        for page in pages()
        for example in examples(page)
        if example.split()[0] not in known
    ]
    assert wrong == []


def test_every_key_of_experiment_files_is_explained() -> None:
    text = (ROOT / "docs" / "experiment-files.md").read_text()
    keys = {key for model in models() for key in model.model_fields}
    assert keys >= set(Experiment.model_fields)
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_every_name_an_expectation_may_use_is_explained() -> None:
    text = (ROOT / "docs" / "experiment-files.md").read_text()
    plain = {name for name in NAMES if "." not in name}
    assert sorted(name for name in plain if f"`{name}`" not in text) == []


def test_the_examples_of_experiment_files_are_right(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "experiment-files.md").read_text(), re.MULTILINE | re.DOTALL
    )
    whole, matrix, parts = blocks  # examples of workloads are in docs/workloads.md, and run by a test
    file = tmp_path / "example.yaml"
    file.write_text(whole)
    assert len(load(file).points) == 6
    file.write_text(re.sub(r"^matrix:.*\n", matrix, whole, flags=re.MULTILINE))
    assert len(load(file).points) == 18
    file.write_text(re.sub(r"^matrix:.*\n", parts, whole, flags=re.MULTILINE))
    assert len(load(file).points) == 3 * 6


def test_the_reference_of_commands_finds_every_one_with_a_summary_and_examples() -> None:
    """Whether the page in docs/ is what it writes is asked by `docs/commands.py --check`, with the linters."""
    program = runpy.run_path(str(ROOT / "docs" / "commands.py"))
    text = program["page"]()
    sections = dict(re.findall(r"^## testbed (\S.*)\n\n(.*)$", text, re.MULTILINE))
    group = typer.main.get_command(cli.application())
    assert {name.split()[0] for name in sections} == set(getattr(group, "commands", {}))
    assert [name for name, summary in sections.items() if len(summary.split()) < 4] == []
    assert [name for name in sections if f"\n    testbed {name}" not in text] == []
