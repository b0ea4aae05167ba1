"""One clock out of many: how far the clocks of the kernels are from each other, and from the host's.

Every guest counts its own nanoseconds since its own boot. Two things bring them together:

- *kernel to kernel*, by the barriers of a run. Kernel *i* notes when it announces a barrier, kernel *j* when it hears
  of it. The difference is that of their clocks plus the time the message took, which is more than nothing. The smallest
  difference of each direction leaves an interval, as in NTP: the offset is its middle, the error half its width.
- *host to kernel*, by asking: the answer was made between the question and its arrival.

Clocks of guests on one host run at one speed; offsets are constants.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUESTIONS = 5
"""How often a guest is asked for its time; the quickest answer counts."""


@dataclass(frozen=True)
class Clock:
    """A kernel's clock beside a reference: `reference = own + offset`, give or take `error`, in seconds."""

    offset_s: float
    error_s: float


def beside_host(guest_ns: Callable[[], int]) -> Clock:
    """How far CLOCK_MONOTONIC of this host is from that of the guest whose time `guest_ns` asks for."""
    clocks = []
    for _ in range(QUESTIONS):
        before_ns = time.monotonic_ns()
        there_ns = guest_ns()
        after_ns = time.monotonic_ns()
        clocks.append(
            Clock(((before_ns + after_ns) / 2 - there_ns) / 1e9, (after_ns - before_ns) / 2e9),
        )
    best = min(clocks, key=lambda clock: clock.error_s)
    return Clock(round(best.offset_s, 6), round(best.error_s, 6))


def beside_first(timelines: Sequence[Mapping[str, Any]]) -> list[Clock]:
    """Every kernel's clock beside that of kernel 0. `timelines` are those of the agents' answers, in kernel order.

    Times in them are since each kernel's own `begun_ns`, and so are these offsets. Without a barrier that two kernels
    heard of each other, both are taken to have begun together.
    """
    clocks = [Clock(0.0, 0.0)]
    for kernel in range(1, len(timelines)):
        there = _quickest(timelines[0], timelines[kernel], 0)
        back = _quickest(timelines[kernel], timelines[0], kernel)
        if there is None or back is None:
            clocks.append(Clock(0.0, 0.0))
        else:
            # there = theirs - ours + time taken; back = ours - theirs + time taken
            clocks.append(Clock((back - there) / 2e9, max(0.0, (back + there) / 2e9)))
    return clocks


def _quickest(sender: Mapping[str, Any], receiver: Mapping[str, Any], kernel: int) -> int | None:
    """The smallest difference, in ns, between hearing a barrier of `kernel` and its being announced."""
    announced = dict(sender["announced_ns"])
    differences = [
        heard_ns - announced[barrier]
        for who, barrier, heard_ns in receiver["heard_ns"]
        if who == kernel and barrier in announced
    ]
    return min(differences, default=None)
