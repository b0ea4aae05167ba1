"""Images built for real, from the distribution's packages: the same inputs give the same bytes."""

import shutil
import tempfile
from pathlib import Path

import pytest

from images import Image, ensure_all
from tests.vm.conftest import BUILD_S, say

pytestmark = pytest.mark.timeout(2 * BUILD_S)


@pytest.fixture
def two_builds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Image]]:
    """Both images, built twice in stores that know nothing of each other."""
    built = []
    for _ in range(2):
        folder = Path(tempfile.mkdtemp(prefix="tb-build-"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        try:
            images = ensure_all(["x86_64", "aarch64"], say)
            assert {arch: image.damage() for arch, image in images.items()} == {"x86_64": [], "aarch64": []}
            built.append(images)
        finally:
            shutil.rmtree(folder)
    return built


def test_the_same_inputs_give_the_same_bytes(two_builds: list[dict[str, Image]]) -> None:
    one, two = two_builds
    for arch in ("x86_64", "aarch64"):
        assert len(one[arch].digests) >= 3
        assert one[arch].digests == two[arch].digests
