"""/etc/ld.so.cache, without which each start of a program tries a dozen folders for each library.

The host's ldconfig leaves out libraries of another instruction set than its own, so we write the file.
Format: sysdeps/generic/dl-cache.h of glibc ("new format", version 1.1, little-endian).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from images.definition import Architecture

MAGIC = b"glibc-ld.so.cache1.1"
LITTLE_ENDIAN = 2
# Magic and version, number of entries, bytes of strings, flags, offset of extensions (none), three unused words.
HEADER = struct.Struct("<20sIIB3xI12x")
# Flags, offset of the name, offset of the path (both from the start of the file), OS version, hardware capabilities.
ENTRY = struct.Struct("<iIIIQ")
# FLAG_ELF_LIBC6 with the ISA's own flag (FLAG_X8664_LIB64, FLAG_AARCH64_LIB64).
FLAGS = {"amd64": 0x0303, "arm64": 0x0A03}


def write_cache(root: Path, arch: Architecture) -> None:
    """Writes the cache of the libraries in the image's library folder; without known flags there is none."""
    flags = FLAGS.get(arch.debian)
    if flags is None:
        return
    names = [file.name for file in (root / arch.libraries).iterdir() if re.match(r"(lib|ld-).*\.so(\.|$)", file.name)]
    (root / "etc/ld.so.cache").write_bytes(cache(names, f"/{arch.libraries}", flags))


def cache(names: list[str], folder: str, flags: int) -> bytes:
    """The bytes of a cache that finds `names` in `folder`."""
    names = sorted(names, key=_order, reverse=True)
    strings = bytearray()
    entries = bytearray()
    start = HEADER.size + ENTRY.size * len(names)
    for name in names:
        path = start + len(strings)
        strings += f"{folder}/{name}".encode() + b"\0"
        # The name is the end of the path.
        entries += ENTRY.pack(flags, path + len(folder) + 1, path, 0, 0)
    header = HEADER.pack(MAGIC, len(names), len(strings), LITTLE_ENDIAN, 0)
    return bytes(header + entries + strings)


def _order(name: str) -> list[tuple[int, int]]:
    """How ld.so's search orders names (_dl_cache_libcmp): runs of digits by value, and after every other character."""
    parts = re.findall(r"\d+|\D", name)
    return [(1, int(part)) if part.isdigit() else (0, ord(part)) for part in parts]
