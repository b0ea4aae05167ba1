"""The whole system of a scenario: machines, links, and everything that may happen next in a state of them."""

from collections.abc import Iterator
from typing import NamedTuple

from guest.protocol.address_space import Access, Kind
from orchestrator.checker.machine import NO_EPOCH, Machine, Numbering, Outcome, Summary
from orchestrator.checker.move import BrokenMove, Move
from orchestrator.checker.network import Flight, InOrder, Net, Network, Reordered
from orchestrator.checker.scenario import Links, Scenario, Start
from orchestrator.checker.step import Violation

DEAD = -1
"""Stands for the local state of a dead kernel."""
NOBODY = -1


class World(NamedTuple):
    """A state of the whole system."""

    locals: tuple[int, ...]
    net: Net
    touched: tuple[int, ...]
    """For each page the kernels that ever had it."""
    written: int = 0
    """Mask of pages that were ever written by a kernel."""
    notices: tuple[tuple[int, int], ...] = ()
    """(dead, survivor that has not heard of it yet)."""
    arrivals: tuple[tuple[int, int], ...] = ()
    """(kernel that has come back, member that has not heard of it yet). Its threads do nothing until all have."""
    leaving: int = NOBODY
    """The kernel that is about to leave, if any; one after the other."""
    handing: int = 0
    """Mask of pages that nobody has taken over from it yet, as far as it has them."""
    fallen: int = 0
    """Mask of the kernels that ever died or left."""
    left: int = 0
    """Mask of those that left, and have not come back."""
    give_ups: int = 0
    deaths: int = 0
    returns: int = 0
    leaves: int = 0


_new_world = tuple.__new__
_PRESENT = Summary._fields.index("present")

SETTLING_MOVES = 10_000
"""On the way to its start a scenario comes to rest within far fewer deliveries."""


