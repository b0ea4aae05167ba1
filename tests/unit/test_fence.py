"""The fence runs on this machine, and says what is missing on one it does not know."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from guest import fence
from guest.errors import UnsupportedISA


def test_the_fence_can_be_called_any_number_of_times() -> None:
    for _ in range(1000):
        fence.full_fence()


def test_its_code_is_mapped_executable_and_never_writable() -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    permissions = [line.split()[1] for line in maps if "memfd:fence" in line]
    assert permissions
    assert set(permissions) == {"r-xp"}


def test_an_unknown_instruction_set_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="sparc64"))
    with pytest.raises(UnsupportedISA, match=r"no memory fence is known for sparc64; known: aarch64, riscv64, x86_64"):
        fence._make_fence()
