"""Compiled Python for the guests, made on the host by the interpreter that the guests run.

Compiling in an emulated guest takes minutes. The image of the host's own ISA has an interpreter that the host can run
through the image's own dynamic linker, without emulation; bytecode does not depend on the instruction set, so it
compiles for all of them. The files say `unchecked-hash`: Python takes them without looking at their sources' times.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from images.definition import Architecture
from images.errors import Failure
from images.image import Image
from images.program import run

PROGRAM = Path(__file__).parent / "files" / "compile.py"
# A file's bytecode may depend on the files compiled before it in the same process (which strings are shared), so the
# number of processes is fixed, whatever the number of cores.
PROCESSES = 4


@dataclass(frozen=True)
class Interpreter:
    """A guest's Python that runs on the host: `root` has its files, the other two are relative to it."""

    root: Path
    linker: str
    libraries: str

    def version(self) -> str:
        """As in `sys.version`: "3.13.5"."""
        return self._run(["-c", "import platform; print(platform.python_version())"]).decode().strip()

    def compile(self, folder: Path, files: Iterable[str], prefix: str) -> None:
        """Writes the .pyc of every one of `files` (relative to `folder`) into its __pycache__.

        Tracebacks show the files under `prefix`. Files that are not Python 3 (templates, test data) are left out.
        """
        ordered = sorted(files)
        parts = [ordered[start::PROCESSES] for start in range(PROCESSES)]
        with ThreadPoolExecutor(PROCESSES) as pool:
            list(pool.map(lambda part: self._compile(folder, part, prefix), parts))

    def _compile(self, folder: Path, files: list[str], prefix: str) -> None:
        self._run([str(PROGRAM), str(folder), prefix], stdin="\n".join(files).encode())

    def _run(self, arguments: list[str], stdin: bytes = b"") -> bytes:
        linker: list[str | Path] = [self.root / self.linker, "--library-path", self.root / self.libraries]
        # The locale, the user's own modules and the seed of hashing must not show in the result.
        environment = {"PYTHONHOME": str(self.root / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        program = self.root / "usr/bin/python3"
        return run([*linker, program, "-S", "-B", *arguments], stdin=stdin, environment=environment)


def native() -> str:
    """The host's instruction set, in the words of the definition."""
    return platform.machine()


def interpreter_of(image: Image) -> Interpreter:
    """The interpreter that `image` keeps for the host. Raises Failure when the image is of another ISA."""
    root = image.host_python
    if not root.is_dir():
        raise Failure(
            f"image {image.directory.name} has no interpreter for this host ({native()})",
            f"pass the image of {native()}",
        )
    linker, libraries = (root / "paths").read_text().split()
    return Interpreter(root, linker, libraries)


def keep_interpreter(root: Path, arch: Architecture, target: Path) -> None:
    """Copies what the interpreter in `root` needs on the host to `target`."""
    (target / "usr/bin").mkdir(parents=True)
    (target / arch.libraries).mkdir(parents=True)
    (target / arch.interpreter).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / arch.interpreter, target / arch.interpreter)
    shutil.copy2(root / "usr/bin/python3", target / "usr/bin/python3")
    for pattern in ("libc.so.*", "libm.so.*", "libz.so.*", "libexpat.so.*"):
        for library in (root / arch.libraries).glob(pattern):
            shutil.copy2(library, target / arch.libraries / library.name)
    standard = _standard_library(root)
    shutil.copytree(standard, target / standard.relative_to(root), symlinks=True)
    (target / "paths").write_text(f"{arch.interpreter}\n{arch.libraries}\n")


def _standard_library(root: Path) -> Path:
    folders = sorted((root / "usr/lib").glob("python3.[0-9]*"))
    if len(folders) != 1:
        raise Failure(f"{root}/usr/lib: expected one python3.N, found {[folder.name for folder in folders]}")
    return folders[0]


def compile_standard_library(interpreter: Interpreter, root: Path, compiled: Path | None) -> str:
    """Compiles the standard library in `root`, and what packages add to it.

    Takes what `compiled`, another root, has compiled of the former already. Returns the version's first two parts
    ("3.13"). Raises Failure when the two roots have different ones.
    """
    library = _standard_library(root)
    files = sorted(str(file.relative_to(library)) for file in library.rglob("*.py"))
    if compiled:
        other = _standard_library(compiled)
        if other.name != library.name:
            raise Failure(f"the images have different Pythons: {library.name} and {other.name}", "build both anew")
        files = [file for file in files if not _take(other / file, library / file)]
    interpreter.compile(library, files, f"/usr/lib/{library.name}")
    packages = root / "usr/lib/python3/dist-packages"
    others = [str(file.relative_to(packages)) for file in packages.rglob("*.py")]
    if others:
        interpreter.compile(packages, others, "/usr/lib/python3/dist-packages")
    return library.name.removeprefix("python")


def _take(source: Path, target: Path) -> bool:
    """Copies the .pyc of `source` to `target` when both are the same; tells whether it could."""
    compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"))
    if len(compiled) != 1 or not source.exists() or source.read_bytes() != target.read_bytes():
        return False
    cache = target.parent / "__pycache__"
    cache.mkdir(exist_ok=True)
    shutil.copyfile(compiled[0], cache / compiled[0].name)
    return True


def compile_tree(image: Image, sources: Path) -> bytes:
    """A tar archive of the Python files below `sources`, with the bytecode that the guests' Python takes unchecked.

    `image` is the image of the host's ISA. Paths in the archive start with the name of `sources`; hidden files and
    caches stay out. Raises Failure when a file does not compile.
    """
    interpreter = interpreter_of(image)
    with tempfile.TemporaryDirectory(prefix="compile-") as temporary:
        tree = Path(temporary) / sources.name
        shutil.copytree(sources, tree, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        files = [str(file.relative_to(tree)) for file in tree.rglob("*.py")]
        interpreter.compile(tree, files, sources.name)
        return _archive(tree)


def _archive(tree: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted([tree, *tree.rglob("*")]):
            archive.add(file, os.fspath(file.relative_to(tree.parent)), recursive=False, filter=_plain)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
