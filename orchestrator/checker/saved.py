"""A trace as JSON, and the engine led through it again, move by move."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from guest.protocol.address_space import Operation
from guest.protocol.messages import Message
from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.program_machine import ProgramParcel
from orchestrator.checker.program_set import PROGRAMS
from orchestrator.checker.program_system import ProgramScenario
from orchestrator.checker.scenario import Links, Scenario, Start
from orchestrator.checker.search import NEVER_AT_REST, Report, comes_to_rest
from orchestrator.checker.step import Parcel, Violation
from orchestrator.checker.systems import AnyScenario, Searchable, system_of
from orchestrator.checker.thread_step import ThreadParcel
from orchestrator.checker.thread_system import ThreadScenario
from orchestrator.checker.trace import describe, tell_move

Carried = Parcel | ThreadParcel | ProgramParcel
FORMAT = 1
"""Of the JSON; other numbers are refused."""


class Misfit(Exception):
    """The engine cannot be led through the trace: it is another one than that which made it."""


def scenario_as_json(scenario: AnyScenario) -> dict[str, Any]:
    """All of a scenario but the engine."""
    if isinstance(scenario, ProgramScenario):
        return {"program": str(scenario)}
    if isinstance(scenario, ThreadScenario):
        return {name: value for name, value in vars(scenario).items() if name != "engine"}
    return {
        "operations": list(scenario.operations),
        "links": scenario.links.value,
        "start": scenario.start.value,
        "pages": scenario.pages,
        "threads": scenario.threads,
        "give_ups": scenario.give_ups,
        "deaths": scenario.deaths,
        "returns": scenario.returns,
        "leaves": scenario.leaves,
        "space": [list(operation) for operation in scenario.space],
        "mapped": scenario.mapped,
    }


def trace_as_json(report: Report, protocol: str) -> dict[str, Any]:
    """A counterexample, with all that it takes to go through it again."""
    return {
        "format": FORMAT,
        "protocol": protocol,
        "scenario": scenario_as_json(report.scenario),
        "violation": report.violation,
        "moves": [_move_as_json(move, report.parcels) for move in report.trace],
    }


def _move_as_json(move: Move, parcels: Numbering) -> dict[str, Any]:
    found: dict[str, Any] = {"kernel": move.kernel, "says": move.says}
    if move.flight:
        sender, _, number = move.flight
        carried = parcels.values[number]._asdict()
        found |= {**carried, "sender": sender, "message": list(carried["message"])}
    return found


class _Wanted(NamedTuple):
    """A move as it was saved."""

    kernel: int
    says: str
    sender: int = -1
    parcel: Carried | None = None

    def __str__(self) -> str:
        what = f"receives {describe(self.parcel.message)} from {self.sender}" if self.parcel else self.says
        return f"kernel {self.kernel} {what}"

    def is_that_of(self, move: Move, parcels: Numbering) -> bool:
        """Whether it was saved of a move like this."""
        if (move.kernel, move.says) != (self.kernel, self.says):
            return False
        if move.flight is None:
            return self.parcel is None
        return move.flight[0] == self.sender and parcels.values[move.flight[2]] == self.parcel


@dataclass
class Saved:
    """A trace that was read."""

    protocol: str
    scenario: AnyScenario
    """Still without the protocol's engine."""
    violation: str
    moves: list[_Wanted]


def trace_from_json(saved: Any) -> Saved:
    """What `trace_as_json` made. Raises ValueError on anything else."""
    try:
        if saved["format"] != FORMAT:
            raise ValueError(f"found format {saved['format']}, expected {FORMAT}")
        what = saved["scenario"]
        moves = list(map(_wanted, saved["moves"]))
        return Saved(str(saved["protocol"]), _scenario(what), str(saved["violation"]), moves)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"found no trace, expected what --save-trace wrote ({error})") from None


def _scenario(what: dict[str, Any]) -> AnyScenario:
    if "program" in what:
        known = {str(each): each for each in PROGRAMS}
        if what["program"] not in known:
            raise ValueError(f"found the program '{what['program']}', expected one of: {'; '.join(known)}")
        return known[what["program"]]
    if "migrations" in what:
        return ThreadScenario(
            int(what["kernels"]),
            int(what["threads"]),
            int(what["migrations"]),
            later=int(what["later"]),
            refusals=int(what["refusals"]),
            group_exits=int(what["group_exits"]),
            deaths=int(what["deaths"]),
            watches=int(what.get("watches", 0)),
        )
    return Scenario(
        tuple(map(int, what["operations"])),
        Links(what["links"]),
        Start(what["start"]),
        pages=int(what["pages"]),
        threads=int(what["threads"]),
        give_ups=int(what["give_ups"]),
        deaths=int(what["deaths"]),
        returns=int(what.get("returns", 0)),
        leaves=int(what.get("leaves", 0)),
        space=tuple(Operation.of(*map(int, fields)) for fields in what.get("space", ())),
        mapped=what.get("mapped"),
    )


def _wanted(saved: dict[str, Any]) -> _Wanted:
    if "message" not in saved:
        return _Wanted(int(saved["kernel"]), str(saved["says"]))
    message = Message(*map(int, saved["message"]))
    return _Wanted(int(saved["kernel"]), str(saved["says"]), int(saved["sender"]), _parcel(message, saved))


def _parcel(message: Message, saved: dict[str, Any]) -> Carried:
    if "words" in saved:
        return ProgramParcel(message, None if saved["words"] is None else tuple(map(int, saved["words"])))
    return ThreadParcel(message, int(saved["age"])) if "age" in saved else Parcel(message, bool(saved["fresh"]))


class Replay:
    """The engine, led through a saved trace."""

    def __init__(self, saved: Saved, scenario: AnyScenario) -> None:
        self.scenario = scenario
        self.parcels = Numbering()
        self.system: Searchable = system_of(scenario, self.parcels)
        self.violation: str | None = None
        """What the engine did wrong, once `steps` has ended."""
        self._wanted = saved.moves

    def steps(self) -> Iterator[tuple[Move | None, Any]]:
        """Every move (none for the start) and the world after it, from the start to the end or to the first violation.

        Raises Misfit where the engine cannot do what the trace says.
        """
        try:
            world = self.system.start()
            yield None, world
            for number, wanted in enumerate(self._wanted, 1):
                self.violation = self.system.broken(world)
                if self.violation:
                    return
                move = self._find(number, wanted, world)
                world = move.after
                yield move, world
            self.violation = self.system.broken(world) or self._unrest(world)
        except BrokenMove as broken_off:
            self.violation = str(broken_off)
            yield broken_off.move, broken_off.move.after
        except Violation as violation:
            self.violation = str(violation)

    def _find(self, number: int, wanted: _Wanted, world: Any) -> Move:
        possible: list[str] = []
        for move in self.system.moves(world):
            if wanted.is_that_of(move, self.parcels):
                return move
            possible.append(tell_move(move, self.parcels).partition(": sends")[0])
        raise Misfit(
            f"step {number} of the trace is '{wanted}', "
            f"but here the engine allows only: {'; '.join(possible) or 'nothing'}"
        )

    def _unrest(self, world: Any) -> str | None:
        if all(move.spontaneous for move in self.system.moves(world)):
            return self.system.stuck(world)
        return None if comes_to_rest(self.system, world) else NEVER_AT_REST
