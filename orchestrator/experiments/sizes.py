"""Sizes in bytes, as people write them: `64MiB`, `4KiB`, `512`."""

import re

PAGE_BYTES = 4096
"""The page of both ISAs as the testbed's kernels are configured."""

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})\s*([A-Za-z]*)")


class SizeError(ValueError):
    """Not a size; `near` is what was probably meant, or empty."""

    def __init__(self, near: str = "") -> None:
        super().__init__("not a size")
        self.near = near


def parse_size(value: object) -> int:
    """The number of bytes `value` names. Raises `SizeError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise SizeError
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise SizeError
    number, unit = found.groups()
    if unit not in _UNITS:
        binary = {known.lower()[:1]: known for known in _UNITS if len(known) == 3}
        raise SizeError(number + binary[unit[0].lower()] if unit[0].lower() in binary else "")
    return int(number) * _UNITS[unit]


def show_size(size_bytes: int) -> str:
    """`size_bytes` in the largest unit that divides it: `64MiB`, `4KiB`, `100B`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return f"{size_bytes}B"
