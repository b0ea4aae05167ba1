"""When messages arrive: delays drawn from one seeded source, order kept between two kernels as the rings keep it."""

from random import Random

from orchestrator.simulator.conditions import Conditions


class Network:
    """Says when what is sent now arrives. Draws nothing that the conditions do not need."""

    def __init__(self, conditions: Conditions, kernels: int, random: Random) -> None:
        least_us, most_us = conditions.delay_us
        self._least_ns = least_us * 1000
        self._spread_ns = (most_us - least_us) * 1000
        self._reorder = conditions.reorder
        self._duplicate = conditions.duplicate
        self._lose_doorbell = conditions.lose_doorbell
        self._kernels = kernels
        self._random = random.random
        self._last_ns: dict[int, int] = {}
        """When the newest message of an ordered pair of kernels arrives."""

    def delay_ns(self) -> int:
        """How long a message takes."""
        return self._least_ns + int(self._random() * (self._spread_ns + 1)) if self._spread_ns else self._least_ns

    def arrivals_ns(self, sender: int, receiver: int, now_ns: int) -> tuple[int, ...]:
        """When a message that is sent now arrives: once, or twice if it is duplicated."""
        first = self._arrival_ns(sender, receiver, now_ns)
        if self._duplicate and self._random() < self._duplicate:
            return first, self._arrival_ns(sender, receiver, now_ns)
        return (first,)

    def doorbell_lost(self) -> bool:
        """Whether the doorbell that is rung now does not wake the sleeper."""
        return self._lose_doorbell > 0 and self._random() < self._lose_doorbell

    def _arrival_ns(self, sender: int, receiver: int, now_ns: int) -> int:
        arrival_ns = now_ns + self.delay_ns()
        if self._reorder:
            return arrival_ns
        pair = sender * self._kernels + receiver
        arrival_ns = max(arrival_ns, self._last_ns.get(pair, 0))
        self._last_ns[pair] = arrival_ns
        return arrival_ns
