"""`testbed image`: what is there, what it is made of, whether it is whole, and what goes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from images import Image, store
from images.image import RECORD, digests_of
from orchestrator.cli import application
from orchestrator.errors import InputError
from orchestrator.stages import deployment
from testbed import states
from testbed.driver import emulator
from testbed.host import build_of
from testbed.states import State


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "testbed"


def run(*words: str) -> Result:
    return CliRunner().invoke(application(), ["image", *words], catch_exceptions=False)


def made(key: str, arch: str) -> Image:
    """An image as a build leaves it, in its place."""
    folder = store.store() / f"{key}-{arch}"
    (folder / "python").mkdir(parents=True)
    for name in ("kernel", "initramfs", "root.erofs", "python/paths"):
        (folder / name).write_text(f"{name} of {key}")
    record = {
        "arch": arch,
        "key": key,
        "kernel_release": "6.12",
        "python_version": "3.13.5",
        "command_line": ["quiet"],
        "packages": [{"name": "less", "version": "668-1"}],
        "digests": digests_of(folder),
    }
    (folder / RECORD).write_text(json.dumps(record))
    image = store.present(key, arch)
    assert image is not None
    return image


@pytest.fixture
def images() -> tuple[Image, Image]:
    """The current one and an old one."""
    return made(store.key_of(store.DEFINITION), "x86_64"), made("0ld", "x86_64")


def save(key: str, image: str, build: str = "", resident: str = "") -> State:
    build = build or build_of(emulator("x86_64"))
    state = State(key, "x86_64", "tcg", 512 << 20, 1, image, build, 1.0, resident)
    with states.draft(state) as draft, draft.open("ab") as file:
        file.write(b"memory")
    return state


def test_an_image_is_as_built_until_one_byte_of_it_changes(images: tuple[Image, Image]) -> None:
    current, _ = images
    assert run("verify").exit_code == 0
    content = bytearray(current.root.read_bytes())
    content[3] ^= 1
    current.root.write_bytes(content)
    done = run("verify")
    assert done.exit_code == 1
    assert f"{current.directory.name}: damaged" in done.stdout
    assert f"{current.root}: SHA-256" in done.stdout
    assert "0ld-x86_64: as built" in done.stdout
    assert run("verify", "0ld").exit_code == 0
    (damaged,) = json.loads(run("verify", "x86_64", "--json").stdout)
    assert len(damaged["damage"]) == 1


def test_a_missing_file_and_a_record_without_digests_are_damage(images: tuple[Image, Image]) -> None:
    current, old = images
    (current.directory / "python/paths").unlink()
    assert current.damage() == [f"{current.directory / 'python/paths'}: is not there"]
    assert "knows no digests" in replace(old, digests={}).damage()[0]


def test_inspect_tells_all_that_went_into_an_image(images: tuple[Image, Image]) -> None:
    current, _ = images
    said = run("inspect", "x86_64").stdout
    assert current.key in said
    assert "  less 668-1" in said
    plain = json.loads(run("inspect", "0ld-x86_64", "--json").stdout)
    assert (plain["key"], plain["current"], plain["command_line"]) == ("0ld", False, ["quiet"])
    assert plain["packages"] == [{"name": "less", "version": "668-1"}]


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("aarch64", "found no image for aarch64", "image build aarch64"),
        ("0ld-x86_63", "found no image '0ld-x86_63'", "did you mean '0ld-x86_64'"),
    ],
)
def test_an_image_that_is_not_there_is_wrong_input(
    images: tuple[Image, Image], word: str, message: str, hint: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run("inspect", word)
    assert hint in caught.value.hint


def test_prune_removes_what_nothing_starts_from_and_nothing_else(images: tuple[Image, Image], cache: Path) -> None:
    current, old = images
    left = store.store() / f"{store.UNFINISHED}abc"
    left.mkdir()
    good = save("good", current.key)
    save("other-image", "0ld")
    save("other-qemu", current.key, "/usr/bin/qemu 1 2")
    save("other-code", current.key, resident="0ld")
    dry = run("prune", "--dry-run")
    assert "0ld-x86_64" in dry.stdout
    assert old.directory.exists()
    assert left.exists()
    done = run("prune")
    assert sorted(line.split(":")[0] for line in done.stdout.splitlines()) == [
        "0ld-x86_64",
        "state other-code (x86_64)",
        "state other-image (x86_64)",
        "state other-qemu (x86_64)",
    ]
    assert store.images() == [current]
    assert states.states() == [good]
    assert not left.exists()
    assert run("prune", "--all").exit_code == 0
    assert (store.images(), states.states()) == ([], [])


def test_a_state_is_of_use_while_the_code_in_it_is_that_of_the_guests(
    images: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    current, _ = images
    monkeypatch.setattr(deployment, "compile_tree", lambda image, sources: b"compiled")
    with_code = deployment.resident(deployment.archive(current, lambda _: None))
    save("good", current.key, resident=with_code.key)
    assert json.loads(run("list", "--json").stdout)["states"][0]["current"]
    monkeypatch.setattr(deployment, "compile_tree", lambda image, sources: b"compiled of other sources")
    monkeypatch.setattr(deployment, "_hash", lambda folder: "changed")
    assert not json.loads(run("list", "--json").stdout)["states"][0]["current"]
    deployment.archive(current, lambda _: None)
    assert not json.loads(run("list", "--json").stdout)["states"][0]["current"]


def test_the_list_shows_images_and_states_and_which_are_of_use(images: tuple[Image, Image]) -> None:
    current, _ = images
    save("good", current.key)
    save("bad", "0ld")
    plain = json.loads(run("list", "--json").stdout)
    assert {row["key"]: row["current"] for row in plain["images"]} == {current.key: True, "0ld": False}
    assert {row["key"]: row["current"] for row in plain["states"]} == {"good": True, "bad": False}
    lines = run("list").stdout.splitlines()
    assert [line[0] for line in lines].count("*") == 2
    assert any("state of 0ld" in line for line in lines)
