"""Stage `local` gives back what it took, whenever it is stopped."""

import os
import signal

import pytest

from guest.link.segment import word_view
from orchestrator.errors import Stopped
from orchestrator.experiments.experiment import Testbed
from orchestrator.stages import local as stage_local
from orchestrator.stages.local import LocalStage

SHAPE = """{"nodes": {"x86": {"arch": "x86_64"}, "arm": {"arch": "aarch64"}},
            "links": {"shm0": {"kind": "ivshmem-doorbell", "size": 1048576, "nodes": ["x86", "arm"]}}}"""


def test_a_signal_while_a_segment_is_formatted_is_what_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupted function still holds views of the memory: nothing may insist on unmapping it at once."""
    stage = LocalStage(Testbed.model_validate_json(SHAPE))
    stage.provision()

    def interrupted(buffer: memoryview, kernels: int) -> None:
        words = word_view(buffer)
        words[0] = kernels
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(stage_local, "format_segment", interrupted)
    memory_fd = stage.link_for("shm0", "x86")["memory_fd"]

    def run() -> None:
        try:
            stage.format_segment("shm0", 2)
        finally:
            stage.teardown(keep=False)

    with pytest.raises(Stopped):
        run()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory_fd)
