"""The protocols that an experiment can name."""

from guest.protocol.engine import Engine
from guest.protocol.origin import OriginEngine
from guest.protocol.voting import VotingEngine

PROTOCOLS: dict[str, type[Engine]] = {"voting": VotingEngine, "origin": OriginEngine}
