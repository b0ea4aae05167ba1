"""Objects that travel: whatever way they take, they come out as `pickle` would have them."""

import copyreg
import pickle
import sys
from collections.abc import Iterator
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

from guest.process import Array
from guest.state import from_bytes, to_bytes

MARSHALLED = 1


class Plain:
    """An object that is its attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def method(self) -> None:
        """To be an attribute."""


class Heir(Plain):
    """As plain as what it derives from."""


class Told(Plain):
    def __getstate__(self) -> dict[str, Any]:
        return {"told": True}


class Taught(Plain):
    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.taught = attributes


class Reduced(Plain):
    def __reduce__(self) -> tuple[Any, ...]:
        return Plain, (), {"reduced": True}


class ReducedSo(Plain):
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Plain, (), {"protocol": protocol}


class Made(Plain):
    def __new__(cls, *_: Any, **__: Any) -> "Made":
        made = super().__new__(cls)
        made.made = "anew"  # type: ignore[attr-defined]
        return made

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        del self.made  # type: ignore[attr-defined]


class Asked(Plain):
    asked = 0

    def __getnewargs__(self) -> tuple[()]:
        Asked.asked += 1
        return ()


class AskedSo(Plain):
    asked = 0

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        AskedSo.asked += 1
        return (), {}


class Eager(Plain):
    def __getattr__(self, name: str) -> Any:
        if name != "__setstate__":
            raise AttributeError(name)
        return lambda attributes: setattr(self, "set", attributes)


class Veiled(Plain):
    def __getattribute__(self, name: str) -> Any:
        if name == "__reduce_ex__":
            return lambda protocol: (Plain, (), {"veiled": protocol})
        return super().__getattribute__(name)


class Slotted(Plain):
    __slots__ = ("slot",)


class Bare:
    """Its slots cannot be seen any more."""

    __slots__ = ("__dict__", "slot")


class Named(Plain):
    """Has said itself which slots it has."""

    __slotnames__ = ["q"]  # noqa: RUF012 - it has to be a list
    q = 5


class Double(Plain):
    locals()["__dict__"] = property(lambda _: {"double": True})


class Posing(Plain):
    locals()["__class__"] = property(lambda _: Plain)


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        return isinstance(other, Meta)

    def __hash__(cls) -> int:
        return 1


class Ping(metaclass=Meta):
    """Is equal to the next one."""


class Pong(metaclass=Meta):
    """Is another class nevertheless."""


class Text(str):
    """What `marshal` does not know."""

    __slots__ = ()


class Elsewhere(Plain):
    """Its module's name is such a string, with which `pickle` cannot do anything either."""

    __module__ = Text(__name__)


Called = type("Called", (Plain,), {"__module__": __name__})
Called.__name__ = Called.__qualname__ = Text("Called")


class Attributes(dict):  # type: ignore[type-arg]
    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ({"reduced": True},)


class Number(int):
    """Not only its attributes."""


class Failure(Exception):
    """An object that has more to it as well."""


class Bounded:
    """Names its slots, and has none."""

    __slots__ = ()


class Of(Plain, Bounded):
    """Has slots by one of its bases, though none of its own."""


class Colour(Enum):
    RED = 1


class Registered(Plain):
    """Has its say elsewhere."""


class Outer:
    class Inner(Plain):
        """Cannot be found by one name."""


Alias = type("Alias", (Plain,), {"__module__": __name__, "__qualname__": "Other"})
Other = Alias
"""What pickle finds by the qualified name."""


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    copyreg.pickle(Registered, lambda _: (Registered, (), {"registered": True}))
    yield
    del copyreg.dispatch_table[Registered]


def with_attributes(value: Any, **attributes: Any) -> Any:
    vars(value).update(attributes)
    return value


def with_dictionary(value: Any, attributes: dict[Any, Any]) -> Any:
    value.__dict__ = attributes
    return value


def slotted() -> Slotted:
    made = Slotted(a=1)
    setattr(made, "slot", 2)  # noqa: B010 - there is no such attribute, for mypy
    return made


def told(value: Any) -> Any:
    """All that there is to compare, by value; objects by their attributes."""
    if isinstance(value, Array):
        return Array, value.address, value.typecode, value.length
    if isinstance(value, list | tuple):
        return type(value), [told(each) for each in value]
    if not hasattr(value, "__dict__") or isinstance(value, type | Enum):
        return type(value), value
    attributes = [(name, told(each)) for name, each in object.__getattribute__(value, "__dict__").items()]
    return type(value), attributes, getattr(value, "slot", None), str(value) if isinstance(value, int) else None


