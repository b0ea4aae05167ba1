"""The kernel and its modules, out of the distribution's package, in the form that starts quickest."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from images.errors import Failure
from images.program import run

# Offsets in the setup header of an x86 kernel: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PAYLOAD = 0x248
SECTOR_BYTES = 512
# The build appends the unpacked size to the compressed payload, for the kernel's own unpacker.
SIZE_BYTES = 4

SIGNATURE_MARKER = b"~Module signature appended~\n"
SIGNATURE_RECORD_BYTES = 12


@dataclass(frozen=True)
class Kernel:
    """A kernel in an unpacked root file system."""

    release: str
    file: Path
    modules: Path


def find(root: Path) -> Kernel:
    """The only kernel in `root`. Raises Failure when there is none, or more than one."""
    files = sorted((root / "boot").glob("vmlinuz-*"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise Failure(f"{root}/boot: found kernels: {names}; expected one", "see the `kernel` keys of the definition")
    release = files[0].name.removeprefix("vmlinuz-")
    return Kernel(release, files[0], root / "usr/lib/modules" / release)


def bootable(data: bytes) -> bytes:
    """The kernel as QEMU is to load it.

    A compressed x86 kernel unpacks itself in the guest, which takes an emulated CPU about a second: we do it here, and
    QEMU starts the plain ELF kernel through its PVH entry. Other kernels (arm64's are plain) stay as they are.
    """
    if data[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        return data
    offset, length = struct.unpack_from("<II", data, PAYLOAD)
    start = (data[SETUP_SECTORS] + 1) * SECTOR_BYTES + offset
    kernel = _decompressed(data[start : start + length - SIZE_BYTES])
    # Without the PVH note QEMU could not start the ELF file; the kernel as packaged always boots.
    return kernel if _has_pvh_note(kernel) else data


def _has_pvh_note(kernel: bytes) -> bool:
    """Whether the ELF kernel has the note XEN_ELFNOTE_PHYS32_ENTRY (type 18, name "Xen")."""
    return kernel.startswith(b"\x7fELF") and struct.pack("<I", 18) + b"Xen\0" in kernel


def _decompressed(payload: bytes) -> bytes:
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return run(["zstd", "-d", "-c", "-q"], stdin=payload)
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    return payload


def prepare_modules(root: Path, kernel: Kernel, wanted: Sequence[str]) -> dict[str, list[str]]:
    """Indexes the modules and unpacks `wanted` and what they need.

    Unpacked files have no signature any more. Returns for each wanted module the files to load, in order, relative to
    the folder of the modules; empty when it is built in. Raises Failure for a module that the kernel does not have.
    """
    run(["depmod", "-b", root, kernel.release])
    needs = _dependencies(kernel.modules / "modules.dep")
    closure = {name: _closure(kernel, needs, name) for name in wanted}
    for file in sorted({file for files in closure.values() for file in files}):
        _unpack_module(kernel.modules / file)
    run(["depmod", "-b", root, kernel.release])
    return {name: [file.removesuffix(".xz") for file in files] for name, files in closure.items()}


def _dependencies(index: Path) -> dict[str, list[str]]:
    """modules.dep: for each module file its dependencies, those first that have to be loaded last."""
    lines = (line.partition(":") for line in index.read_text().splitlines())
    return {file: rest.split() for file, _, rest in lines}


def _module_name(file: str) -> str:
    return Path(file).name.partition(".")[0].replace("-", "_")


def _closure(kernel: Kernel, needs: dict[str, list[str]], name: str) -> list[str]:
    plain = name.replace("-", "_")
    for file, dependencies in needs.items():
        if _module_name(file) == plain:
            return [*reversed(dependencies), file]
    built_in = (kernel.modules / "modules.builtin").read_text().split()
    if plain in map(_module_name, built_in):
        return []
    raise Failure(f"kernel {kernel.release} has no module {name}", "see `modules` and `kernel` in the image definition")


def _unpack_module(file: Path) -> None:
    if file.suffix == ".xz":
        file.with_suffix("").write_bytes(unsigned(lzma.decompress(file.read_bytes())))
        file.unlink()


def unsigned(module: bytes) -> bytes:
    """The module without its signature: checking it takes an emulated CPU longer than loading the module.

    The signature stands behind the ELF file, then `struct module_signature` (12 bytes, the last four the length of the
    signature, big-endian), then the marker: include/linux/module_signature.h.
    """
    if not module.endswith(SIGNATURE_MARKER):
        return module
    end = len(module) - len(SIGNATURE_MARKER)
    (length,) = struct.unpack_from(">I", module, end - 4)
    return module[: end - SIGNATURE_RECORD_BYTES - length]
