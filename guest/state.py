"""Objects as bytes, to travel: what `pickle` makes of them, and the same sooner for most threads.

`pickle` asks an object in a dozen ways how it wants to be pickled, and looks for its class among the modules. Each
question is code that has not run for a while, which is what an emulated CPU is slow at. Most threads have no answer to
any of them: they are a few numbers, strings and arrays, by name. So such a thread travels by the name of its class and
by its attributes as `marshal` writes them, which knows nothing but data, and asks nothing.

That both come to the same can be seen from what is let through. The class, found by its name, has nothing of its own
to say about pickling; no attribute is an object of a class, arrays excepted: so no code of the program's is run, and
nothing leads back to the object. All of it is looked at each time, as programs may change.

    1 · marshal of (module, name, attributes, arrays by name)   or   0 · pickle of the object
"""

import copyreg
import marshal
import pickle
import sys
from collections.abc import Callable, Collection
from importlib import import_module
from types import GetSetDescriptorType, NoneType
from typing import Any

from guest.errors import ThreadError

_SCALARS = frozenset((int, float, bool, str, bytes, NoneType))
_DATA = _SCALARS | {tuple, list}
_DEPTH = 3
"""How deep tuples and lists may lie in each other."""
_ITEMS = 64
"""How many a tuple or list may have that has others in it: they are looked at one by one."""
_BYTES = 1024
"""Longer ones are pickled: small numbers take less room there, and room is short."""
_HOOKS = frozenset(
    (
        "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__",
        "__new__", "__getattr__", "__getattribute__", "__class__", "__slots__",
    )
)  # fmt: skip
"""What a class can have to say to `pickle` (Python's documentation, "Pickling Class Instances")."""
_MARSHAL_VERSION = 4
"""As old as Python 3.4; later ones read it."""
_PICKLED, _MARSHALLED = b"\0", b"\1"


class _Plain:
    """A class that adds nothing to what all objects are."""


def _layout(kind: type) -> tuple[int, int, int]:
    return kind.__basicsize__, kind.__dictoffset__, kind.__weakrefoffset__


_LAYOUT = _layout(_Plain)

_arrays: list[Any] = []
"""The class of arrays."""


def arrays_are(kind: type) -> type:
    """A decorator, for the class of arrays: they may be attributes, and travel as what their `__getstate__` gives."""
    _arrays[:] = [kind]
    return kind


def to_bytes(value: Any) -> bytes:
    """The object, to travel. Raises whatever pickling it does."""
    kind = type(value)
    if type(kind) is type and _says_nothing(kind):
        told = _told(vars(value))
        if told is not None:
            state = marshal.dumps((kind.__module__, kind.__name__, *told), _MARSHAL_VERSION)
            if len(state) <= _BYTES:
                return _MARSHALLED + state
    return _PICKLED + pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def from_bytes(state: bytes | memoryview) -> Any:
    """The object that has travelled. Raises whatever unpickling it does."""
    if state[:1] == _PICKLED:
        return pickle.loads(state[1:])
    module, name, attributes, arrays = marshal.loads(state[1:])
    kind: Any = getattr(sys.modules.get(module) or import_module(module), name, None)
    if kind is None:
        raise AttributeError(f"Can't get attribute {name!r} on {sys.modules[module]!r}")
    for each, fields in arrays.items():
        array = attributes[each] = _arrays[0].__new__(_arrays[0])
        array.__setstate__(fields)
    value = kind.__new__(kind)
    if attributes:
        set_state: Callable[[Any], object] | None = getattr(value, "__setstate__", None)  # if the class is another here
        if set_state is not None:
            set_state(attributes)
        else:
            vars(value).update(attributes)
    return value


def _says_nothing(kind: type) -> bool:
    """Whether `pickle` would hear nothing from the class, and find it by its name."""
    for base in kind.__mro__[:-1]:
        said = vars(base)
        if not _HOOKS.isdisjoint(said) or type(said.get("__dict__")) not in (NoneType, GetSetDescriptorType):
            return False
    return (
        _layout(kind) == _LAYOUT
        and kind.__qualname__ == kind.__name__
        and type(kind.__module__) is type(kind.__name__) is str
        and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
        and kind not in copyreg.dispatch_table
        and not vars(kind).get("__slotnames__")
    )


def _told(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The attributes, None in place of arrays, and what there is to tell of these; None if that is not all."""
    if type(attributes) is not dict:
        return None
    arrays: dict[str, Any] = {}
    for name, value in attributes.items():
        if type(name) is not str or name[:2] == "__":  # an object can have hooks of its own
            return None
        if type(value) in _arrays:
            if any(value is attributes[other] for other in arrays):
                return None
            arrays[name] = value.__getstate__()
    if arrays:
        attributes = {name: None if name in arrays else value for name, value in attributes.items()}
    return (attributes, arrays) if _are_data((*attributes.values(), *arrays.values()), _DEPTH) else None


def _are_data(values: Collection[Any], depth: int) -> bool:
    """Whether these are numbers, strings, bytes, None, and tuples and lists of such."""
    kinds = set(map(type, values))
    if kinds <= _SCALARS:
        return True
    if not depth or not kinds <= _DATA or len(values) > _ITEMS:
        return False
    return all(_are_data(each, depth - 1) for each in values if type(each) not in _SCALARS)


def packed(pickled: Callable[[Any], bytes], value: Any, what: str) -> bytes:
    """`what` a thread has that travels; its state is the thread itself."""
    try:
        return pickled(value)
    except Exception as error:  # whatever `__reduce__` and the like of a program may raise
        of = f"{type(value).__name__}{_culprit(pickled, value)}" if what == "state" else "thread"
        raise ThreadError(
            f"the {what} of a {of} cannot be pickled: {type(error).__name__}: {error}",
            "keep in it what `pickle` takes: no functions within others, open files, or views of memory",
        ) from error


def _culprit(pickled: Callable[[Any], bytes], value: Any) -> str:
    """The attribute that cannot be pickled, if it is one by itself."""
    for name, each in vars(value).items():
        try:
            pickled(each)
        except Exception:  # noqa: BLE001 - as above
            return f" (its attribute '{name}')"
    return ""
