"""The fence runs on this machine, and says what is missing on one it does not know."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from guest.errors import UnsupportedISA
from guest.link import fence

FENCES = [fence._ctypes_fence, *([fence._builtin_fence] if fence._none_is_immortal() else [])]


@pytest.mark.parametrize("make", FENCES)
def test_the_fence_returns_none_and_counts_no_reference(make: Callable[[], Callable[[], object]]) -> None:
    full_fence = make()
    before = sys.getrefcount(None)
    results = {full_fence() for _ in range(10_000)}
    assert results == {None}
    assert abs(sys.getrefcount(None) - before) < 100


def test_its_code_is_mapped_executable_and_never_writable() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    permissions = [line.split()[1] for line in maps if "memfd:fence" in line]
    assert permissions
    assert set(permissions) == {"r-xp"}


def test_an_unknown_instruction_set_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="sparc64"))
    with pytest.raises(UnsupportedISA, match=r"no memory fence is known for sparc64; known: aarch64, riscv64, x86_64"):
        fence._ctypes_fence()
