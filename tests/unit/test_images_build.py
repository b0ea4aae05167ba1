"""From definition and packages to the parts of an image, each with what it says when it goes wrong."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from images import bytecode, packages
from images.definition import load
from images.errors import Failure, HostError
from images.image import Image
from images.program import run
from images.root import _alternatives
from images.store import DEFINITION, HERE

FLAGS = slice(4, 8)  # of a .pyc: 1 = named by a hash of the source, 2 = and checked against it (PEP 552)


def test_the_default_definition_has_both_architectures() -> None:
    definition = load(DEFINITION)
    assert list(definition.architectures) == ["x86_64", "aarch64"]
    for arch in definition.architectures.values():
        assert "quiet" in arch.command_line
    assert "console=ttyAMA0" in definition.architectures["aarch64"].command_line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("suite: trixie", "suiet: trixie", "the key `suite` is missing"),
        ("suite: trixie", "suite: trixie\ncolour: red", "unknown keys: colour"),
        ("suite: trixie", "suite: 13", "`suite` is 13, expected str"),
        ("  root: [vfio-pci", "  root: [1", r"modules: `root` is \[1"),
        ("    debian: arm64\n", "", "architectures.aarch64: the key `debian` is missing"),
        ("suite: trixie", "suite: [", "not a readable image definition"),
    ],
)
def test_a_wrong_definition_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = DEFINITION.read_text()
    assert old in text
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(Failure, match=message) as caught:
        load(file)
    assert str(file) in caught.value.message


def test_a_definition_may_add_to_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(DEFINITION.read_text())
    more = tmp_path / "more.yaml"
    more.write_text("extends: base.yaml\npackages: [python3-numpy]\n")
    assert load(more).packages == (*load(DEFINITION).packages, "python3-numpy")
    assert load(more).suite == "trixie"
    more.write_text("extends: base.yaml\nsuite: sid\n")
    with pytest.raises(Failure, match="found `suite`, expected lists of packages, provided or omitted, to add"):
        load(more)


def test_the_kind_of_a_library_that_a_package_brings_is_linked(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib"
    (folder / "blas").mkdir(parents=True)
    (folder / "blas" / "libblas.so.3").touch()
    _alternatives(folder)
    _alternatives(folder)
    assert (folder / "libblas.so.3").resolve() == folder / "blas" / "libblas.so.3"


@pytest.mark.parametrize("script", ["init", "initramfs-init"])
def test_the_guests_scripts_are_valid_shell(script: str) -> None:
    subprocess.run(["sh", "-n", HERE / "files" / script], check=True)


def fake_mmdebstrap(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    keyring = folder / "keyring"
    keyring.touch()
    monkeypatch.setattr(packages, "KEYRING", keyring)


def unpack(target: Path) -> list[packages.Package]:
    definition = load(DEFINITION)
    target.mkdir()
    return packages.unpack(definition, definition.architectures["aarch64"], target)


def test_packages_are_unpacked_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    archives = tree / "var/cache/apt/archives"
    for folder in (archives, tree / "usr/bin", tree / "usr/share/doc/x"):
        folder.mkdir(parents=True)
    (tree / "usr/bin/less").write_text("less")
    for name in ("less_668-1_arm64.deb", "libc6_2.41-12_arm64.deb", "kmod_1%3a34.2-2_arm64.deb"):
        (archives / name).touch()
    fake_mmdebstrap(tmp_path, monkeypatch, f"exec tar -C {tree} -c .")
    found = unpack(tmp_path / "root")
    assert found == [
        packages.Package("kmod", "1:34.2-2"),
        packages.Package("less", "668-1"),
        packages.Package("libc6", "2.41-12"),
    ]
    assert (tmp_path / "root/usr/bin/less").exists()
    assert not (tmp_path / "root/usr/share/doc").exists()
    assert not (tmp_path / "root/var/cache/apt").exists()


def test_a_failing_download_shows_the_last_lines_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mmdebstrap(tmp_path, monkeypatch, "echo 'E: Unable to locate package lesss' >&2; exit 25")
    with pytest.raises(HostError, match=r"mmdebstrap ended with code 25:\n +E: Unable to locate") as caught:
        unpack(tmp_path / "root")
    assert "packages" in caught.value.hint


def test_programs_of_the_system_are_found_by_an_ordinary_user_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # where depmod is not
    assert run(["depmod", "--version"]).startswith(b"kmod version")


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match=r"mkfs\.erofs is not installed") as caught:
        run(["mkfs.erofs", "--help"])
    assert caught.value.hint == "sudo apt-get install erofs-utils"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image whose interpreter is the host's own Python, run through the host's dynamic linker."""
    root = tmp_path / "image/python"
    root.mkdir(parents=True)
    (root / "usr").symlink_to("/usr")
    arch = load(DEFINITION).architectures[bytecode.native()]
    (root / "paths").write_text(f"{arch.interpreter}\n{arch.libraries}\n")
    linker = root / arch.interpreter
    if not linker.exists():
        pytest.fail(f"{linker} is not there: this test wants a merged /usr")
    directory = tmp_path / "image"
    return Image(bytecode.native(), "0", directory, directory, directory, directory, "6.12", "3", ())


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    tree = tmp_path / "guest"
    (tree / "sub/__pycache__").mkdir(parents=True)
    (tree / "sub/__pycache__/old.cpython-39.pyc").touch()
    (tree / "__init__.py").write_text("")
    (tree / "sub/daemon.py").write_text("def fault(page):\n    return page + 1\n")
    (tree / "table.json").write_text("{}")
    return tree


def test_compiled_code_is_taken_without_looking_at_its_source(image: Image, sources: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(bytecode.compile_tree(image, sources))) as archive:
        names = archive.getnames()
        compiled = [name for name in names if name.startswith("guest/sub/__pycache__/daemon.cpython-3")]
        file = archive.extractfile(compiled[0])
        assert file
        assert file.read()[FLAGS] == (1).to_bytes(4, "little")
    assert "guest/sub/daemon.py" in names
    assert "guest/table.json" in names
    assert "guest/sub/__pycache__/old.cpython-39.pyc" not in names


def test_the_same_sources_give_the_same_archive(image: Image, sources: Path) -> None:
    first = bytecode.compile_tree(image, sources)
    (sources / "__init__.py").touch()
    assert bytecode.compile_tree(image, sources) == first


def test_a_source_that_does_not_compile_is_shown(image: Image, sources: Path) -> None:
    (sources / "sub/daemon.py").write_text("def fault(:\n")
    with pytest.raises(Failure, match=r"guest/sub/daemon\.py"):
        bytecode.compile_tree(image, sources)


def test_an_image_of_another_isa_cannot_compile(image: Image, sources: Path) -> None:
    (image.directory / "python").rename(image.directory / "gone")
    with pytest.raises(Failure, match="no interpreter for this host") as caught:
        bytecode.compile_tree(image, sources)
    assert bytecode.native() in caught.value.hint
