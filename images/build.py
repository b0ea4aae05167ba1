"""Building images: packages → root file system, initramfs and kernel, for several instruction sets at once."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from images import bytecode, initramfs, kernel, packages, root
from images.definition import Architecture, Definition
from images.errors import Failure
from images.image import RECORD, digests_of, sizes_of
from images.program import run, stop_all

# A file system needs an identifier; made from the image's key, so that the same input gives the same bytes.
NAMESPACE = uuid.UUID("5c1ab3de-6b6c-5a0e-9d5a-3a3d3f3c9a51")


@dataclass(frozen=True)
class Target:
    """One image to build: `directory` is an empty folder of the store, `root` one that is thrown away afterwards."""

    arch: str
    key: str
    directory: Path
    root: Path
    definition: Path
    """The file that says what goes into it."""


def build(
    definition: Definition,
    targets: Mapping[str, Target],
    interpreter: bytecode.Interpreter | None,
    say: Callable[[str], None],
) -> None:
    """Builds all `targets` (by architecture), side by side.

    One of them has to be the host's own, unless `interpreter` comes from an image that is there already: it compiles
    the standard libraries of all. Raises Failure or HostError; the folders are then to be thrown away.
    """
    with ThreadPoolExecutor(len(targets)) as pool:
        try:
            unpacked = list(pool.map(lambda target: _unpack(definition, target, say), targets.values()))
            interpreter = _compile(definition, targets, interpreter, say)
            version = interpreter.version()
            list(
                pool.map(
                    lambda target, found: _finish(definition, target, found, version, say), targets.values(), unpacked
                )
            )
        except BaseException:
            # One has failed, or we are interrupted: do not wait for the others' downloads.
            stop_all()
            raise


def _compile(
    definition: Definition,
    targets: Mapping[str, Target],
    interpreter: bytecode.Interpreter | None,
    say: Callable[[str], None],
) -> bytecode.Interpreter:
    """Compiles the standard libraries of all `targets`; returns the interpreter that did it."""
    native = targets.get(bytecode.native())
    if native:
        interpreter = _native_interpreter(definition, native.root)
        say(f"{native.arch}: compiling Python's standard library")
        bytecode.compile_standard_library(interpreter, native.root, None)
    if interpreter is None:
        raise Failure(f"no image of this host's own instruction set ({bytecode.native()}) to compile Python with")
    for target in targets.values():
        if target is not native:
            say(f"{target.arch}: compiling Python's standard library")
            bytecode.compile_standard_library(interpreter, target.root, native.root if native else interpreter.root)
    return interpreter


def _native_interpreter(definition: Definition, unpacked: Path) -> bytecode.Interpreter:
    arch = definition.architectures[bytecode.native()]
    return bytecode.Interpreter(unpacked, arch.interpreter, arch.libraries)


def _unpack(definition: Definition, target: Target, say: Callable[[str], None]) -> list[packages.Package]:
    begin = time.monotonic()
    say(f"{target.arch}: downloading and unpacking packages of {definition.suite}")
    target.root.mkdir()
    found = packages.unpack(definition, definition.architectures[target.arch], target.root)
    say(f"{target.arch}: {len(found)} packages unpacked in {time.monotonic() - begin:.1f} s")
    return found


def _finish(
    definition: Definition,
    target: Target,
    found: list[packages.Package],
    python_version: str,
    say: Callable[[str], None],
) -> None:
    """From an unpacked root with compiled Python to the files of the image."""
    begin = time.monotonic()
    arch = definition.architectures[target.arch]
    if target.arch == bytecode.native():
        bytecode.keep_interpreter(target.root, arch, target.directory / "python")
    release = _boot_files(definition, target)
    root.configure(target.root, arch)
    _file_system(definition, target)
    record = {
        "arch": target.arch,
        "key": target.key,
        "kernel_release": release,
        "python_version": python_version,
        "command_line": arch.command_line,
        "packages": [asdict(package) for package in found],
        "digests": digests_of(target.directory),
        "sizes": sizes_of(target.directory),
        "definition": str(target.definition),
    }
    (target.directory / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    size = sum(file.stat().st_size for file in target.directory.iterdir() if file.is_file())
    say(f"{target.arch}: image finished in {time.monotonic() - begin:.1f} s, {size // 2**20} MiB")


def _boot_files(definition: Definition, target: Target) -> str:
    """Kernel and initramfs; returns the kernel's release."""
    found = kernel.find(target.root)
    (target.directory / "kernel").write_bytes(kernel.bootable(found.file.read_bytes()))
    wanted = (*definition.initramfs_modules, *definition.root_modules)
    files = kernel.prepare_modules(target.root, found, wanted)
    # Each module once, after what it needs.
    order = list(dict.fromkeys(file for name in definition.initramfs_modules for file in files[name]))
    archive = initramfs.build(target.root / "usr/bin/busybox", found.modules, order)
    (target.directory / "initramfs").write_bytes(archive)
    return found.release


def _file_system(definition: Definition, target: Target) -> None:
    """The root as erofs, uncompressed: the emulated CPU would take longer to unpack than the host's cache to read."""
    run(
        [
            "mkfs.erofs",
            f"-T{definition.source_date_epoch}",
            f"-U{uuid.uuid5(NAMESPACE, f'{target.key} {target.arch}')}",
            "--all-root",
            "-x-1",
            target.directory / "root.erofs",
            target.root,
        ],
        environment={**os.environ, "SOURCE_DATE_EPOCH": str(definition.source_date_epoch)},
    )


def architecture(definition: Definition, name: str) -> Architecture:
    """The architecture called `name`. Raises Failure when the definition has none of that name."""
    if name not in definition.architectures:
        known = ", ".join(definition.architectures)
        raise Failure(f"no image for architecture {name!r}, there are: {known}", "add it to the image definition")
    return definition.architectures[name]
