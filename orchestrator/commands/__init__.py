"""Which module has which command. Only the module of the command that was typed is imported, and made a command of.

Making a command out of a function takes longer than most commands take to do their work, and there are many of them.
"""

import importlib
from collections.abc import Sequence

import typer

MODULES = {
    "up": "testbed",
    "ps": "testbed",
    "ssh": "testbed",
    "down": "testbed",
    "exec": "access",
    "cp": "access",
    "ssh-config": "access",
    "console": "access",
    "monitor": "access",
    "gdb": "access",
    "top": "top",
    "doctor": "doctor",
    "bench": "bench",
    "replay": "replay",
    "report": "report",
    "trace": "report",
    "compare": "compare",
    "baseline": "compare",
    "simulate": "simulate",
    "fuzz": "simulate",
    "verify": "verify",
    "litmus": "litmus",
    "nightly": "nightly",
    "fault": "fault",
    "image": "image",
    "results": "results",
}
"""Word → `orchestrator.commands.MODULE`, in the order that `testbed --help` shows."""


def add_to(app: typer.Typer, words: Sequence[str] = ()) -> None:
    """Adds the commands of the module that has the first of `words`; all commands when there are no words."""
    for name in [MODULES[words[0]]] if words else dict.fromkeys(MODULES.values()):
        importlib.import_module(f"orchestrator.commands.{name}").add_to(app)
