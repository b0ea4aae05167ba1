"""The binary formats that images are made of: cpio archives, ld.so's cache, kernels and modules."""

import gzip
import lzma
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images import kernel, libraries
from images.cpio import Writer, seed_archive
from images.errors import Failure


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Reads `newc` as the kernel does: entry after entry, over trailers and the zeros behind them."""
    entries, at = {}, 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701", f"no header at {at}"
        field = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_bytes = field[1], field[6], field[11]
        name = archive[at + 110 : at + 110 + name_bytes - 1].decode()
        start = (at + 110 + name_bytes + 3) // 4 * 4
        entries[name] = (mode, archive[start : start + size])
        at = (start + size + 3) // 4 * 4
    return entries


@given(st.dictionaries(st.from_regex(r"[a-z_.]{3,20}", fullmatch=True), st.binary(max_size=40)))
def test_seed_files_arrive_with_content_and_mode(files: dict[str, bytes]) -> None:
    entries = unpacked(seed_archive({name: (0o600, content) for name, content in files.items()}))
    for name, content in files.items():
        assert entries[f"seed/{name}"] == (stat.S_IFREG | 0o600, content)
    assert entries["seed"][0] == stat.S_IFDIR | 0o700


def test_a_joined_archive_holds_the_entries_of_both() -> None:
    second = Writer()
    second.link("bin", "usr/bin")
    entries = unpacked(seed_archive({"hostname": (0o644, b"arm\n")}) + second.bytes())
    assert entries["seed/hostname"][1] == b"arm\n"
    assert entries["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd"])
def test_a_seed_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        seed_archive({name: (0o644, b"")})


def glibc_compare(one: bytes, other: bytes) -> int:
    """_dl_cache_libcmp of glibc's elf/dl-cache.c, line by line."""
    one, other = one + b"\0", other + b"\0"
    i = j = 0
    while one[i]:
        if chr(one[i]).isdigit():
            if not chr(other[j]).isdigit():
                return 1
            first = second = 0
            while chr(one[i]).isdigit():
                first, i = first * 10 + one[i] - 48, i + 1
            while chr(other[j]).isdigit():
                second, j = second * 10 + other[j] - 48, j + 1
            if first != second:
                return first - second
        elif chr(other[j]).isdigit():
            return -1
        elif one[i] != other[j]:
            return one[i] - other[j]
        else:
            i, j = i + 1, j + 1
    return one[i] - other[j]


def glibc_search(cache: bytes, name: bytes) -> bytes | None:
    """Binary search of glibc's dl-cache.c: larger names stand first."""

    def text(offset: int) -> bytes:
        return cache[offset : cache.index(b"\0", offset)]

    left, right = 0, struct.unpack_from("<I", cache, 20)[0] - 1
    while left <= right:
        middle = (left + right) // 2
        _, key, value, _, _ = libraries.ENTRY.unpack_from(cache, libraries.HEADER.size + middle * libraries.ENTRY.size)
        order = glibc_compare(name, text(key))
        if order == 0:
            return text(value)
        left, right = (middle + 1, right) if order < 0 else (left, middle - 1)
    return None


@given(st.sets(st.from_regex(r"lib[a-z0-9_+-]{1,6}\.so\.[0-9]{1,3}", fullmatch=True), min_size=1, max_size=30))
def test_ld_so_finds_every_library_in_the_cache(names: set[str]) -> None:
    cache = libraries.cache(sorted(names), "/usr/lib/x", 0x0A03)
    # Names that glibc takes for equal ("libz.so.1" and "libz.so.01") do not occur in one folder.
    different = {name for name in names if sum(not glibc_compare(name.encode(), n.encode()) for n in names) == 1}
    for name in different:
        assert glibc_search(cache, name.encode()) == f"/usr/lib/x/{name}".encode()
    assert glibc_search(cache, b"libabsent-from-here.so.1") is None


def test_the_hosts_ldconfig_reads_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "cache"
    file.write_bytes(libraries.cache(["libc.so.6", "libzstd.so.1"], "/usr/lib/x86_64-linux-gnu", 0x0303))
    shown = subprocess.run(["/sbin/ldconfig", "-p", "-C", file], capture_output=True, text=True, check=True).stdout
    assert "2 libs found" in shown
    assert "libzstd.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libzstd.so.1" in shown


def x86_kernel(payload: bytes, setup_sectors: int = 4, offset: int = 0x100) -> bytes:
    """A file with the header of a compressed x86 kernel around `payload`."""
    file = bytearray((setup_sectors + 1) * 512 + offset)
    file[0x1F1] = setup_sectors
    file[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", file, 0x248, offset, len(payload) + 4)
    return bytes(file) + payload + b"size"


def test_a_compressed_x86_kernel_with_a_pvh_entry_is_unpacked() -> None:
    plain = b"\x7fELF" + bytes(100) + struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(100)
    assert kernel.bootable(x86_kernel(gzip.compress(plain))) == plain
    assert kernel.bootable(x86_kernel(lzma.compress(plain))) == plain


def test_kernels_that_qemu_could_not_start_unpacked_stay_as_they_are() -> None:
    no_entry = x86_kernel(gzip.compress(b"\x7fELF" + bytes(200)))
    assert kernel.bootable(no_entry) == no_entry
    arm = b"MZ" + bytes(54) + b"ARM\x64" + bytes(1000)
    assert kernel.bootable(arm) == arm


def test_the_signature_is_cut_off_a_module_and_nothing_else() -> None:
    signed = b"\x7fELF module" + b"s" * 300 + struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 300) + kernel.SIGNATURE_MARKER
    assert kernel.unsigned(signed) == b"\x7fELF module"
    assert kernel.unsigned(b"\x7fELF module") == b"\x7fELF module"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kernel.Kernel:
    folder = tmp_path / "modules"
    (folder / "k").mkdir(parents=True)
    for name in ("a", "b-low", "c"):
        (folder / f"k/{name}.ko.xz").write_bytes(lzma.compress(name.encode()))
    (folder / "modules.dep").write_text("k/a.ko.xz: k/b-low.ko.xz k/c.ko.xz\nk/b-low.ko.xz: k/c.ko.xz\nk/c.ko.xz:\n")
    (folder / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    monkeypatch.setattr(kernel, "run", lambda argv: b"")  # depmod wants real modules
    return kernel.Kernel("6.12", tmp_path / "vmlinuz", folder)


def test_modules_are_loaded_after_what_they_need(modules: kernel.Kernel, tmp_path: Path) -> None:
    order = kernel.prepare_modules(tmp_path, modules, ["a", "b_low", "virtio_pci"])
    assert order == {"a": ["k/c.ko", "k/b-low.ko", "k/a.ko"], "b_low": ["k/c.ko", "k/b-low.ko"], "virtio_pci": []}
    assert (modules.modules / "k/b-low.ko").read_bytes() == b"b-low"
    assert not list(modules.modules.glob("k/*.xz"))


def test_a_module_that_the_kernel_lacks_is_named(modules: kernel.Kernel, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"kernel 6\.12 has no module nvme"):
        kernel.prepare_modules(tmp_path, modules, ["nvme"])
