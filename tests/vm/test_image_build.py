"""Images built for real, from the distribution's packages: the same inputs give the same bytes."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from images import Image, ensure_all
from tests.vm.conftest import BUILD_S, say

ARCHITECTURES = ("x86_64", "aarch64")
pytestmark = pytest.mark.timeout(2 * BUILD_S)


@pytest.fixture
def built_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Image]]]:
    """Builds both images, each time in a store that knows nothing of any other."""
    folders = []

    def build() -> dict[str, Image]:
        folders.append(Path(tempfile.mkdtemp(prefix="tb-build-")))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folders[-1]))
        return ensure_all(ARCHITECTURES, say)

    yield build
    for folder in folders:
        shutil.rmtree(folder)


def test_the_same_inputs_give_the_same_bytes(
    images: Mapping[str, Image], built_anew: Callable[[], dict[str, Image]]
) -> None:
    one, two = images, built_anew()
    if any(one[arch].packages != two[arch].packages for arch in ARCHITECTURES):
        one = built_anew()  # those of the shared store are of a day when the distribution had other packages
    for arch in ARCHITECTURES:
        assert one[arch].directory != two[arch].directory
        assert two[arch].damage() == []
        assert len(one[arch].digests) >= 3
        assert one[arch].digests == two[arch].digests
