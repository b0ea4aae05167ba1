"""The expressions of `expect:`, e.g. `messages.protocol / iterations <= 4 * pages + 4`.

Arithmetic, comparisons, `and`, `or`, `not`, `A if C else B`, min, max and abs, over the names of a point's results. An
expression is parsed by Python's grammar and then walked by hand: what is not listed here does not exist, so nothing
in a file can reach Python itself.
"""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guest.protocol.messages import MessageName

LENGTH_MAX = 500
LATENCIES = ("remote_read", "remote_write", "local_fault")
STATISTICS = ("count", "median", "p99")
HARNESS = (MessageName.BARRIER, MessageName.CONTROL)
"""Messages of the test harness, which `messages.protocol` leaves out."""

NAMES: frozenset[str] = frozenset(
    ["verified", "iterations", "pages", "kernels", "readers", "writers", "array_bytes", "repetition", "duration_s"]
    + ["resident_most"]
    + ["messages.protocol"]
    + [f"messages.{name.name}" for name in MessageName if name not in HARNESS]
    + [f"latency_us.{kind}.{statistic}" for kind in LATENCIES for statistic in STATISTICS]
)
"""Everything an expression may name. Latencies of accesses that did not happen are null."""
FIGURES = "figures."
"""Before the name of a number that a program of the user's reports; one that is not reported is null."""

_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ExpressionError(Exception):
    """Not an expression of this language; `offset` is where in it, in characters."""

    def __init__(self, found: str, expected: str, offset: int = 0, near: str = "") -> None:
        super().__init__(f"found {found}, expected {expected}")
        self.found, self.expected, self.offset, self.near = found, expected, offset, near


@dataclass(frozen=True)
class Expectation:
    """A parsed expression."""

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> "Expectation":
        """Parse and check every name. Raises `ExpressionError`."""
        if len(text) > LENGTH_MAX:
            raise ExpressionError(f"{len(text)} characters", f"at most {LENGTH_MAX}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            offset = (getattr(error, "offset", None) or 1) - 1
            near = re.sub(r"(?<![<>=!])=(?!=)", "==", text)
            near = near if near != text else ""
            raise ExpressionError(f"'{text}'", "an expression such as verified == true", offset, near) from None
        except (RecursionError, MemoryError):
            raise ExpressionError("an expression nested without end", "one that a person can read") from None
        _check(tree)
        return cls(text, tree)

    def holds(self, results: Mapping[str, Any]) -> bool:
        """Whether the expression is true of `results` (nested as in run.json, plus the names above)."""
        return bool(_value(self.tree, results))

    def shown(self, results: Mapping[str, Any]) -> str:
        """What each name in the expression was: `messages.protocol = 412, pages = 64`."""
        names = sorted({_dotted(node) for node in ast.walk(self.tree) if _is_name(_dotted(node))})
        return ", ".join(f"{name} = {_look_up(name, results)}" for name in names)


def _dotted(node: ast.AST) -> str:
    """`a.b.c` of nested attributes, or "" if it is anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _is_name(name: str) -> bool:
    return name in NAMES or (name.startswith(FIGURES) and name.count(".") == 1)


def _check(node: ast.expr) -> None:
    """Refuse all that `_value` does not know, before anything runs."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            if _is_name(name) or name in _CONSTANTS:
                return
            near = difflib.get_close_matches(name, [*NAMES, "true", "false"], 1)
            raise ExpressionError(
                f"'{name or ast.unparse(node)}'",
                "a name of a point's results, such as " + ", ".join(sorted(NAMES)[:4]) + ", …",
                node.col_offset,
                near[0] if near else "",
            )
        case ast.Call(func=ast.Name(id=function), args=[_, *_], keywords=[]) if function in _FUNCTIONS:
            children = node.args
        case ast.Compare() if all(type(comparison) in _COMPARE for comparison in node.ops):
            children = [node.left, *node.comparators]
        case ast.BinOp() if type(node.op) in _BINARY:
            children = [node.left, node.right]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.IfExp():
            children = [node.test, node.body, node.orelse]
        case _:
            raise ExpressionError(
                f"'{ast.unparse(node)}'", "numbers, names, arithmetic, comparisons, and, or, not", node.col_offset
            )
    for child in children:
        _check(child)


def _look_up(name: str, results: Mapping[str, Any]) -> Any:
    value: Any = results
    for part in name.split("."):
        value = value.get(part, 0 if name.startswith("messages.") else None)
        if value is None:
            return None
    return value


def _value(node: ast.expr, results: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            return _CONSTANTS[name] if name in _CONSTANTS else _look_up(name, results)
        case ast.BoolOp(op=operation):
            values = (_value(child, results) for child in node.values)
            return all(values) if isinstance(operation, ast.And) else any(values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, results)
        case ast.IfExp():
            return _value(node.body if _value(node.test, results) else node.orelse, results)
        case ast.Compare():
            return _compared(node, results)
    try:
        match node:
            case ast.UnaryOp():
                return -_value(node.operand, results)
            case ast.BinOp():
                return _BINARY[type(node.op)](_value(node.left, results), _value(node.right, results))
            case ast.Call(func=ast.Name(id=function)):
                return _FUNCTIONS[function](*(_value(child, results) for child in node.args))
    except (TypeError, ZeroDivisionError):
        return None  # a latency that was never measured; a comparison with it does not hold
    raise AssertionError(f"{ast.dump(node)} passed the check and has no meaning")


def _compared(node: ast.Compare, results: Mapping[str, Any]) -> bool:
    left = _value(node.left, results)
    for comparison, child in zip(node.ops, node.comparators, strict=True):
        right = _value(child, results)
        try:
            if not _COMPARE[type(comparison)](left, right):
                return False
        except TypeError:
            return False
        left = right
    return True
