"""Cloud images: what a definition may say, digests that are compared, and a store that keeps whole ones."""

import contextlib
import hashlib
import http.server
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from images import store
from images.cloud import supply
from images.cloud.definition import load
from images.cloud.fetch import CHUNK_BYTES
from images.cloud.image import CloudImage
from images.errors import Failure, HostError
from orchestrator.cli import application
from orchestrator.errors import InputError

MIB = 1 << 20
HOST = "127.0.0.1"
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-utils is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/testbed/images"


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 file of some MiB, with bytes that no two places share."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-utils is not installed")
    folder = tmp_path_factory.mktemp("disk")
    (folder / "raw").write_bytes(os.urandom(3 * MIB))
    qcow2: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "raw", folder / "disk.qcow2"]
    subprocess.run(qcow2, check=True)
    return folder / "disk.qcow2"


def described(folder: Path, source: str | Path, content: bytes, **more: str) -> Path:
    """A definition of an image for x86_64, with the right digest unless `more` has one."""
    digest = more or {"sha256": hashlib.sha256(content).hexdigest()}
    file = folder / "cloud.yaml"
    settings = {"source": str(source), **digest}
    file.write_text(f"kind: cloud-image\narchitectures:\n  x86_64: {json.dumps(settings)}\n")
    return file


def ensure(definition: Path, **options: Any) -> CloudImage:
    said: list[str] = []
    return supply.ensure_cloud(["x86_64"], said.append, definition=definition, **options)["x86_64"]


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; breaks off after `most` bytes, once; notes the ranges that were asked for.

    At the byte `held_at` it waits, and says that it is held, until it is released.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__((HOST, 0), Handler)
        self.content, self.most, self.ranges = content, 0, list[str | None]()
        self.understands_ranges = True
        self.held_at: int | None = None
        self.held, self.released = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/disk.qcow2"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass

    def do_GET(self) -> None:
        content, wanted = self.server.content, self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = 0
        if wanted and self.server.understands_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.server.most:
            end, self.server.most = start + self.server.most, 0
        if (held_at := self.server.held_at) is not None:
            self.wfile.write(content[start:held_at])
            self.wfile.flush()
            start = held_at
            self.server.held.set()
            self.server.released.wait()
        with contextlib.suppress(OSError):  # whoever was killed does not listen
            self.wfile.write(content[start:end])


@pytest.fixture
def server(disk: Path) -> Iterator[Server]:
    with Server(disk.read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: cloud-image\n", "`architectures` is None"),
        ("kind: cloud-image\narchitectures: {riscv64: {}}\n", r"architectures.riscv64, expected x86_64 or aarch64"),
        ("kind: cloud-image\narchitectures: {x86_64: {source: a}}\n", "found no digest, expected sha256 or sha512"),
        ("kind: cloud-image\narchitectures: {x86_64: {source: a, sha256: abc}}\n", "'abc', expected 64 hex"),
        ("kind: cloud-image\narchitectures: {x86_64: {source: a, md5: abc}}\n", "found `md5`"),
        ("kind: cloud-image\narchitectures: {x86_64: {sha256: abc}}\n", "expected `source: PATH-OR-URL`"),
        ("kind: cloud-image\nsuite: x\narchitectures: {}\n", "found `suite`"),
        ("kind: cloud-image\narchitectures: [\n", "not a readable image definition"),
        (
            f"kind: cloud-image\narchitectures: {{x86_64: {{source: 'file:///etc/passwd', sha256: {'ab' * 32}}}}}\n",
            "http",
        ),
    ],
)
def test_what_is_wrong_in_a_definition_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "cloud.yaml"
    file.write_text(text)
    with pytest.raises(Failure, match=told) as caught:
        load(file)
    assert str(file) in caught.value.message


def test_a_path_is_relative_to_its_definition_and_capitals_are_digits(tmp_path: Path) -> None:
    source = load(described(tmp_path, "images/disk.qcow2", b"", sha256="AB" * 32))["x86_64"]
    assert source.location == str(tmp_path / "images/disk.qcow2")
    assert source.digest == "ab" * 32
    assert not source.remote


def test_the_key_follows_the_digest_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = load(described(tmp_path, "a.qcow2", b"content"))["x86_64"]
    assert load(described(tmp_path / "other", "b.qcow2", b"content"))["x86_64"].key == one.key
    assert load(described(tmp_path, "a.qcow2", b"changed"))["x86_64"].key != one.key


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_file_is_copied_compared_and_found_again(cache: Path, tmp_path: Path, disk: Path, algorithm: str) -> None:
    digest = hashlib.new(algorithm, disk.read_bytes()).hexdigest()
    definition = described(tmp_path, disk, b"", **{algorithm: digest})
    image = ensure(definition)
    assert image.disk.read_bytes() == disk.read_bytes()
    assert image.disk.stat().st_mode & 0o222 == 0
    assert image.virtual_bytes == 3 * MIB
    assert image.checked == f"{algorithm}:{digest}"
    assert image.damage() == []
    assert store.images() == [image]
    moved = disk.rename(disk.with_name("away.qcow2"))
    try:
        assert ensure(definition) == image, "the source is not looked at again"
    finally:
        moved.rename(disk)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_wrong_digest_is_refused_and_nothing_is_kept(
    cache: Path, tmp_path: Path, server: Server, algorithm: str
) -> None:
    right = hashlib.new(algorithm, server.content).hexdigest()
    wrong = ("1" if right[0] == "0" else "0") + right[1:]
    definition = described(tmp_path, server.url, b"", **{algorithm: wrong})
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            ensure(definition)
        assert f"found {algorithm} {right}, expected {wrong}" in caught.value.message
        assert [file.name for file in cache.iterdir()] == ["build.lock"]
    assert server.ranges == [None, None]
    assert store.images() == []
    with pytest.raises(Failure, match="may be downloaded"):
        ensure(definition, offline=True)


