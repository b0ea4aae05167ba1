"""The store: built once, found quickly, and what has an image's name is whole."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from images import build, store
from images.errors import Failure, HostError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/testbed/images"


class Builds:
    """Stands for the build: notes what was asked for and writes records, or fails half-way."""

    def __init__(self) -> None:
        self.archs: list[str] = []
        self.failing = False

    def __call__(
        self, definition: object, targets: Mapping[str, build.Target], interpreter: object, say: object
    ) -> None:
        for target in targets.values():
            self.archs.append(target.arch)
            (target.directory / "kernel").write_bytes(b"kernel")
            if self.failing:
                raise HostError("mkfs.erofs ended with code 1", "is the disk full?")
            record = {"arch": target.arch, "key": target.key, "kernel_release": "6.12", "python_version": "3.13.5"}
            (target.directory / "image.json").write_text(json.dumps({**record, "command_line": ["quiet"]}))
            (target.directory / "python").mkdir()
            (target.directory / "python/paths").write_text("ld.so lib")


@pytest.fixture
def builds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Builds:
    builds = Builds()
    monkeypatch.setattr(build, "build", builds)
    return builds


def test_an_image_is_built_once(builds: Builds, cache: Path) -> None:
    first = store.ensure_all(["x86_64", "aarch64"], print)
    again = store.ensure_all(["aarch64", "x86_64"], print)
    assert first == again
    assert sorted(builds.archs) == ["aarch64", "x86_64"]
    assert first["aarch64"].directory == cache / f"{first['aarch64'].key}-aarch64"
    assert first["aarch64"].command_line == ("quiet",)


def test_a_build_that_fails_leaves_nothing_that_looks_like_an_image(builds: Builds, cache: Path) -> None:
    builds.failing = True
    with pytest.raises(HostError, match=r"mkfs\.erofs"):
        store.ensure("x86_64", print)
    assert [file.name for file in cache.iterdir()] == ["build.lock"]
    assert store.images() == []
    builds.failing = False
    assert store.ensure("x86_64", print).kernel_release == "6.12"


def test_what_a_killed_build_left_goes_with_the_next_one(builds: Builds, cache: Path) -> None:
    left = cache / f"{store.UNFINISHED}abc/root/usr"
    left.mkdir(parents=True)
    store.ensure("x86_64", print)
    assert not left.exists()
    assert not list(cache.glob(f"{store.UNFINISHED}*"))


def test_many_who_ask_at_once_cause_one_build(builds: Builds) -> None:
    threads = [threading.Thread(target=store.ensure, args=("x86_64", lambda line: None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds.archs.count("x86_64") == 1


def test_offline_a_missing_image_is_an_error_with_a_hint(builds: Builds) -> None:
    with pytest.raises(Failure, match="no image for x86_64") as caught:
        store.ensure("x86_64", print, offline=True)
    assert "network" in caught.value.hint
    assert builds.archs == []
    store.ensure("x86_64", print)
    assert store.ensure("x86_64", print, offline=True).arch == "x86_64"


def test_an_unknown_architecture_is_named_with_the_known_ones(builds: Builds) -> None:
    with pytest.raises(Failure, match=r"'riscv64', there are: x86_64, aarch64"):
        store.ensure("riscv64", print)


def test_the_key_follows_the_definition(tmp_path: Path) -> None:
    changed = tmp_path / "other.yaml"
    changed.write_text(store.DEFINITION.read_text())
    assert store.key_of(changed) == store.key_of(store.DEFINITION)
    changed.write_text(store.DEFINITION.read_text() + "\n# one more line\n")
    assert store.key_of(changed) != store.key_of(store.DEFINITION)
    adding = tmp_path / "adding.yaml"
    adding.write_text("extends: other.yaml\npackages: [less]\n")
    before = store.key_of(adding)
    assert before not in (store.key_of(changed), store.key_of(store.DEFINITION))
    changed.write_text(store.DEFINITION.read_text())
    assert store.key_of(adding) != before


def test_a_removed_image_is_built_again(builds: Builds) -> None:
    image = store.ensure("x86_64", print)
    assert image in store.images()
    store.remove(image)
    assert image not in store.images()
    assert not image.directory.exists()
    assert store.ensure("x86_64", print) == image
    assert builds.archs.count("x86_64") == 2


def test_finding_a_present_image_imports_nothing_heavy(builds: Builds, cache: Path) -> None:
    store.ensure("x86_64", print)
    program = "import sys, images; images.ensure('x86_64', print); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"yaml", "filelock", "subprocess", "concurrent.futures", "tarfile", "asyncio"}
    assert not heavy & set(done.stdout.split())
