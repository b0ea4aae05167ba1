"""Machines, the links between them, their consoles and SSH, and their records on disk. Knows nothing about coherency.

`up` starts a testbed from a `TestbedSpec` and waits until its nodes answer; `find` and `list_all` know of every testbed
that was ever begun and not taken down, whatever became of the command that began it; `Testbed.down` removes all of one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.deadline import Deadline
    from testbed.errors import GuestError
    from testbed.lifecycle import Condition, Summary, find, list_all, up
    from testbed.machine import Node, Testbed
    from testbed.spec import Accelerator, Driver, LinkKind, LinkSpec, NodeSpec, TestbedSpec

_HOMES = {
    "testbed.deadline": ["Deadline"],
    "testbed.errors": ["GuestError"],
    "testbed.lifecycle": ["Condition", "Summary", "find", "list_all", "up"],
    "testbed.machine": ["Node", "Testbed"],
    "testbed.spec": ["Accelerator", "Driver", "LinkKind", "LinkSpec", "NodeSpec", "TestbedSpec"],
}

__all__ = [
    "Accelerator",
    "Condition",
    "Deadline",
    "Driver",
    "GuestError",
    "LinkKind",
    "LinkSpec",
    "Node",
    "NodeSpec",
    "Summary",
    "Testbed",
    "TestbedSpec",
    "find",
    "list_all",
    "up",
]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `python -m testbed.ivshmem_server` passes through here and needs none of it.
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'testbed' has no attribute {name!r}")