DATA = [
    Plain(),
    Plain(a=1, b="zwölf", c=[1, (2.5, None)], d=True, e=-0.0, f=b"bytes", g=1 << 200, h=(), i=[[[1]]]),
    Heir(array=Array(4096, "q", 9), between=2, another=Array(8192, "d", 1)),
    Heir(hops=[(1, 0, 2**60, 1, 2**60)] * 9),
]
OTHERWISE = [
    Told(a=1), Taught(a=1), Reduced(a=1), ReducedSo(a=1), Made(a=1), slotted(), with_attributes(Number(5), a=1),
    with_attributes(Failure("why"), a=1), Of(a=1), Registered(a=1), Outer.Inner(a=1), Eager(a=1), Veiled(a=1),
    Named(a=1), Double(a=1), with_attributes(Ping(), a=1), with_attributes(Pong(), a=1), Alias(a=1),
    Asked(a=1), AskedSo(a=1),
    Plain(set={1}), Plain(dict={"a": 1}), Plain(bytes=bytearray(3)), Plain(number=Number(3)), Plain(colour=Colour.RED),
    Plain(kind=Plain), Plain(deep=[[[[1]]]]), Plain(long=[(each,) for each in range(65)]), Plain(large=bytes(1025)),
    Plain(arrays=[Array(0, "q", 1)]), with_attributes(Plain(), __name__=1),
    Plain(odd=Array(0, "q", Number(3))), Called(a=1), with_dictionary(Plain(), Attributes(a=1)),
    with_dictionary(Plain(), {1: 2}),
]  # fmt: skip


@pytest.mark.parametrize("value", [*DATA, *OTHERWISE], ids=lambda value: type(value).__name__)
def test_an_object_comes_out_as_pickle_would_have_it(value: Any) -> None:
    asked = Asked.asked + AskedSo.asked
    travelled = told(from_bytes(memoryview(to_bytes(value))))
    asked_then = Asked.asked + AskedSo.asked
    assert travelled == told(pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)))
    assert asked_then - asked == Asked.asked + AskedSo.asked - asked_then


def test_data_by_name_takes_the_short_way_and_nothing_else_does() -> None:
    assert [to_bytes(value)[0] for value in DATA] == [MARSHALLED] * len(DATA)
    assert [to_bytes(value)[0] for value in OTHERWISE] == [0] * len(OTHERWISE)
    assert to_bytes(Elsewhere(a=1))[0] == 0


def test_what_is_one_object_stays_one_and_what_leads_back_leads_back() -> None:
    shared = [1, 2]
    array = Array(0, "q", 1)
    value = Plain(a=shared, b=[shared, (shared,)], other=Heir())
    travelled = from_bytes(to_bytes(Plain(a=shared, b=[shared, (shared,)])))
    assert travelled.a is travelled.b[0]
    assert travelled.a is travelled.b[1][0]
    value.other.back, value.bound = value, [value.method]  # type: ignore[attr-defined]
    travelled = from_bytes(to_bytes(value))
    assert travelled.other.back is travelled
    assert travelled.bound[0].__self__ is travelled
    travelled = from_bytes(to_bytes(Plain(a=array, b=array)))
    assert travelled.a is travelled.b
    shared.append(shared)  # type: ignore[arg-type]
    travelled = from_bytes(to_bytes(Plain(a=shared)))
    assert travelled.a[2] is travelled.a


def test_a_state_does_not_grow_as_it_travels() -> None:
    names = {f"an_attribute_{number}": number for number in range(40)}
    # Where it has arrived, names of attributes are one for each class and no longer one for all (Python 3.13).
    value = from_bytes(to_bytes(Plain(**names, other=Heir(**names))))
    first = len(to_bytes(value))
    for _ in range(3):
        value = from_bytes(to_bytes(value))
    assert len(to_bytes(value)) <= first


def test_what_pickle_refuses_is_refused() -> None:
    class Local(Plain):
        pass

    bare = Bare()
    bare.slot = 1  # type: ignore[attr-defined]
    del Bare.__slots__
    hooked = with_attributes(Plain(), __reduce_ex__=lambda _: 1)
    for value in (Local(), Plain(a=lambda: None), Plain(a=memoryview(b"")), bare, hooked, Posing(a=1)):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)) as expected:
            pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        with pytest.raises(expected.type):
            to_bytes(value)


def test_a_class_that_changes_is_looked_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_bytes(Heir(a=1))[0] == MARSHALLED
    with monkeypatch.context() as changed:
        changed.setattr(Heir, "__getstate__", lambda _: {"told": True})
        assert vars(from_bytes(to_bytes(Heir(a=1)))) == {"told": True}
    old = Heir(a=1)
    monkeypatch.setitem(globals(), "Heir", type("Heir", (Plain,), {"__module__": __name__}))
    with pytest.raises(pickle.PicklingError):
        to_bytes(old)


def test_a_class_may_be_another_one_where_the_object_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    travelling, empty = to_bytes(Heir(a=1)), to_bytes(Heir())
    for kind in (Taught, Eager, Made):
        monkeypatch.setitem(globals(), "Heir", type("Heir", (kind,), {"__module__": __name__}))
        for state, whole in ((travelling, {"a": 1}), (empty, {})):
            value = pickle.loads(pickle.dumps(with_attributes(object.__new__(Heir), **whole)))
            assert told(from_bytes(state)) == told(value)


def test_a_class_that_is_not_there_is_named_with_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("travels")
    module.__file__ = "travels.py"
    monkeypatch.setitem(sys.modules, "travels", module)
    kind = module.Gone = type("Gone", (Plain,), {"__module__": "travels"})  # type: ignore[attr-defined]
    travelling = to_bytes(kind(a=1))
    assert travelling[0] == MARSHALLED
    del module.Gone
    with pytest.raises(AttributeError, match=r"Can't get attribute 'Gone' on <module 'travels' from 'travels.py'>"):
        from_bytes(travelling)
    monkeypatch.delitem(sys.modules, "travels")
    with pytest.raises(ModuleNotFoundError, match="travels"):
        from_bytes(travelling)