def test_an_interrupted_download_goes_on_where_it_was(cache: Path, tmp_path: Path, server: Server) -> None:
    definition = described(tmp_path, server.url, server.content)
    server.most = CHUNK_BYTES + 70000
    with pytest.raises(HostError, match="the next attempt goes on from there"):
        ensure(definition)
    assert store.images() == []
    (partial,) = cache.glob(f"{store.PARTIAL}*")
    begun = partial.stat().st_size
    assert 0 < begun < len(server.content)
    image = ensure(definition)
    assert server.ranges == [None, f"bytes={begun}-"]
    assert image.disk.read_bytes() == server.content
    assert not list(cache.glob(f"{store.PARTIAL}*"))


def test_a_server_without_ranges_begins_anew(cache: Path, tmp_path: Path, server: Server) -> None:
    definition = described(tmp_path, server.url, server.content)
    server.most, server.understands_ranges = CHUNK_BYTES, False
    with pytest.raises(HostError):
        ensure(definition)
    assert ensure(definition).disk.read_bytes() == server.content


@pytest.mark.parametrize("left", [b"not the beginning", b"x" * (5 * MIB)])
def test_what_does_not_go_with_the_rest_is_downloaded_anew(
    cache: Path, tmp_path: Path, server: Server, left: bytes
) -> None:
    definition = described(tmp_path, server.url, server.content)
    source = load(definition)["x86_64"]
    cache.mkdir(parents=True)
    (cache / f"{store.PARTIAL}{source.key}-x86_64").write_bytes(left)
    assert ensure(definition).disk.read_bytes() == server.content


def test_no_server_is_an_error_of_the_host(cache: Path, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        url = f"http://{HOST}:{nobody.getsockname()[1]}/disk.qcow2"
        with pytest.raises(HostError, match=r"cannot be downloaded: .*refused"):
            ensure(described(tmp_path, url, b""))
    assert store.images() == []


def test_offline_asks_no_server_and_says_what_is_missing(cache: Path, tmp_path: Path, server: Server) -> None:
    definition = described(tmp_path, server.url, server.content)
    with pytest.raises(Failure, match=rf"no image for x86_64 \({server.url}\)") as caught:
        ensure(definition, offline=True)
    assert f"testbed image build --definition {definition}" in caught.value.hint
    assert server.ranges == []
    image = ensure(definition)
    assert ensure(definition, offline=True) == image
    assert len(server.ranges) == 1


def test_offline_a_file_of_this_host_is_taken(cache: Path, tmp_path: Path, disk: Path) -> None:
    assert ensure(described(tmp_path, disk, disk.read_bytes()), offline=True).virtual_bytes == 3 * MIB


def test_a_file_that_is_no_qcow2_is_refused(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"\0" * MIB)
    with pytest.raises(Failure, match="expected a qcow2 file"):
        ensure(described(tmp_path, file, file.read_bytes()))
    assert [file.name for file in cache.iterdir()] == ["build.lock"]


@needs_qemu_img
def test_an_image_that_would_read_other_files_of_the_host_is_refused(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "overlay.qcow2"
    make: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
        file,
        "1M",
    ]
    subprocess.run(make, check=True)
    with pytest.raises(Failure, match=r"backing file \(/etc/shadow\)"):
        ensure(described(tmp_path, file, file.read_bytes()))
    assert store.images() == []


def _fetch_for_ever(definition: Path) -> None:
    ensure(definition)


@pytest.mark.parametrize("moment", [0, 1, CHUNK_BYTES + 65536, 3 * MIB])
def test_whatever_a_killed_download_leaves_is_no_image(
    cache: Path, tmp_path: Path, server: Server, moment: int
) -> None:
    definition = described(tmp_path, server.url, server.content)
    server.held_at = moment
    child = multiprocessing.get_context("spawn").Process(target=_fetch_for_ever, args=(definition,))
    child.start()
    assert server.held.wait(30)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert store.images() == []
    assert store.there("x86_64", definition) is None
    server.held_at = None
    server.released.set()
    image = ensure(definition)
    assert image.disk.read_bytes() == server.content
    assert {file.name for file in cache.iterdir()} == {"build.lock", image.directory.name}


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: os.truncate(image.disk, 1000),
        lambda image: image.disk.unlink(),
        lambda image: (image.directory / "image.json").write_text('{"kind": "cloud-image", "key"'),
        lambda image: (image.directory / "image.json").unlink(),
        lambda image: (image.directory / "image.json").write_text("[]"),
    ],
)
def test_a_torn_image_is_not_there_and_is_fetched_again(cache: Path, tmp_path: Path, disk: Path, damage: Any) -> None:
    definition = described(tmp_path, disk, disk.read_bytes())
    image = ensure(definition)
    image.disk.chmod(0o600)
    damage(image)
    assert store.images() == []
    assert store.broken() == [image.directory]
    again = ensure(definition)
    assert again.disk.read_bytes() == disk.read_bytes()
    assert store.broken() == []


