"""Histories of loads and stores, and whether a memory consistency model allows them.

A history is what threads stored and what they saw; the search asks whether one memory, one step at a time, could have
shown them that. It knows nothing of pages, messages or protocols.
"""

from orchestrator.histories.history import History, Interval, Operation, load, store
from orchestrator.histories.search import interleaving, is_linearizable, is_sequentially_consistent

__all__ = [
    "History",
    "Interval",
    "Operation",
    "interleaving",
    "is_linearizable",
    "is_sequentially_consistent",
    "load",
    "store",
]
