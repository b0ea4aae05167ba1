"""Definitions of cloud images: YAML files that say where a qcow2 file is, and what its digest must be."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from images.errors import Failure

KIND = "cloud-image"
DIGESTS = {"sha256": 64, "sha512": 128}
"""Algorithms, and how many hexadecimal digits they give."""
ARCHITECTURES = ("x86_64", "aarch64")
EXAMPLE = f"""kind: {KIND}
architectures:
  x86_64:
    source: downloads/cloud-amd64.qcow2   # relative to this file, or a URL
    sha512: 128 hexadecimal digits"""


@dataclass(frozen=True)
class Source:
    """Where the image of one architecture is: an http(s) URL, or an absolute path; and its digest, in small letters."""

    location: str
    algorithm: str
    digest: str

    @property
    def remote(self) -> bool:
        """Whether it has to be downloaded."""
        return "://" in self.location

    @property
    def key(self) -> str:
        """Names the image in the store: by what it is, wherever it comes from."""
        return hashlib.sha256(f"{KIND} {self.algorithm}:{self.digest}".encode()).hexdigest()[:16]


def load(path: Path) -> Mapping[str, Source]:
    """The sources in `path` by architecture. Raises Failure, which names the file, the place and what was expected."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failure(f"{path}: not a readable image definition: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise _wrong(path, f"found no `kind: {KIND}`, expected it at the top level")
    if unknown := sorted(set(map(str, document)) - {"kind", "architectures"}):
        raise _wrong(path, f"found `{unknown[0]}`, expected `kind` and `architectures` alone")
    architectures = document.get("architectures")
    if not isinstance(architectures, dict) or not architectures:
        raise _wrong(path, f"`architectures` is {architectures!r}, expected a mapping of {' and '.join(ARCHITECTURES)}")
    return {str(name): _source(path, str(name), value) for name, value in architectures.items()}


def _source(path: Path, name: str, value: Any) -> Source:
    where = f"architectures.{name}"
    if name not in ARCHITECTURES:
        raise _wrong(path, f"found {where}, expected {' or '.join(ARCHITECTURES)}")
    if not isinstance(value, dict) or not isinstance(value.get("source"), str) or not value["source"].strip():
        raise _wrong(path, f"{where}: found {value!r}, expected `source: PATH-OR-URL` and a digest")
    given = [algorithm for algorithm in DIGESTS if algorithm in value]
    if unknown := sorted(set(map(str, value)) - {"source", *DIGESTS}):
        raise _wrong(path, f"{where}: found `{unknown[0]}`, expected `source` and {' or '.join(DIGESTS)}")
    if len(given) != 1:
        raise _wrong(path, f"{where}: found {' and '.join(given) or 'no digest'}, expected {' or '.join(DIGESTS)}")
    (algorithm,) = given
    digest = str(value[algorithm]).strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{DIGESTS[algorithm]}}}", digest):
        raise _wrong(
            path, f"{where}.{algorithm}: found {value[algorithm]!r}, expected {DIGESTS[algorithm]} hexadecimal digits"
        )
    return Source(_location(path, where, value["source"].strip()), algorithm, digest)


def _location(path: Path, where: str, source: str) -> str:
    if "://" not in source:
        return str((path.absolute().parent / Path(source).expanduser()).resolve())
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _wrong(path, f"{where}.source: found {source!r}, expected a path, or a URL of http or https")
    return source


def _wrong(path: Path, what: str) -> Failure:
    return Failure(f"{path}: {what}", f"a definition of a cloud image is:\n{EXAMPLE}")
