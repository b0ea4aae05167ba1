"""A point in time by which something has to be done. It is passed down, so that nested waits share one allowance."""

from __future__ import annotations

import time

SLOWDOWN = {"kvm": 1.0, "tcg": 10.0}
"""What an allowance is multiplied by for guests of an accelerator: emulation is about ten times slower than KVM."""

BOOT_S = 15.0
"""What a guest may take to be ready under KVM, on a host that is busy with others."""

CLOUD_BOOT_S = 60.0
"""The same for a guest of a cloud image: firmware, boot loader, systemd and cloud-init do more than our init."""


class Deadline:
    """`seconds` from now, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @classmethod
    def scaled(cls, seconds: float, accelerator: str) -> Deadline:
        """`seconds` as needed with KVM, from now; longer for a slower accelerator ("kvm" or "tcg")."""
        return cls(seconds * SLOWDOWN[accelerator])

    def remaining(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self.remaining() == 0.0

    def __repr__(self) -> str:
        return f"Deadline({self.seconds:g} s, {self.remaining():.1f} s left)"