def test_a_changed_byte_is_found_by_looking_closely(cache: Path, tmp_path: Path, disk: Path) -> None:
    image = ensure(described(tmp_path, disk, disk.read_bytes()))
    image.disk.chmod(0o600)
    with image.disk.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"\0\0")
    (line,) = image.damage()
    assert "disk.qcow2" in line


def test_an_image_is_of_use_while_a_definition_asks_for_it(cache: Path, tmp_path: Path, disk: Path) -> None:
    content = disk.read_bytes()
    (tmp_path / "second").mkdir()
    first = described(tmp_path, disk, content)
    ensure(first)
    second = described(tmp_path / "second", disk, content)
    image = ensure(second)
    assert image.definitions == (str(first), str(second))
    first.unlink()
    assert supply.of_use(image)
    described(tmp_path / "second", disk, b"another")
    assert not supply.of_use(image)


def test_an_architecture_that_a_definition_lacks_is_named(cache: Path, tmp_path: Path, disk: Path) -> None:
    with pytest.raises(Failure, match="no image for aarch64, there are: x86_64"):
        supply.ensure_cloud(["aarch64"], print, definition=described(tmp_path, disk, disk.read_bytes()))


def test_progress_is_told_when_it_takes_long(
    cache: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("images.cloud.fetch.SAY_S", 0.0)
    said: list[str] = []
    supply.ensure_cloud(["x86_64"], said.append, definition=described(tmp_path, server.url, server.content))
    assert f"{server.url}: 1 of 3 MiB" in said


def command(*words: str) -> Result:
    return CliRunner().invoke(application(["image"]), ["image", *words])


def test_the_commands_for_images_know_cloud_images(cache: Path, tmp_path: Path, server: Server) -> None:
    definition = described(tmp_path, server.url, server.content)
    missing = command("build", "--definition", str(definition), "--offline")
    assert isinstance(missing.exception, Failure)
    assert server.url in missing.exception.message
    assert server.ranges == []
    built = command("build", "--definition", str(definition))
    key = load(definition)["x86_64"].key
    assert built.stdout == f"x86_64 {cache / key}-x86_64\n"
    listed = json.loads(command("list", "--json").stdout)["images"]
    assert [(row["key"], row["source"], row["current"]) for row in listed] == [(key, server.url, True)]
    shown = command("inspect", key)
    assert f"sha256:{hashlib.sha256(server.content).hexdigest()}" in shown.stdout
    assert str(definition) in shown.stdout
    assert command("verify").stdout == f"{key}-x86_64: as built\n"
    assert key not in command("prune").stdout
    assert store.there("x86_64", definition) is not None
    definition.unlink()
    assert key in command("prune").stdout
    assert store.images() == []


def test_verify_and_prune_know_of_torn_images(cache: Path, tmp_path: Path, disk: Path) -> None:
    image = ensure(described(tmp_path, disk, disk.read_bytes()))
    image.disk.unlink()
    verified = command("verify")
    assert verified.exit_code == 1
    assert f"{image.directory.name}: damaged" in verified.stdout
    assert command("prune").exit_code == 0
    assert not image.directory.exists()


def test_prune_takes_what_was_left_of_downloads(cache: Path, tmp_path: Path, server: Server) -> None:
    server.most = CHUNK_BYTES
    with pytest.raises(HostError):
        ensure(described(tmp_path, server.url, server.content))
    assert list(cache.glob(f"{store.PARTIAL}*"))
    assert command("prune").exit_code == 0
    assert not list(cache.glob(f"{store.PARTIAL}*"))


def test_a_definition_that_is_wrong_is_wrong_input(cache: Path, tmp_path: Path, disk: Path) -> None:
    definition = described(tmp_path, disk, disk.read_bytes())
    other = command("build", "aarch64", "--definition", str(definition))
    assert isinstance(other.exception, InputError)
    assert other.exception.message == f"{definition}: found no aarch64 in it, expected x86_64"
    for text in (definition.read_text().replace('"sha256": "', '"sha256": "x'), "suite: trixie\n"):
        definition.write_text(text)
        wrong = command("build", "--definition", str(definition))
        assert isinstance(wrong.exception, InputError)
        assert definition.name in wrong.exception.message
    assert not cache.exists()


def test_an_unknown_definition_is_an_error_with_a_hint(cache: Path) -> None:
    wrong = command("build", "--definition", "nunpy")
    assert isinstance(wrong.exception, InputError)
    assert wrong.exception.hint == "did you mean 'numpy'?"
