"""A point's parameters for people: paths of the experiment file and the values they have in this point."""

from typing import Any


def describe(parameters: dict[str, Any]) -> str:
    """All in a line: `threads x86=writer arm=reader, array 4KiB`."""
    shown = [f"{head(path)} {show_value(value)}" for path, value in parameters.items()]
    return ", ".join(shown) or "the only point"


def head(path: str) -> str:
    """The end of a path that tells it from others; of a node's or a link's setting, whose it is: `arm.memory`."""
    steps = path.split(".")
    return ".".join(steps[2:] if steps[0] == "testbed" and len(steps) > 2 else steps[1:]) or path


def show_value(value: Any) -> str:
    """A value in one word."""
    if isinstance(value, dict):
        return " ".join(f"{key}={show_value(each)}" for key, each in value.items())
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
