"""Image definitions that an experiment file names by their paths."""

from pathlib import Path

import pytest

from images.errors import Failure
from images.store import definitions
from orchestrator.errors import FileError
from orchestrator.experiments.image_files import definition_of
from orchestrator.experiments.plan import load
from orchestrator.stages import machines

CLOUD = f"kind: cloud-image\narchitectures:\n  x86_64: {{source: disk.qcow2, sha256: {'ab' * 32}}}\n"
FILE = """name: mixed
testbed:
  image: {image}
  nodes:
    x86: {{arch: x86_64, image: {own}}}
    arm: {{arch: aarch64}}
workload: {{kind: command, commands: {{x86: [uname]}}}}
"""


def written(folder: Path, image: str = "default", own: str = "images/cloud.yaml") -> Path:
    (folder / "images").mkdir()
    (folder / "images/cloud.yaml").write_text(CLOUD)
    file = folder / "mixed.yaml"
    file.write_text(FILE.format(image=image, own=own))
    return file


def test_a_node_has_an_image_of_its_own_relative_to_the_file_that_says_it(tmp_path: Path) -> None:
    (tmp_path / "over").mkdir()
    written(tmp_path)
    over = tmp_path / "over/over.yaml"
    over.write_text("extends: ../mixed.yaml\nrepeat: 2\n")
    for file in (tmp_path / "mixed.yaml", over):
        testbed = load(file).points[0].experiment.testbed
        assert definition_of(testbed.image_of("x86")) == tmp_path / "images/cloud.yaml"
        assert definition_of(testbed.image_of("arm")) == definitions()["default"]


def test_a_run_can_be_repeated_from_what_it_keeps(tmp_path: Path) -> None:
    plan = load(written(tmp_path))
    elsewhere = tmp_path / "results"
    elsewhere.mkdir()
    (elsewhere / "resolved.yaml").write_text(plan.resolved())
    again = load(elsewhere / "resolved.yaml")
    assert again.points[0].experiment.testbed == plan.points[0].experiment.testbed


def test_an_option_is_relative_to_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path / "images")
    testbed = load(tmp_path / "mixed.yaml", ["testbed.nodes.x86.image=./cloud.yaml"]).points[0].experiment.testbed
    assert definition_of(testbed.image_of("x86")) == tmp_path / "images/cloud.yaml"


@pytest.mark.parametrize(
    ("own", "content", "told"),
    [
        ("images/none.yaml", "", "none.yaml: not a readable image definition"),
        ("images/cloud.yaml", "kind: cloud-image\n", "cloud.yaml: `architectures` is None"),
        ("images/cloud.yaml", "suite: trixie\n", "cloud.yaml: top level"),
        ("nunpy", "", "numpy"),
    ],
)
def test_what_is_wrong_is_told_at_the_place_that_names_it(tmp_path: Path, own: str, content: str, told: str) -> None:
    file = written(tmp_path, own=own)
    if content:
        (tmp_path / "images/cloud.yaml").write_text(content)
    with pytest.raises(FileError) as caught:
        load(file)
    assert f"{file}:5:" in caught.value.message
    assert told in caught.value.message


def test_offline_a_run_names_the_images_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    testbed = load(written(tmp_path)).points[0].experiment.testbed
    with pytest.raises(Failure, match=r"no image for .* of default\.yaml .* nothing may be downloaded"):
        machines.images_for(testbed, print, offline=True)
    assert not (tmp_path / "cache").exists()
