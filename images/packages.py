"""From a list of packages to a folder with their files, for any instruction set, without running one of its programs.

mmdebstrap's variant `extract` lets apt find and verify the packages and unpacks them; no maintainer script runs. It
chooses the mirror itself, and works as root and, in a user namespace, as an ordinary user. Its result comes as a tar
stream, so that in both cases we unpack what we want as ourselves and can remove it again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from images.definition import Architecture, Definition
from images.errors import HostError
from images.program import failed, started

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_CACHE = "var/cache/apt"
PROVIDED = """Package: {name}
Status: install ok installed
Architecture: all
Multi-Arch: foreign
Version: 1:9999
Maintainer: testbed
Description: not part of this image

"""


HINTS = {
    b"Temporary failure resolving": "is there a network? Packages come from the distribution's mirror",
    b"Could not connect": "is there a network, or a proxy that apt should be told of (http_proxy)?",
    b"Failed to fetch": "is there a network, or a proxy that apt should be told of (http_proxy)?",
    b"Unable to locate package": "see `packages` and `kernel` in the image definition",
    b"unmet dependencies": "see `packages` and `provided` in the image definition",
    b"subuid": "an ordinary user needs uidmap and a line in /etc/subuid and /etc/subgid: sudo usermod "
    "--add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
    b"No space left": "mmdebstrap works in TMPDIR, where an image takes 400 MB for a while",
}


@dataclass(frozen=True)
class Package:
    """One package that went into an image."""

    name: str
    version: str


def unpack(definition: Definition, arch: Architecture, target: Path) -> list[Package]:
    """Unpacks the packages of `definition` into `target`, an empty folder; returns what they were, sorted.

    Raises HostError when mmdebstrap is missing or fails (no network, unknown package, full disk).
    """
    if not KEYRING.exists():
        raise HostError(f"{KEYRING} is not there", "sudo apt-get install debian-archive-keyring")
    with tempfile.NamedTemporaryFile("w", prefix="status-") as status, tempfile.TemporaryFile() as messages:
        status.write("".join(PROVIDED.format(name=name) for name in definition.provided))
        status.flush()
        Path(status.name).chmod(0o644)
        _pipe(_mmdebstrap(definition, arch, status.name), _tar(definition, target), messages.fileno())
    packages = sorted(
        (_package(deb.name) for deb in (target / APT_CACHE / "archives").glob("*.deb")),
        key=lambda package: package.name,
    )
    # apt's caches name the temporary folder that they were made in, and nothing reads them again.
    shutil.rmtree(target / APT_CACHE)
    return packages


def _mmdebstrap(definition: Definition, arch: Architecture, status: str) -> list[str]:
    return [
        "mmdebstrap",
        "--mode=root" if os.geteuid() == 0 else "--mode=unshare",
        "--variant=extract",
        "--format=tar",
        f"--architectures={arch.debian}",
        f"--keyring={KEYRING}",
        # We name the keyring, and the archives that stay behind tell which versions were taken.
        "--skip=check/signed-by,cleanup/apt/cache",
        f"--setup-hook=upload {status} /var/lib/dpkg/status",
        f"--include={','.join((arch.kernel, *definition.packages))}",
        definition.suite,
        "-",
    ]


def _tar(definition: Definition, target: Path) -> list[str]:
    excluded = [f"--exclude={pattern}" for pattern in definition.omitted]
    return ["tar", "--extract", "--no-same-owner", "--preserve-permissions", f"--directory={target}", *excluded]


def _pipe(producer: list[str], consumer: list[str], messages: int) -> None:
    """Runs producer | consumer; the producer's failure is told before that of the consumer, who only follows it."""
    with (
        started(producer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages) as first,
        started(consumer, stdin=first.stdout, stderr=messages) as second,
    ):
        # Ours closed, so that the producer is told when the consumer ends early.
        assert first.stdout is not None
        first.stdout.close()
        second.wait()
        code = first.wait()
    if code or second.returncode:
        os.lseek(messages, 0, os.SEEK_SET)
        with open(messages, "rb", closefd=False) as file:
            printed = file.read()
        name = producer[0] if code else consumer[0]
        raise failed(name, code or second.returncode, printed, _hint(printed))


def _hint(printed: bytes) -> str:
    """What to do about the usual failures of mmdebstrap, by the words that it and apt use."""
    for words, hint in HINTS.items():
        if words in printed:
            return hint
    return "the last lines say why; mmdebstrap works in TMPDIR, where an image takes 400 MB for a while"


def _package(archive: str) -> Package:
    """`NAME_VERSION_ARCH.deb`, as apt names the files in its cache (with %xx for characters such as the colon)."""
    match = re.fullmatch(r"([^_]+)_([^_]+)_[^_]+\.deb", archive)
    if not match:
        raise ValueError(f"{archive!r}: expected NAME_VERSION_ARCH.deb")
    return Package(match[1], urllib.parse.unquote(match[2]))
