"""Random walks through systems that are too large to search: the same moves, the same invariants, one seed."""

from random import Random
from time import perf_counter

from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.search import Report
from orchestrator.checker.step import Violation
from orchestrator.checker.systems import AnyScenario, Searchable, system_of

MOVES_A_WALK = 10_000
"""A walk ends when nothing is left to do; far more moves than that are an endless exchange of messages."""


RARELY = 0.05
"""How often a walk may let something die; otherwise most walks would end before anything has happened."""


def wander(scenario: AnyScenario, seed: int, walks: int) -> Report:
    """Go through the scenario `walks` times, choosing among all possible moves at random, up to the first violation.

    The report is never complete; `states` counts moves, `depth` is the longest walk. The same seed walks the same way.
    """
    report = Report(scenario, complete=False)
    system = system_of(scenario, report.parcels)
    report.start = system.start()
    begun = perf_counter()
    choose = Random(seed)
    for _ in range(walks):
        report.trace = []
        report.violation = _walk(system, report, choose)
        report.states += len(report.trace)
        report.depth = max(report.depth, len(report.trace))
        if report.violation:
            break
    report.duration_s = perf_counter() - begun
    return report


def _walk(system: Searchable, report: Report, choose: Random) -> str | None:
    world = report.start
    assert world is not None
    trace: list[Move] = report.trace
    try:
        while len(trace) < MOVES_A_WALK:
            moves = list(system.moves(world))
            if all(move.spontaneous for move in moves):
                problem = system.stuck(world)
                if problem or not moves:
                    return problem
            likely = [move for move in moves if not move.rare]
            move = choose.choice(moves if not likely or choose.random() < RARELY else likely)
            trace.append(move)
            world = move.after
            problem = system.broken(world)
            if problem:
                return problem
    except BrokenMove as broken_off:
        trace.append(broken_off.move)
        return str(broken_off)
    except Violation as violation:
        return str(violation)
    return f"invariant 5: {MOVES_A_WALK} moves, and still not at rest"
