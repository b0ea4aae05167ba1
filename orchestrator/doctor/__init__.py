"""Whether this host can run the quickstart, finding by finding: what was seen, what it means, what mends it.

Each check tries the thing itself where it can: libvirt's driver is opened, a guest is booted under KVM, a user
namespace is made. Nothing is changed, except that the verdict about KVM is remembered.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from images.errors import Failure
from testbed.errors import of_host


class Level(StrEnum):
    """How bad a finding is. Only a PROBLEM keeps the quickstart from running."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What one check saw. `meaning` says what follows from it, `mend` is the command that mends it; "" for neither."""

    check: str
    level: Level
    found: str
    meaning: str = ""
    mend: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


Check = Callable[[Callable[[str], None]], Iterator[Finding]]
"""Told where to say what takes a while; gives its findings."""


def found_by(check: Check, say: Callable[[str], None]) -> Iterator[Finding]:
    """Its findings; a check that the host does not let come to its end has one more, and the others are still made."""
    try:
        yield from check(say)
    except (Failure, OSError) as error:
        failure = error if isinstance(error, Failure) else of_host(error)
        if failure is None:
            raise
        yield Finding(check.__name__, Level.PROBLEM, failure.message, failure.hint)
