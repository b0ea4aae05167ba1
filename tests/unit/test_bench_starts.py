"""What a bench of starts says when there is nothing to measure."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.bench import starts
from orchestrator.progress import Progress
from testbed import GuestError


class Booted:
    """A pair one of whose guests has booted after all."""

    def __init__(self) -> None:
        self.progress = Progress(quiet=True)
        self.ended = 0

    def up(self, _mode: object) -> Any:
        reason = "its saved state was of no use: QEMU ended"
        nodes = [SimpleNamespace(name="x86", warm=True), SimpleNamespace(name="arm", warm=False, warm_reason=reason)]
        return SimpleNamespace(nodes={node.name: node for node in nodes})

    def down(self, _testbed: object) -> None:
        self.ended += 1


def test_a_guest_that_did_not_start_from_its_state_is_named_before_it_is_spoken_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no agent that could answer, which would be told in place of the cause."""
    spoken_to: list[object] = []
    monkeypatch.setattr(starts, "_greet", spoken_to.append)
    pair: Any = Booted()
    with pytest.raises(GuestError, match="node arm did not start from its state: its saved state was of no use"):
        starts.warm(pair, 1)
    assert spoken_to == []
    assert pair.ended == 2
