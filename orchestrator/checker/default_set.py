"""What `testbed verify` searches when it is asked for nothing in particular.

The sets go from small to large, by the number of states of the voting protocol. Whatever links in order can do,
reordered ones can do too: in order is searched where reordered would be too much.
"""

from guest.protocol.address_space import Access, Kind, Operation
from orchestrator.checker.scenario import Links, Scenario, Start
from orchestrator.checker.thread_system import ThreadScenario

_REORDERED = Links.REORDERED
_PARTLY_SHARED, _SHARED, _MODIFIED = Start.PARTLY_SHARED, Start.SHARED, Start.MODIFIED

QUICK = (
    Scenario((1, 1), threads=2),
    Scenario((2, 2), _REORDERED, _SHARED, pages=2),
    Scenario((3, 3), _REORDERED, _MODIFIED),
    Scenario((3, 3), _REORDERED),
    Scenario((2, 2), _REORDERED, give_ups=2, deaths=1),
    Scenario((2, 2), _REORDERED, pages=2),
    Scenario((1, 1), _REORDERED, deaths=1, returns=1),
    Scenario((1, 1, 0), _REORDERED, _MODIFIED, leaves=2),
    Scenario((1, 1, 1), start=_SHARED, pages=2),
    Scenario((1, 1, 1), _REORDERED, _PARTLY_SHARED),
    Scenario((1, 1, 1), _REORDERED, _MODIFIED),
)
"""Some seconds: every start and kind of links, pages, threads, give-ups, deaths, returns and leaves once at least."""

_UNMAP, _MAP, _MOVE = Operation(Kind.UNMAP, 0, 1), Operation(Kind.MAP, 0, 1), Operation(Kind.MOVE, 0, 1, to=1)
_COPY, _DROP = Operation(Kind.COPY, 0, 1), Operation(Kind.UNMAP, 1, 1)
_READ_ONLY, _WRITABLE = Operation(Kind.PROTECT, 0, 1, Access.READ), Operation(Kind.PROTECT, 0, 1, Access.WRITE)

DEFAULT = (
    Scenario((2, 2), _REORDERED, space=(_UNMAP, _MAP), give_ups=1),
    Scenario((2, 2), _REORDERED, space=(_READ_ONLY, _WRITABLE)),
    Scenario((2, 1), space=(_UNMAP, _MAP), deaths=1),
    Scenario((1, 1, 1), _REORDERED, _SHARED, space=(_UNMAP,)),
    Scenario((1, 1, 1), start=_MODIFIED, pages=2, mapped=1, space=(_MOVE,)),
    Scenario((2, 1), _REORDERED, pages=2, mapped=1, space=(_COPY, _DROP)),
    Scenario((1, 1, 1), start=_MODIFIED, pages=2, mapped=1, space=(_COPY,)),
    Scenario((3, 3), _REORDERED),
    Scenario((2, 2), _REORDERED, give_ups=2, deaths=1),
    Scenario((2, 2), _REORDERED, pages=2),
    Scenario((2, 2), _REORDERED, give_ups=1, leaves=1),
    Scenario((1, 0, 1), leaves=1, pages=2),
    Scenario((1, 1, 0), start=_MODIFIED, leaves=1, deaths=1),
    Scenario((1, 1, 0), start=_SHARED, leaves=2, returns=1),
    Scenario((2, 2), _REORDERED, deaths=2, returns=1),
    Scenario((1, 1, 1), start=_SHARED, pages=2),
    Scenario((1, 1, 1), _REORDERED, _PARTLY_SHARED),
    Scenario((1, 1, 0), start=_MODIFIED, deaths=1, returns=1),
    Scenario((1, 1, 1), _REORDERED, _MODIFIED),
    Scenario((4, 4), _REORDERED),
    Scenario((1, 1, 0), start=_SHARED, deaths=1, returns=1),
    Scenario((1, 1, 1), start=_SHARED, deaths=2),
    Scenario((1, 1, 1), _REORDERED, _PARTLY_SHARED, pages=2),
    Scenario((1, 1, 1)),
    Scenario((1, 1, 1), _REORDERED, _MODIFIED, pages=2),
    Scenario((2, 2), _REORDERED, threads=2),
    Scenario((1, 1, 1, 0), start=_SHARED),
    Scenario((1, 1, 1), _REORDERED, _PARTLY_SHARED, deaths=1),
    Scenario((1, 1, 0), start=_SHARED, deaths=2, returns=1),
    Scenario((1, 0, 1), deaths=1, returns=1),
    Scenario((1, 1, 1), _REORDERED, _MODIFIED, deaths=1),
    Scenario((1, 1, 1), start=_PARTLY_SHARED, leaves=1),
    Scenario((1, 1, 1), start=_PARTLY_SHARED, give_ups=1, deaths=1),
    Scenario((1, 1, 1), _REORDERED, _SHARED, give_ups=1),
    Scenario((2, 1, 1), _REORDERED, _SHARED),
    Scenario((2, 1, 1), _REORDERED, _PARTLY_SHARED),
    Scenario((1, 1, 1), deaths=1),
    Scenario((2, 2, 1), start=_SHARED),
    Scenario((1, 2, 2), start=_PARTLY_SHARED),
)
"""Three minutes at most on two cores, also on slow ones."""

THREADS_QUICK = (
    ThreadScenario(2, 2, 2, refusals=1),
    ThreadScenario(2, 1, 2, later=1, group_exits=1),
    ThreadScenario(2, 2, 2, deaths=1),
    ThreadScenario(3, 1, 1, deaths=1),
)
"""Less than a second."""

THREADS = (
    ThreadScenario(2, 2, 3, refusals=1),
    ThreadScenario(2, 1, 2, later=2, group_exits=1),
    ThreadScenario(2, 2, 2, group_exits=1, deaths=1),
    ThreadScenario(3, 1, 4, refusals=1),
    ThreadScenario(3, 2, 2),
    ThreadScenario(3, 1, 2, deaths=1),
    ThreadScenario(2, 1, 2, later=1, deaths=1, watches=1),
)
"""A few seconds."""

THOROUGH = (
    *DEFAULT,
    Scenario((2, 2, 1), start=_MODIFIED),
    Scenario((1, 1, 1), _REORDERED),
)
"""The largest ones, too: a third more states."""
