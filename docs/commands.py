"""Writes docs/commands.md, the reference of all commands, from the commands themselves.

.venv/bin/python docs/commands.py            writes it
.venv/bin/python docs/commands.py --check    says by exit code 1 that it is out of date
"""

import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

PAGE = Path(__file__).with_name("commands.md")
BEGIN = """\
# Commands

Made from the commands themselves by `docs/commands.py`; `testbed COMMAND --help` says the same. Names of nodes and
testbeds complete in bash, zsh and fish after `testbed --install-completion`.

Exit codes: 0 passed, 1 an expectation failed or a value was wrong, 2 wrong input, 3 the host or a guest failed,
128 + N stopped by signal N. With `--json`, standard output is the JSON and nothing else; progress and errors go to
standard error.

"""
EXAMPLES = "Examples:"


def page() -> str:
    """The whole text."""
    from orchestrator.cli import application

    commands = sorted(_all(application()))
    text = BEGIN
    for name, function in commands:
        text += f"- [`testbed {name}`](#testbed-{name.replace(' ', '-')}): {_paragraphs(function)[0]}\n"
    for name, function in commands:
        text += f"\n## testbed {name}\n\n" + "\n\n".join(_described(name, function)) + "\n"
    return text


def _all(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for command in app.registered_commands:
        if not command.hidden and command.callback is not None:
            yield prefix + (command.name or command.callback.__name__.replace("_", "-")), command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _all(group.typer_instance, f"{prefix}{group.name} ")


def _paragraphs(function: Any) -> list[str]:
    """Those of the docstring, examples left out, each on one line."""
    found = re.split(r"\n\s*\n|\x08", inspect.cleandoc(function.__doc__ or ""))
    return [" ".join(each.split()) for each in found if each.strip() and not each.strip().startswith(EXAMPLES)]


def _examples(function: Any) -> list[str]:
    _, _, after = (function.__doc__ or "").partition(f"{EXAMPLES}\n")
    block = after.partition("\n\n")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


def _parameters(function: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, type, what typer is told, default."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        for told in getattr(hints[name], "__metadata__", ()):
            if isinstance(told, ArgumentInfo | OptionInfo) and not told.hidden:
                yield name, typing.get_args(hints[name])[0], told, parameter.default


def _described(name: str, function: Any) -> Iterator[str]:
    yield from _paragraphs(function)
    found = list(_parameters(function))
    words = [_place(*each) for each in found if isinstance(each[2], ArgumentInfo)]
    yield f"    testbed {' '.join([name, '[OPTIONS]', *words])}"
    if found:
        yield "\n".join(["| | |", "|---|---|", *(_row(*each) for each in found)])
    if examples := _examples(function):
        yield "\n".join(f"    {line}" for line in examples)


def _place(name: str, kind: Any, told: Any, default: Any) -> str:
    """How an argument stands on the command line."""
    shown = told.metavar or name.upper()
    if list in (kind, typing.get_origin(kind), *(typing.get_origin(each) for each in typing.get_args(kind))):
        shown += "" if "..." in shown else "..."
    return shown if default is inspect.Parameter.empty or shown.startswith("[") else f"[{shown}]"


def _row(name: str, kind: Any, told: Any, default: Any) -> str:
    if isinstance(told, ArgumentInfo):
        left = f"`{_place(name, kind, told, inspect.Parameter.empty)}`"
    else:
        # Behind `Annotated[...]` typer keeps the first name where a default would stand.
        names = [each for each in (told.default, *(told.param_decls or ())) if isinstance(each, str)]
        names = names or [f"--{name.replace('_', '-')}"]
        left = ", ".join(f"`{each}`" for each in names) + _value(kind, told)
    meaning = " ".join((told.help or "").split())
    if isinstance(told, OptionInfo) and default not in (None, False, "", inspect.Parameter.empty):
        meaning += " Default: on." if default is True else f" Default: `{getattr(default, 'value', default)}`."
    return f"| {left.replace('|', chr(92) + '|')} | {meaning.replace('|', chr(92) + '|')} |"


def _value(kind: Any, told: Any) -> str:
    plain = next((each for each in (kind, *typing.get_args(kind)) if isinstance(each, type) and each is not list), str)
    if plain is bool:
        return ""
    if told.metavar:
        return f" `{told.metavar}`"
    if issubclass(plain, enum.Enum):
        return f" `{'|'.join(str(each.value) for each in plain)}`"
    return f" `{'TEXT' if plain is str else plain.__name__.upper()}`"


def main(words: list[str]) -> int:
    """The exit code."""
    if words != ["--check"]:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.stderr.write("docs/commands.md is out of date: .venv/bin/python docs/commands.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