class System:
    """The machines and the links: what may happen next."""

    def __init__(self, scenario: Scenario, parcels: Numbering) -> None:
        self.scenario = scenario
        self.parcels = parcels
        kernels = range(scenario.kernels)
        self.machines = [Machine(kernel, scenario.engine_of(kernel), parcels, scenario.space) for kernel in kernels]
        self.network: Network = InOrder() if scenario.links is Links.IN_ORDER else Reordered()
        self._trying: tuple[int, str, Flight | None] = (0, "", None)
        only_copies = all(operation.kind is Kind.COPY for operation in scenario.space)
        self._copied = {page for operation in scenario.space if only_copies for page in operation.pages()[0]}

    def start(self) -> World:
        """The world as the scenario has it, brought there by the engines themselves."""
        scenario = self.scenario
        machines = self.machines
        world = World(tuple(machine.begin(scenario.pages, 1, 8) for machine in machines), (), (0,) * scenario.pages)
        if scenario.start is not Start.UNMAPPED:
            holders = range(int(scenario.start is Start.PARTLY_SHARED), scenario.kernels)
            for page in range(scenario.mapped_pages):
                for kernel in reversed(holders):
                    world = self._settle(self._operation(world, kernel, f"reads page {page}"))
                if scenario.start is Start.MODIFIED:
                    world = self._settle(self._operation(world, 0, f"writes page {page}"))
        return world._replace(
            locals=tuple(
                machine.rearm(local, scenario.threads, operations)
                for machine, local, operations in zip(machines, world.locals, scenario.operations, strict=True)
            )
        )

    def _operation(self, world: World, kernel: int, says: str) -> World:
        for what, outcome, _ in self.machines[kernel].moves(world.locals[kernel]):
            if what == says:
                return self.apply(world, kernel, outcome, world.net)
        return world

    def _settle(self, world: World) -> World:
        for _ in range(SETTLING_MOVES):
            move = next((move for move in self.moves(world) if not move.spontaneous), None)
            if move is None:
                return world
            world = move.after
        raise Violation("invariant 5: on the way to its start the system never comes to rest")

    def moves(self, world: World) -> Iterator[Move]:
        """Everything that may happen next. Raises BrokenMove where one of them cannot be carried out."""
        try:
            yield from self._moves(world)
        except Violation as violation:
            kernel, says, flight = self._trying
            raise BrokenMove(Move(kernel, says, None, world, flight), violation) from None

    def _moves(self, world: World) -> Iterator[Move]:
        locals_, net, machines, apply = world.locals, world.net, self.machines, self.apply
        for flight, rest in self.network.deliveries(net):
            sender, kernel, parcel = flight
            self._trying = kernel, "receives", flight
            outcome = machines[kernel].deliver(locals_[kernel], sender, parcel)
            yield Move(kernel, "receives", outcome, apply(world, kernel, outcome, rest), flight)
        idle = {newcomer for newcomer, _ in world.arrivals} if world.arrivals else ()
        for kernel, local in enumerate(locals_):
            if local == DEAD or kernel in idle:
                continue
            self._trying = kernel, "lets a thread access memory", None
            for says, outcome, spontaneous in machines[kernel].moves(local):
                yield Move(kernel, says, outcome, apply(world, kernel, outcome, net), None, spontaneous)
        if world.notices or world.arrivals:
            yield from self._news(world)
        if world.give_ups < self.scenario.give_ups:
            yield from self._give_ups(world)
        if world.deaths < self.scenario.deaths:
            yield from self._deaths(world)
        if world.leaving != NOBODY:
            yield from self._leave(world)
        elif not world.notices and not world.arrivals:  # one change of membership after the other
            if world.returns < self.scenario.returns:
                yield from self._returns(world)
            if world.leaves < self.scenario.leaves:
                yield from self._begin_to_leave(world)

    def _give_ups(self, world: World) -> Iterator[Move]:
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                self._trying = kernel, "lets a process die", None
                for says, outcome in self.machines[kernel].give_ups(local):
                    after = self.apply(world, kernel, outcome, world.net)._replace(give_ups=world.give_ups + 1)
                    yield Move(kernel, says, outcome, after, None, True, True)

    def _deaths(self, world: World) -> Iterator[Move]:
        """What the dead had sent may arrive, until its receiver hears of the death; what was sent to it never does."""
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for dead in living if len(living) > 1 else ():
            after = self._without(world, dead)._replace(deaths=world.deaths + 1)
            yield Move(dead, "dies", None, after, None, True, True)

    def _without(self, world: World, gone: int) -> World:
        """The kernel is no more, and nobody has heard of it yet."""
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        left = [entry for entry in world.notices if entry[1] != gone]
        return world._replace(
            locals=_put(world.locals, gone, DEAD),
            net=tuple(flight for flight in world.net if flight[1] != gone),
            notices=tuple(sorted(left + [(gone, kernel) for kernel in living if kernel != gone])),
            arrivals=tuple(entry for entry in world.arrivals if entry[1] != gone),
            leaving=NOBODY if world.leaving == gone else world.leaving,
            handing=0 if world.leaving == gone else world.handing,
            fallen=world.fallen | 1 << gone,
        )

    def _begin_to_leave(self, world: World) -> Iterator[Move]:
        """Whoever has no thread in a fault; not the origin, without which nobody gets anything new."""
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for kernel in living if len(living) > 1 else ():
            machine, local = self.machines[kernel], world.locals[kernel]
            summary = machine.summaries[local]
            if summary.asleep or summary.awake or kernel == machine.engine.origin:
                continue
            after = world._replace(
                locals=_put(world.locals, kernel, machine.rearm(local, self.scenario.threads, 0)),
                leaving=kernel,
                handing=(1 << self.scenario.pages) - 1,
            )
            yield Move(kernel, "begins to leave", None, after, None, True, True)

    def _leave(self, world: World) -> Iterator[Move]:
        """When nothing is on its way to it any more, another kernel reads page after page; when that one has had all
        that the leaving one has, it leaves."""
        leaving = world.leaving
        has = self.machines[leaving].summaries[world.locals[leaving]]
        others = (kernel for kernel, local in enumerate(world.locals) if local != DEAD and kernel != leaving)
        successor = next(others, NOBODY)
        if successor == NOBODY or has.pending:
            return
        if not has.present & world.handing:
            after = self._without(world, leaving)
            after = after._replace(left=after.left | 1 << leaving, leaves=after.leaves + 1)
            yield Move(leaving, "leaves", None, after)
            return
        machine, local = self.machines[successor], world.locals[successor]
        for page in range(self.scenario.pages):
            if not has.present & world.handing & 1 << page:
                continue
            if machine.summaries[local].readable >> page & 1:
                after = world._replace(handing=world.handing & ~(1 << page))
                yield Move(successor, f"has taken page {page} over", None, after)
            else:
                self._trying = successor, f"takes page {page} over", None
                outcome = machine.take_over(local, page)
                if outcome.local != local:
                    after = self.apply(world, successor, outcome, world.net)
                    yield Move(successor, f"takes page {page} over", outcome, after)

    def _returns(self, world: World) -> Iterator[Move]:
        """Only once all have heard of the death, and one kernel after the other: that is the membership's part."""
        living = [kernel for kernel, local in enumerate(world.locals) if local != DEAD]
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                continue
            self._trying = kernel, "comes back", None
            locals_ = list(world.locals)
            locals_[kernel] = self.machines[kernel].begin_again(
                [dead for dead, other in enumerate(world.locals) if other == DEAD and dead != kernel],
                self.scenario.threads,
                self.scenario.operations[kernel],
            )
            after = world._replace(
                locals=tuple(locals_),
                touched=tuple(mask & ~(1 << kernel) for mask in world.touched),
                arrivals=tuple((kernel, member) for member in living),
                left=world.left & ~(1 << kernel),
                returns=world.returns + 1,
            )
            yield Move(kernel, "comes back", None, after, None, True, True)

    def _news(self, world: World) -> Iterator[Move]:
        """Every kernel hears of a return before it hears of anything that happened to that kernel afterwards, and that
        one has left only when all that it sent has arrived."""
        for arrival in world.arrivals:
            newcomer, kernel = arrival
            self._trying = kernel, f"hears that kernel {newcomer} is back", None
            outcome = self.machines[kernel].welcome(world.locals[kernel], newcomer)
            arrivals = tuple(entry for entry in world.arrivals if entry != arrival)
            after = self.apply(world._replace(arrivals=arrivals), kernel, outcome, world.net)
            yield Move(kernel, f"hears that kernel {newcomer} is back", outcome, after)
        for notice in world.notices:
            dead, kernel = notice
            unread = world.left >> dead & 1 and any(flight[:2] == notice for flight in world.net)
            if notice in world.arrivals or unread:
                continue
            self._trying = kernel, f"hears that kernel {dead} died", None
            outcome = self.machines[kernel].bury(world.locals[kernel], dead)
            net = tuple(flight for flight in world.net if flight[0] != dead or flight[1] != kernel)
            notices = tuple(entry for entry in world.notices if entry != notice)
            after = self.apply(world._replace(notices=notices), kernel, outcome, net)
            yield Move(kernel, f"hears that kernel {dead} died", outcome, after)

    def apply(self, world: World, kernel: int, outcome: Outcome, net: Net) -> World:
        """The world after a step of one machine; `net` is what is in flight without the step's own messages."""
        local, sends, *more = outcome
        locals_ = list(world[0])
        locals_[kernel] = local
        touched, written = world[2], world[3]
        if any(more):
            net, touched, written = self._consequences(world, kernel, outcome, net, locals_)
        present = self.machines[kernel].summaries[local][_PRESENT]
        for page, mask in enumerate(touched):
            if present >> page & 1 and not mask >> kernel & 1:
                touched = _put(touched, page, mask | 1 << kernel)
        if sends:
            if world.fallen:
                sends = tuple(send for send in sends if locals_[send[0]] != DEAD)
            net = self.network.add(net, kernel, sends)
        # Not `_replace`, nor names of fields: half of the search's time is spent here.
        return _new_world(World, (tuple(locals_), net, touched, written, *world[4:]))

    def _consequences(
        self, world: World, kernel: int, outcome: Outcome, net: Net, locals_: list[int]
    ) -> tuple[Net, tuple[int, ...], int]:
        """What a step does to other kernels' copies and to what is known of pages: the net, `touched` and `written`."""
        touched, written = world.touched, world.written
        for page in outcome.poisoned:
            self._check_poison(world, page)
        for page in outcome.zeroed:
            self._check_zeros(world, kernel, page)
            if not touched[page] & self._living(world):
                touched = _put(touched, page, 0)
        for page in outcome.stored:
            if page in self._copied:
                self._check_moment(locals_, kernel, page)
            written |= 1 << page
            net = self._age(page, net, locals_, kernel)
        for page in outcome.unmapped:
            touched, written = _put(touched, page, 0), written & ~(1 << page)
        for page, number in outcome.moved:
            touched, written = self._move(kernel, page, number, touched, written)
        for page, number in outcome.copied:
            touched = _put(touched, number, touched[number] | touched[page] & 1 << kernel)
            if touched[page] >> kernel & 1:  # else it has been written since, by who has made his copy already
                written |= (written >> page & 1) << number
        if outcome.entered:
            self._check_entered(locals_, kernel)
        if outcome.done:
            self._check_done(locals_, outcome.done)
        return net, touched, written

    def _age(self, page: int, net: Net, locals_: list[int], writer: int) -> Net:
        """A store makes all other copies stale, in memories and in messages."""
        for kernel, local in enumerate(locals_):
            if kernel != writer and local != DEAD:
                locals_[kernel] = self.machines[kernel].age(local, page)
        values = self.parcels.values
        if any(values[parcel].fresh and values[parcel].message.page == page for _, _, parcel in net):
            aged = [(sender, to, self._stale(parcel, page)) for sender, to, parcel in net]
            net = tuple(aged) if self.scenario.links is Links.IN_ORDER else tuple(sorted(aged))
        return net

    def _stale(self, parcel: int, page: int) -> int:
        value = self.parcels.values[parcel]
        if value.fresh and value.message.page == page:
            return self.parcels.number(value._replace(fresh=False))
        return parcel

    def _move(
        self, kernel: int, page: int, number: int, touched: tuple[int, ...], written: int
    ) -> tuple[tuple[int, ...], int]:
        """One kernel's page has another number; what is known of the old one goes on for those that still have it."""
        bit = 1 << kernel
        touched = _put(touched, number, touched[number] | (touched[page] & bit))
        touched = _put(touched, page, touched[page] & ~bit)
        written |= (written >> page & 1) << number
        return touched, written if touched[page] else written & ~(1 << page)

    def _check_moment(self, locals_: list[int], kernel: int, page: int) -> None:
        """A copy is of one moment: once a kernel has made it, no other one stores to the page before it has. (Beside
        other operations, an epoch would not tell which it was.)"""
        own = self.machines[kernel].summaries[locals_[kernel]].epoch
        for other, local in enumerate(locals_):
            if local != DEAD and own < self.machines[other].summaries[local].epoch < NO_EPOCH:
                raise Violation(
                    f"kernel {kernel} stores to page {page}, of which kernel {other} has made its copy already"
                )

    def _check_entered(self, locals_: list[int], newcomer: int) -> None:
        """A newcomer has the address space that members of its epoch have."""
        epoch, own = self._space_of(newcomer, locals_[newcomer])
        for kernel, local in enumerate(locals_):
            if local != DEAD:
                reached, space = self._space_of(kernel, local)
                if reached == epoch and space != own:
                    raise Violation(f"kernel {newcomer} enters with {own} mapped, kernel {kernel} has {space}")

    def _space_of(self, kernel: int, local: int) -> tuple[int, tuple[Access, ...]]:
        machine = self.machines[kernel]
        return machine.summaries[local].epoch, machine.locals.values[local].allowed

    def _check_done(self, locals_: list[int], epoch: int) -> None:
        """What an operation is said to have done, it has done on every kernel."""
        for kernel, local in enumerate(locals_):
            if local != DEAD and self.machines[kernel].summaries[local].epoch < epoch:
                raise Violation(f"an operation is said to be done, but kernel {kernel} has not carried it out")

    def _living(self, world: World) -> int:
        return sum(1 << kernel for kernel, local in enumerate(world.locals) if local != DEAD)

    def _check_zeros(self, world: World, kernel: int, page: int) -> None:
        if world.written >> page & 1:
            raise Violation(f"invariant 4: page {page} becomes zeros in kernel {kernel} though it was written")

    def _check_poison(self, world: World, page: int) -> None:
        origin = self.machines[0].engine.origin
        if origin is not None and world.fallen >> origin & 1:
            return  # it alone knew who has the page
        for kernel, local in enumerate(world.locals):
            if local != DEAD:
                summary = self.machines[kernel].summaries[local]
                if summary.readable & ~summary.stale & 1 << page:
                    raise Violation(f"invariant 4: page {page} given up as lost while kernel {kernel} has it")


def _put(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])
