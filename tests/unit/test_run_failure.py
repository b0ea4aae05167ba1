"""What a run does at a failure, before anything is tidied up."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import load
from orchestrator.progress import Progress
from orchestrator.record import Record
from orchestrator.results import RunDirectory
from orchestrator.run import run
from testbed.errors import GuestError

ROOT = Path(__file__).parents[2]


class Stage:
    """Machines that come up, and whose daemon does not; `happened` is what was asked of them."""

    def __init__(self, happened: list[str], *, comes_up: bool) -> None:
        self.happened = happened
        self.comes_up = comes_up

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
        run(plan, lambda _testbed: stage, record, progress, keep=True, at_failure=at_failure)
    failure = "failure: node arm: no daemon" if comes_up else "failure: node arm is not ready"
    assert happened[-3:] == [failure, "collect", "teardown keep=True"]
