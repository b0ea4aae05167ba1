"""What a run does at a failure, before anything is tidied up."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiments.plan import load
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.results.record import Record
from orchestrator.run import run
from orchestrator.stages.programs import Programs
from testbed import lifecycle, teardown
from testbed.errors import GuestError, HostError
from testbed.spec import NodeSpec, TestbedSpec

ROOT = Path(__file__).parents[2]


class Stage:
    """Machines that come up, and whose daemon does not; `happened` is what was asked of them."""

    def __init__(self, happened: list[str], *, comes_up: bool) -> None:
        self.happened = happened
        self.comes_up = comes_up
        self.gone = False

    def provision(self) -> list[Any]:
        self.happened.append("provision")
        if not self.comes_up:
            raise GuestError("node arm is not ready")
        return []

    def deploy(self) -> Any:
        self.happened.append("deploy")
        raise GuestError("node arm: no daemon")

    def collect(self, _directory: RunDirectory) -> None:
        self.happened.append("collect")

    def taken_down(self) -> bool:
        return self.gone

    def teardown(self, *, keep: bool) -> None:
        self.happened.append(f"teardown keep={keep}")


@pytest.mark.parametrize("comes_up", [True, False])
def test_somebody_can_look_before_anything_is_tidied_up(tmp_path: Path, comes_up: bool) -> None:
    happened: list[str] = []
    plan = load(ROOT / "configs/quickstart.yaml")
    progress = Progress(quiet=True)
    stage: Any = Stage(happened, comes_up=comes_up)

    def at_failure(_stage: Any, what: str) -> None:
        happened.append(f"failure: {what}")

    with (
        progress,
        Record(plan, "vm", RunDirectory.create(tmp_path, plan.name), progress) as record,
        pytest.raises(GuestError),
    ):
        run(plan, lambda _testbed: stage, Programs(plan, "vm"), record, progress, keep=True, at_failure=at_failure)
    failure = "failure: node arm: no daemon" if comes_up else "failure: node arm is not ready"
    assert happened[-3:] == [failure, "collect", "teardown keep=True"]


def test_a_testbed_that_somebody_takes_down_while_it_is_deployed_is_no_guests_fault(tmp_path: Path) -> None:
    happened: list[str] = []
    plan = load(ROOT / "configs/quickstart.yaml")
    progress = Progress(quiet=True)
    stage: Any = Stage(happened, comes_up=True)
    stage.gone = True
    with (
        progress,
        Record(plan, "vm", RunDirectory.create(tmp_path, plan.name), progress) as record,
        pytest.raises(HostError, match="deploying the daemon: the testbed was taken down by another command"),
    ):
        run(plan, lambda _testbed: stage, Programs(plan, "vm"), record, progress)


def test_a_testbed_that_somebody_takes_down_while_it_starts_is_no_guests_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    spec = TestbedSpec("mine", (NodeSpec("arm", "aarch64", 512 << 20),))
    images: Any = {"aarch64": None}

    def start(self: lifecycle.Start) -> None:
        if taken_down:
            teardown.down("mine", lambda _line: None)
        raise GuestError("node arm ended")

    monkeypatch.setattr(lifecycle.Start, "run", start)
    taken_down = True
    with pytest.raises(HostError, match=r"^mine: taken down by another command while it was starting$"):
        lifecycle.up(spec, images, lambda _line: None)
    taken_down = False
    with pytest.raises(GuestError, match="node arm ended"):
        lifecycle.up(spec, images, lambda _line: None)
