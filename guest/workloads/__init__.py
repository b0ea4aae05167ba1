"""What applications do with the shared memory: loads and stores only, and a check of every value that was loaded.

A workload sees a memory, its place among all threads, and a barrier. It does not know which kernels there are, what a
message or a page state is, or who serves its page faults.
"""

from guest.workloads.distributed import Distributed
from guest.workloads.litmus import Litmus
from guest.workloads.program import Native, Script
from guest.workloads.shared_array import SharedArray
from guest.workloads.workload import Mismatch, Place, Workload, WorkloadError

WORKLOADS: dict[str, type[SharedArray] | type[Litmus] | type[Script] | type[Native] | type[Distributed]] = {
    "shared-array": SharedArray,
    "litmus": Litmus,
    "script": Script,
    "native": Native,
    "process": Distributed,
}
"""Workloads by the name an experiment file gives them."""


def parse(fields: dict[str, object]) -> Workload | Distributed:
    """The workload that `fields` (of a run command) describes. Raises WorkloadError."""
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in WORKLOADS:
        raise WorkloadError(f"workload kind {kind!r}, expected one of: {', '.join(WORKLOADS)}")
    return WORKLOADS[kind].parse(fields)


__all__ = ["WORKLOADS", "Distributed", "Mismatch", "Native", "Place", "Script", "Workload", "WorkloadError", "parse"]
