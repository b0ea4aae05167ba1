"""The workload `process`: a Python program whose threads move between kernels. See `guest.process`."""

import os
import sys
from collections.abc import Sequence
from types import CodeType
from typing import Any

from guest.memory.reserved import RESERVED_PAGES
from guest.workloads.placement import POLICIES, Fixed, Policy
from guest.workloads.program import Program
from guest.workloads.workload import WorkloadError

POOL = 2
"""Processes of the operating system that wait for threads on each kernel, if nothing else is said."""


class Distributed:
    """What the daemon knows of it; the program itself is `guest.programs.worker`'s."""

    meeting_bytes = 0
    spares_threads = False

    def __init__(self, told: Program, pool: int, policy: type[Policy], kernels: int | None = None) -> None:
        self.iterations, self.pages, self.seed = told
        self.pool = pool
        self.policy = policy
        self.kernels = kernels
        """How many of the kernels may have threads, the first ones; all if None."""

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> "Distributed":
        """From the fields of a run command. Raises WorkloadError."""
        pool = fields.get("pool", POOL)
        if not isinstance(pool, int) or isinstance(pool, bool) or pool < 1:
            raise WorkloadError(f"process: pool {pool!r}, expected a whole number from 1")
        if not isinstance(fields.get("parameters", {}), dict):
            raise WorkloadError(f"process: parameters {fields['parameters']!r}, expected an object")
        placement = fields.get("placement", Fixed.name)
        if placement not in POLICIES:
            raise WorkloadError(f"process: placement {placement!r}, expected one of {', '.join(POLICIES)}")
        told = Program.parse(fields)
        if told.pages <= RESERVED_PAGES:
            raise WorkloadError(
                f"process: pages {told.pages}, expected more than {RESERVED_PAGES}",
                "it needs these for itself: make the region larger, or `pages` of the workload",
            )
        return cls(told, pool, POLICIES[placement], fields.get("kernels"))

    def check_roles(self, _roles: Sequence[Sequence[str]]) -> None:
        """Threads of a process have no roles."""

    def compile(self, program_fd: int, name: str) -> CodeType:
        """The program. Raises what Python says of it."""
        # Not from where the file stands: all who were forked with it share that.
        code = compile(os.pread(program_fd, os.fstat(program_fd).st_size, 0), name, "exec")
        if sys.flags.no_site:  # the agent starts without, which is quicker
            import site

            site.main()
        return code
