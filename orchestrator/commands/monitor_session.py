"""Questions to a machine's monitor: single ones, and a prompt."""

import json
from typing import Any

import typer

from orchestrator.errors import InputError
from orchestrator.output import tell
from testbed.monitor import Monitor, Refused


def ask(connection: Monitor, line: str, *, qmp: bool) -> str:
    """The answer, fit to be printed. Raises InputError when `line` is no QMP command, Refused when QEMU says no."""
    if not qmp:
        return connection.human(line).rstrip("\n")
    command, arguments = _parsed(line)
    return json.dumps(connection.execute(command, None, **arguments), indent=2)


def _parsed(line: str) -> tuple[str, dict[str, Any]]:
    if not line.lstrip().startswith("{"):
        return line.strip(), {}
    example = '{"execute": "query-status"}'
    try:
        told = json.loads(line)
        command, arguments = told["execute"], told.get("arguments", {})
    except (ValueError, KeyError) as error:
        raise InputError(f"found {line!r}, expected a QMP command ({error})", f"for example {example}") from None
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise InputError(f"found {line!r}, expected a name and an object of arguments", f"for example {example}")
    return command, arguments


def converse(connection: Monitor, *, qmp: bool) -> None:
    """A prompt until its input ends. What QEMU or we do not understand is told, and asked again."""
    import readline  # noqa: F401 - gives `input` its history and editing

    while True:
        try:
            line = input(f"({connection.node}) ").strip()
        except EOFError:
            typer.echo()
            return
        if not line:
            continue
        try:
            typer.echo(ask(connection, line, qmp=qmp))
        except (InputError, Refused) as error:
            tell(f"{error.message}\n")
