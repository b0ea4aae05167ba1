"""The model checker: every interleaving of a small system of production engines, searched breadth first.

`scenario` says what system, `machine` runs one kernel of it (the very engine of the guests, with a model of its memory
and threads), `network` holds the messages in flight, `system` says what may happen next, `search` visits every state
and checks the `invariants` of docs/protocol.md, `walk` goes through larger systems at random, `trace` makes a
counterexample readable.
"""

from orchestrator.checker.scenario import Scenario
from orchestrator.checker.search import Report, explore
from orchestrator.checker.walk import wander

__all__ = ["Report", "Scenario", "explore", "wander"]
