"""Messages in flight, as values: what may arrive next depends on the links."""

from collections.abc import Iterable, Iterator
from typing import Protocol

Flight = tuple[int, int, int]
"""(sender, receiver, number of the parcel)."""

Net = tuple[Flight, ...]
"""All that is in flight, in a canonical order: equal nets behave equally."""


class Network(Protocol):
    """What links of a kind do."""

    def deliveries(self, net: Net) -> Iterator[tuple[Flight, Net]]:
        """Whatever may arrive next, and what is left then."""
        ...

    def add(self, net: Net, sender: int, sends: Iterable[tuple[int, int]]) -> Net:
        """`sends` of (receiver, parcel), in the order of sending."""
        ...


class InOrder:
    """First in, first out for every ordered pair of kernels."""

    def deliveries(self, net: Net) -> Iterator[tuple[Flight, Net]]:
        """The head of every pair's queue. Flights are sorted by pair, and in order inside a pair."""
        pair: tuple[int, int] | None = None
        for index, flight in enumerate(net):
            if flight[:2] != pair:
                pair = flight[:2]
                yield flight, net[:index] + net[index + 1 :]

    def add(self, net: Net, sender: int, sends: Iterable[tuple[int, int]]) -> Net:
        """Each at the end of its pair's queue."""
        flights = [*net, *((sender, to, parcel) for to, parcel in sends)]
        flights.sort(key=_pair)
        return tuple(flights)


class Reordered:
    """No order at all."""

    def deliveries(self, net: Net) -> Iterator[tuple[Flight, Net]]:
        """Everything in flight, equal ones once."""
        last = None
        for index, flight in enumerate(net):
            if flight != last:
                last = flight
                yield flight, net[:index] + net[index + 1 :]

    def add(self, net: Net, sender: int, sends: Iterable[tuple[int, int]]) -> Net:
        """Anywhere."""
        return tuple(sorted([*net, *((sender, to, parcel) for to, parcel in sends)]))


def _pair(flight: Flight) -> tuple[int, int]:
    return flight[:2]
