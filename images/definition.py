"""Image definitions: YAML files that say which packages, kernel and modules make a guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from images.errors import Failure


@dataclass(frozen=True)
class Architecture:
    """What differs between instruction sets."""

    debian: str
    """Debian's name of the architecture."""
    kernel: str
    """Package that depends on the newest kernel of the flavour."""
    interpreter: str
    """The dynamic linker, relative to the root of the image."""
    libraries: str
    """Folder of the shared libraries, relative to the root of the image."""
    command_line: tuple[str, ...]
    """Kernel arguments of this architecture."""


@dataclass(frozen=True)
class Definition:
    """A whole definition file."""

    suite: str
    source_date_epoch: int
    packages: tuple[str, ...]
    provided: tuple[str, ...]
    omitted: tuple[str, ...]
    initramfs_modules: tuple[str, ...]
    root_modules: tuple[str, ...]
    architectures: Mapping[str, Architecture]


class _Reader:
    """Takes typed values out of one YAML mapping and refuses what nobody asked for."""

    def __init__(self, path: Path, where: str, value: object) -> None:
        self.path, self.where = path, where
        if not isinstance(value, dict):
            raise self.failure(f"found {type(value).__name__}, expected a mapping")
        self.rest: dict[Any, Any] = dict(value)

    def failure(self, what: str) -> Failure:
        return Failure(f"{self.path}: {self.where}: {what}", "images/default.yaml shows every key of a definition")

    def take(self, key: str, kind: type) -> Any:
        if key not in self.rest:
            raise self.failure(f"the key `{key}` is missing")
        value = self.rest.pop(key)
        if not isinstance(value, kind):
            raise self.failure(f"`{key}` is {value!r}, expected {kind.__name__}")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.failure(f"`{key}` is {values!r}, expected a list of strings")
        return tuple(values)

    def close(self) -> None:
        if self.rest:
            raise self.failure(f"unknown keys: {', '.join(map(str, self.rest))}")


def _architecture(path: Path, name: str, value: object) -> Architecture:
    reader = _Reader(path, f"architectures.{name}", value)
    result = Architecture(
        debian=reader.take("debian", str),
        kernel=reader.take("kernel", str),
        interpreter=reader.take("interpreter", str),
        libraries=reader.take("libraries", str),
        command_line=reader.words("command_line"),
    )
    reader.close()
    return result


def _document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise Failure(f"{path}: not a readable image definition: {error}") from error
    return dict(_Reader(path, "top level", document).rest)


def _added(path: Path, base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A definition with lists of another one behind its own."""
    for key, values in more.items():
        if key not in ("packages", "provided", "omitted") or not isinstance(values, list):
            raise Failure(
                f"{path}: found `{key}`, expected lists of packages, provided or omitted, to add to the other"
            )
    return base | {key: [*base.get(key, []), *values] for key, values in more.items()}


def load(path: Path) -> Definition:
    """The definition in `path`. Raises Failure when it is not one."""
    document = _document(path)
    base = document.pop("extends", None)
    if base is not None:
        document = _added(path, _document(path.parent / str(base)), document)
    top = _Reader(path, "top level", document)
    modules = _Reader(path, "modules", top.take("modules", dict))
    common = top.words("command_line")
    architectures = {name: _architecture(path, name, value) for name, value in top.take("architectures", dict).items()}
    definition = Definition(
        suite=top.take("suite", str),
        source_date_epoch=top.take("source_date_epoch", int),
        packages=top.words("packages"),
        provided=top.words("provided"),
        omitted=top.words("omitted"),
        initramfs_modules=modules.words("initramfs"),
        root_modules=modules.words("root"),
        architectures={
            name: Architecture(**{**vars(arch), "command_line": (*arch.command_line, *common)})
            for name, arch in architectures.items()
        },
    )
    modules.close()
    top.close()
    return definition
