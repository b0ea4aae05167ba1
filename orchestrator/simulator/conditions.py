"""The delays and faults a simulation is put under, read from a command line and written as one again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import InputError
from orchestrator.experiments.vocabulary import nearest

KERNELS_MAX = 1000
SEEDS_MAX = 100_000
"""In one command: what came of each is kept until the end."""
DELAY_MAX_US = 60_000_000


@dataclass(frozen=True)
class Conditions:
    """Virtual time is in nanoseconds; what a person writes, in microseconds."""

    delay_us: tuple[int, int] = (40, 60)
    """Least and most a message takes."""
    reorder: bool = False
    """Messages of one kernel to another may overtake each other too."""
    duplicate: float = 0.0
    """Probability that a message arrives twice."""
    lose_doorbell: float = 0.0
    """Probability that a sleeping kernel is not woken by a message, and finds it at its next heartbeat."""
    slow: tuple[tuple[str, float], ...] = ()
    """(kernel, by which factor)."""
    kills: tuple[tuple[str, int], ...] = ()
    """(kernel, when in µs)."""

    def words(self) -> list[str]:
        """The options that say the same."""
        words = []
        if self.delay_us != Conditions.delay_us:
            words += ["--delay-us", f"{self.delay_us[0]}:{self.delay_us[1]}"]
        words += ["--reorder"] if self.reorder else []
        words += ["--duplicate", repr(self.duplicate)] if self.duplicate else []
        words += ["--lose-doorbell", repr(self.lose_doorbell)] if self.lose_doorbell else []
        for name, factor in self.slow:
            words += ["--slow", f"{name}={factor!r}"]
        for name, at_us in self.kills:
            words += ["--kill", f"{name}@{at_us}"]
        return words

    def check(self, names: Sequence[str]) -> None:
        """Raise InputError where a kernel is named that is none of `names`, or too much is to be killed."""
        for option, pairs in (("--slow", self.slow), ("--kill", self.kills)):
            named = [name for name, _ in pairs]
            for name in named:
                if name not in names:
                    near = nearest(name, names)
                    hint = f"did you mean '{near}'?" if near else "with --kernels N they are named k0, k1, …"
                    raise InputError(f"{option}: found '{name}', expected one of {_list(names)}", hint)
                if named.count(name) > 1:
                    raise InputError(f"{option}: found '{name}' twice, expected each kernel once")
        if len(self.kills) >= len(names):
            raise InputError(f"--kill: found {len(self.kills)} kernels of {len(names)}, expected one that survives")


def parse_delay(word: str) -> tuple[int, int]:
    """`MIN:MAX`, or one number for both."""
    found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", word)
    if found is None:
        raise _wrong("--delay-us", word, "MIN:MAX in whole µs, such as 40:60")
    least, most = int(found[1]), int(found[2] or found[1])
    if not least <= most <= DELAY_MAX_US:
        raise _wrong("--delay-us", word, f"MIN at most MAX, and MAX at most {DELAY_MAX_US}")
    return least, most


def parse_range(option: str, word: str, least: int, most: int) -> range:
    """`A..B`, both included."""
    found = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", word)
    if found is None:
        raise _wrong(option, word, "A..B, such as 2..64")
    first, last = int(found[1]), int(found[2])
    if not least <= first <= last <= most:
        raise _wrong(option, word, f"A at most B, both from {least} to {most}")
    return range(first, last + 1)


def parse_seeds(first: int | None, number: int | None, word: str | None) -> range:
    """`A..B`, or so many from the first one on."""
    if word is None:
        return range(first or 0, (first or 0) + (number or 1))
    if first is not None or number is not None:
        raise InputError("--seeds: found with --seed or --repeat, expected one way to say it", "take one of them away")
    seeds = parse_range("--seeds", word, 0, 10**9)
    if len(seeds) > SEEDS_MAX:
        raise _wrong("--seeds", word, f"at most {SEEDS_MAX} of them")
    return seeds


def parse_kernels(word: str | None) -> int | None:
    """A number of kernels, if one is wanted."""
    if word is None:
        return None
    if not re.fullmatch(r"\d{1,9}", word) or not 1 <= int(word) <= KERNELS_MAX:
        raise _wrong("--kernels", word, f"a whole number from 1 to {KERNELS_MAX}")
    return int(word)


def parse_slow(word: str) -> tuple[str, float]:
    """`NODE=FACTOR`."""
    found = re.fullmatch(r"([^=]+)=(\d{1,6}(?:\.\d{1,6})?)", word)
    if found is None or float(found[2]) <= 0:
        raise _wrong("--slow", word, "NODE=FACTOR with a factor above 0, such as arm=4")
    return found[1], float(found[2])


def parse_kill(word: str) -> tuple[str, int]:
    """`NODE@TIME_US`."""
    found = re.fullmatch(r"([^@]+)@(\d{1,12})", word)
    if found is None:
        raise _wrong("--kill", word, "NODE@TIME in whole µs, such as arm@500")
    return found[1], int(found[2])


def _wrong(option: str, word: str, expected: str) -> InputError:
    return InputError(f"{option}: found '{word}', expected {expected}", "nothing was started; see --help")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{names[0]}, {names[1]}, … {names[-1]}"
