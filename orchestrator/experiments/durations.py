"""Lengths of time as people write them: `90 min`, `2 h 5 min`."""

import re

from orchestrator.errors import InputError

_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(min|[smhd])\s*")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seconds_of(text: str, option: str) -> float:
    """`2h`, `90min`, `1h 30m`, `45s`, `1.5h` in seconds. Raises InputError, which names the option."""
    total, place = 0.0, 0
    while found := _PART.match(text, place):
        total += float(found[1]) * _SECONDS[found[2]]
        place = found.end()
    if place != len(text) or not total:
        raise InputError(f"found {option} {text}, expected a length of time", "for example 45s, 90min, 2h or 1h30min")
    return total
