"""The protocol of threads: one kernel's side of a distributed process whose threads move between kernels.

A thread moves at a migration point, where its state can travel, in three messages:

    THREAD_MIGRATE  source → destination   here is the thread; it has placeholders on these kernels
    THREAD_PLACED   destination → source   a process waits with its state (BACK, CLONED, CREATED), or it is refused
    THREAD_GO       source → destination   it does not run here any more, and may run with you

Until the source has said GO the thread is the source's: it goes on there if the destination refuses or dies, and dies
there with the source. With GO it is the destination's. At the source its process becomes its *placeholder*,
which takes the thread back when it returns, and ends with it:

    THREAD_EXIT     last kernel → those with a placeholder, and home    the thread has ended

The *group*, all threads of the process, ends when home finds by counting (`guest.protocol.count`) that none is left, or
when a thread says so. Whoever's part has ended says it to home, and home to all that have not said it:

    THREAD_COUNT    home → all, each → home    how many threads are with you, and how many have ever come?
    GROUP_EXIT      home → all, each → home    the group ends, is over here

When a kernel dies, its threads are lost; which ones, the survivors find out by calling the roll
(`guest.protocol.roll`):

    THREAD_ROLL     each → each                this thread of yours is with me; and last: that is all

When home dies, nobody can join the process any more, and nobody counts: threads go on and move between the kernels
that there are, and each kernel dissolves its part once nothing of the process is left there. Whoever has ended the
group by then says so to all in home's place.

Fields: the thread in `page`; of MIGRATE the placeholders in `copyset`; of PLACED the placement in `flags`; of EXIT
whether it was the kernel's last thread in `flags`; of COUNT the round in `request`, threads in `version`, arrivals in
`stamp`; of ROLL the dead in `copyset`, and in `flags` whether that is all. Links are in order, as rings are.

Pure, like the engine of pages. A kernel that has died and come back is not of this process any more.
"""

from collections.abc import Hashable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple, Self

from guest.protocol.count import Count, Verdict
from guest.protocol.effects import Send
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.roll import RollCall
from guest.protocol.thread_effects import (
    Create,
    Dissolve,
    Drop,
    EndPlaceholder,
    EndThread,
    GroupEnded,
    Lost,
    Park,
    Place,
    Placement,
    Run,
    Stay,
    TakeState,
    ThreadEffect,
    Why,
)

_MIGRATE, _PLACED, _GO = int(MessageName.THREAD_MIGRATE), int(MessageName.THREAD_PLACED), int(MessageName.THREAD_GO)
_EXIT, _COUNT, _ROLL = int(MessageName.THREAD_EXIT), int(MessageName.THREAD_COUNT), int(MessageName.THREAD_ROLL)
_GROUP_EXIT = int(MessageName.GROUP_EXIT)

LAST = 1
"""`Message.flags` of THREAD_EXIT: no thread is left on the sender. Of THREAD_ROLL: all have been named."""
ANSWER = 1
"""`Message.flags` of THREAD_COUNT: this is what was counted; for readers of traces."""

THREAD_MESSAGES = frozenset((_MIGRATE, _PLACED, _GO, _EXIT, _COUNT, _ROLL, _GROUP_EXIT))
"""Which messages are this engine's."""


class Part(IntEnum):
    """What this kernel has of the process."""

    NONE = 0
    """Nothing, not yet or not any more."""
    CREATING = 1
    """It is joining."""
    THERE = 2


class Stage(IntEnum):
    """How far a thread that arrives has come."""

    JOINING = 0
    """It waits until the process is created here."""
    PLACING = 1
    """It waits for a process."""
    PLACED = 2
    """It has one, but its source has still to call the roll."""
    ANSWERED = 3
    """Its source knows."""


class Arrival(NamedTuple):
    """A thread on its way here: it is still the source's."""

    source: int
    copyset: int
    """Mask of the kernels that have a placeholder of it, once it is here."""
    placement: Placement
    stage: Stage


class ThreadsEngine:
    """What one kernel knows of the threads, and what it does with them.

    Events return effects (`guest.protocol.thread_effects`), to be carried out in order, completely, before the next
    event. Once the group has ended here, events of threads that are no more do nothing.
    """

    def __init__(self, kernel: int, kernels: Iterable[int], home: int | None = None) -> None:
        """`kernels` are all that the process may use. Home, the lowest one if not said, has it from the beginning."""
        self.kernel = kernel
        self._others = tuple(sorted({*kernels} - {kernel}))
        self.home = min(kernel, *self._others, kernel) if home is None else home
        self.part = Part.THERE if kernel == self.home else Part.NONE
        self.ended = False
        """Whether the group has ended, as far as this kernel is concerned."""
        self.arrivals = 0
        """How many threads ever began here or were let in."""
        self._threads: dict[int, int] = {}
        """Threads that are here, those in `_departing` too; by thread, the kernels that have a placeholder of it."""
        self._departing: dict[int, int] = {}
        """By thread, the destination."""
        self._arriving: dict[int, Arrival] = {}
        self._placeholders: frozenset[int] = frozenset()
        self._roll = RollCall()
        self._count = Count()
        """Home's."""
        self._still: tuple[int, ...] = ()
        """Home's: where the group has still to end."""

    # Threads ----------------------------------------------------------------------------------------------------------

    def start(self, thread: int) -> list[ThreadEffect]:
        """A thread begins here, where the process is. The number is given once only in the life of the process."""
        if self.ended:
            return []
        if self.part is not Part.THERE:
            raise ProtocolError(f"kernel {self.kernel} is told to start thread {thread} where there is no process")
        if thread in self._threads or thread in self._placeholders:
            raise ProtocolError(f"kernel {self.kernel} is told to start thread {thread}, which there is already")
        self.arrivals += 1
        self._threads[thread] = 0
        return [Run(thread)]

    def migrate(self, thread: int, to: int) -> list[ThreadEffect]:
        """The thread is at a migration point, and wants to go on at kernel `to`. A Stay or a Park says what came of it;
        until then it does not run."""
        if self.ended:
            return []
        self._expect_running(thread, "migrate")
        if to == self.kernel:
            return [Stay(thread, Why.HERE)]
        if to not in self._others:
            return [Stay(thread, Why.DIED)]
        self._departing[thread] = to
        return [Send(to, Message(_MIGRATE, thread, copyset=self._threads[thread] | 1 << self.kernel))]

    def exit(self, thread: int) -> list[ThreadEffect]:
        """The thread, which runs here, has ended. (One whose process dies while it departs may yet run elsewhere: it
        has ended once a Stay of it comes.)"""
        if self.ended:
            return []
        self._expect_running(thread, "end")
        told = self._threads.pop(thread) | 1 << self.home
        flags = 0 if self._threads or self._arriving else LAST
        effects: list[ThreadEffect] = [
            Send(other, Message(_EXIT, thread, flags=flags)) for other in self._others if told >> other & 1
        ]
        self._something_ended(effects)
        return effects

    def exit_group(self) -> list[ThreadEffect]:
        """A thread here ends the process as a whole: at once here, then everywhere."""
        effects: list[ThreadEffect] = []
        if not self.ended:
            self._end(effects, told_by=None)
        return effects

    def _expect_running(self, thread: int, what: str) -> None:
        if thread not in self._threads or thread in self._departing:
            raise ProtocolError(f"kernel {self.kernel} is told to {what} thread {thread}, which does not run there")

    # What the surroundings answer -------------------------------------------------------------------------------------

    def created(self) -> list[ThreadEffect]:
        """The process has been created here: see `Create`."""
        effects: list[ThreadEffect] = []
        if self.part is Part.CREATING:
            self.part = Part.THERE
            for thread, arrival in self._arriving.items():
                if arrival.stage is Stage.JOINING:
                    self._arriving[thread] = arrival._replace(stage=Stage.PLACING)
                    effects.append(Place(thread, arrival.placement))
        return effects

    def placed(self, thread: int) -> list[ThreadEffect]:
        """A process waits with the thread's state: see `Place`."""
        effects: list[ThreadEffect] = []
        arrival = self._arriving.get(thread)
        if arrival is not None and arrival.stage is Stage.PLACING:
            self._arriving[thread] = arrival._replace(stage=Stage.PLACED)
            self._answer(thread, effects)
        return effects

    def refused(self, thread: int) -> list[ThreadEffect]:
        """There is no process for the thread that arrived, or no way to create one; its state has been dropped."""
        effects: list[ThreadEffect] = []
        arrival = self._arriving.get(thread)
        if arrival is not None and arrival.stage <= Stage.PLACING:
            self._refuse(thread, effects)
        return effects

    def _refuse(self, thread: int, effects: list[ThreadEffect]) -> None:
        arrival = self._arriving.pop(thread)
        effects.append(Send(arrival.source, Message(_PLACED, thread, flags=Placement.REFUSED)))
        if self.part is Part.CREATING and not self._arriving:
            self._dissolve(effects)
        self._tidy(effects)

    def _answer(self, thread: int, effects: list[ThreadEffect]) -> None:
        """Tell the source of a thread that was placed, unless a roll has still to come from there."""
        arrival = self._arriving[thread]
        if arrival.stage is Stage.PLACED and self._roll.abreast(arrival.source):
            self._arriving[thread] = arrival._replace(stage=Stage.ANSWERED)
            effects.append(Send(arrival.source, Message(_PLACED, thread, flags=arrival.placement)))

    # Messages ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: Message) -> list[ThreadEffect]:
        """One message of another kernel. Raises ProtocolError on a message that is not of threads."""
        effects: list[ThreadEffect] = []
        if sender not in self._others:
            return effects  # it is dead
        match message.name:
            case MessageName.THREAD_MIGRATE:
                self._let_in(message.page, sender, message.copyset, effects)
            case MessageName.THREAD_PLACED:
                self._let_go(message.page, sender, Placement(message.flags), effects)
            case MessageName.THREAD_GO:
                self._run(message.page, sender, effects)
            case MessageName.THREAD_EXIT:
                self._end_placeholder(message.page, effects)
                if message.flags & LAST:
                    self._something_ended(effects)
            case MessageName.THREAD_COUNT:
                self._tell_count(sender, message, effects)
            case MessageName.GROUP_EXIT:
                if not self.ended:
                    self._end(effects, told_by=sender)
                self._ended_at(sender, effects)
            case MessageName.THREAD_ROLL:
                self._hear_roll(sender, message, effects)
            case name:
                raise ProtocolError(f"kernel {sender} sends message {name}, which is none of threads")
        return effects

    def _let_in(self, thread: int, source: int, copyset: int, effects: list[ThreadEffect]) -> None:
        """Destination: a thread arrives."""
        if thread in self._threads or thread in self._arriving:
            raise ProtocolError(f"kernel {source} sends thread {thread}, which kernel {self.kernel} has")
        if self.ended or (self.part is Part.NONE and self.home not in self._others):
            effects.append(Send(source, Message(_PLACED, thread, flags=Placement.REFUSED)))
            return
        self.arrivals += 1
        self._roll.seen(thread)
        placement = Placement.CLONED if self.part is Part.THERE else Placement.CREATED
        placement = Placement.BACK if thread in self._placeholders else placement
        stage = Stage.PLACING if self.part is Part.THERE else Stage.JOINING
        self._arriving[thread] = Arrival(source, copyset & ~(1 << self.kernel), placement, stage)
        effects.append(TakeState(thread))
        if stage is Stage.PLACING:
            effects.append(Place(thread, placement))
        elif self.part is Part.NONE:
            self.part = Part.CREATING
            effects.append(Create())

    def _let_go(self, thread: int, to: int, placement: Placement, effects: list[ThreadEffect]) -> None:
        """Source: the destination has answered."""
        if self._departing.get(thread) != to:
            return  # the group has ended
        del self._departing[thread]
        if placement is Placement.REFUSED:
            effects.append(Stay(thread, Why.REFUSED))
            return
        del self._threads[thread]
        self._placeholders |= {thread}
        effects += [Park(thread, to, placement), Send(to, Message(_GO, thread))]

    def _run(self, thread: int, source: int, effects: list[ThreadEffect]) -> None:
        """Destination: the thread is ours."""
        if self.ended:
            return
        arrival = self._arriving.get(thread)
        if arrival is None or arrival.stage is not Stage.ANSWERED or arrival.source != source:
            raise ProtocolError(f"kernel {source} lets thread {thread} go on, which was not placed")
        del self._arriving[thread]
        self._placeholders -= {thread}
        self._threads[thread] = arrival.copyset
        effects.append(Run(thread))

    def _end_placeholder(self, thread: int, effects: list[ThreadEffect]) -> None:
        if thread in self._placeholders:
            self._placeholders -= {thread}
            effects.append(EndPlaceholder(thread))
            self._tidy(effects)

    # The end of the group ---------------------------------------------------------------------------------------------

    def _something_ended(self, effects: list[ThreadEffect]) -> None:
        """A kernel may have no thread any more. Home counts, if it has none either; others may be alone."""
        if self.kernel != self.home:
            self._tidy(effects)
        elif self._count.under_way:
            self._count.renew()
        elif not (self.ended or self._threads or self._arriving) and self.arrivals:
            self._go_on(Verdict.AGAIN, effects)

    def _go_on(self, verdict: Verdict, effects: list[ThreadEffect]) -> None:
        """Home: what follows from a count."""
        while verdict is Verdict.AGAIN and not (self._threads or self._arriving):
            verdict = self._count.begin(self._others, self.arrivals)
            question = Message(_COUNT, request=self._count.round)
            effects += [Send(other, question) for other in self._others]
        if verdict is Verdict.ENDED and not self.ended:
            self._end(effects, told_by=None)

    def _tell_count(self, sender: int, message: Message, effects: list[ThreadEffect]) -> None:
        if self.kernel == self.home:
            if not self.ended:
                self._go_on(self._count.answer(sender, message.request, message.version, message.stamp), effects)
            return
        threads = len(self._threads) + len(self._arriving)
        answer = Message(_COUNT, request=message.request, flags=ANSWER, version=threads, stamp=self.arrivals)
        effects.append(Send(sender, answer))

    def _end(self, effects: list[ThreadEffect], told_by: int | None) -> None:
        """All that is here ends, and whoever needs to know is told."""
        self.ended = True
        effects += [Drop(thread) for thread in self._arriving]
        effects += [EndThread(thread) for thread in self._threads]
        effects += [EndPlaceholder(thread) for thread in sorted(self._placeholders)]
        self._arriving, self._threads, self._departing, self._placeholders = {}, {}, {}, frozenset()
        self._dissolve(effects)
        if self.kernel == self.home:
            self._still = self._others
        if self.home in self._others:
            effects.append(Send(self.home, Message(_GROUP_EXIT)))
        else:
            self._tell_all(effects, but=told_by)
        self._ended_at(self.kernel, effects)

    def _tell_all(self, effects: list[ThreadEffect], but: int | None = None) -> None:
        effects += [Send(other, Message(_GROUP_EXIT)) for other in self._others if other != but]

    def _ended_at(self, kernel: int, effects: list[ThreadEffect]) -> None:
        """Home: the group has ended there, or there is no such kernel any more."""
        if self.kernel != self.home or not self.ended:
            return
        before, self._still = self._still, tuple(other for other in self._still if other != kernel)
        if not self._still and (before or kernel == self.kernel):
            effects.append(GroupEnded())

    def _dissolve(self, effects: list[ThreadEffect]) -> None:
        if self.part is not Part.NONE:
            self.part = Part.NONE
            effects.append(Dissolve())

    def _tidy(self, effects: list[ThreadEffect]) -> None:
        """Home is dead: nobody else ends what is here."""
        orphaned = self.kernel != self.home and self.home not in self._others
        if orphaned and not (self._threads or self._arriving or self._placeholders):
            self._dissolve(effects)

    # Deaths -----------------------------------------------------------------------------------------------------------

    def peer_down(self, kernel: int) -> list[ThreadEffect]:
        """The kernel died. Whatever of it still arrives is ignored."""
        effects: list[ThreadEffect] = []
        if kernel not in self._others:
            return effects
        self._others = tuple(other for other in self._others if other != kernel)
        self._count.give_up()
        for thread in [thread for thread, to in self._departing.items() if to == kernel]:
            del self._departing[thread]
            effects.append(Stay(thread, Why.DIED))
        for thread in [thread for thread, arrival in self._arriving.items() if arrival.source == kernel]:
            del self._arriving[thread]
            effects += [Drop(thread), Lost(thread)]
            self._end_placeholder(thread, effects)
        if kernel == self.home:
            self._lose_home(effects)
        self._call_roll(kernel, effects)
        self._ended_at(kernel, effects)
        return effects

    def _lose_home(self, effects: list[ThreadEffect]) -> None:
        if self.ended:
            self._tell_all(effects)  # home may have died before it told all
        for thread in [thread for thread, arrival in self._arriving.items() if arrival.stage is Stage.JOINING]:
            effects.append(Drop(thread))
            self._refuse(thread, effects)
        if self.part is Part.CREATING:
            self._dissolve(effects)

    def _call_roll(self, dead: int, effects: list[ThreadEffect]) -> None:
        self._roll.begin(dead, self._placeholders.difference(self._arriving))
        here = self._threads | {thread: arrival.copyset for thread, arrival in self._arriving.items()}
        for other in self._others:
            named = [thread for thread, copyset in here.items() if copyset >> other & 1]
            effects += [Send(other, Message(_ROLL, thread, copyset=self._roll.dead)) for thread in named]
            effects.append(Send(other, Message(_ROLL, flags=LAST, copyset=self._roll.dead)))
        self._end_roll(effects)

    def _hear_roll(self, sender: int, message: Message, effects: list[ThreadEffect]) -> None:
        if not message.flags & LAST:
            self._roll.named(sender, message.copyset, message.page)
            return
        self._roll.called(sender, message.copyset)
        for thread in self._arriving:
            self._answer(thread, effects)
        self._end_roll(effects)

    def _end_roll(self, effects: list[ThreadEffect]) -> None:
        lost = self._roll.lost(self._others)
        if lost is None:
            return
        for thread in lost:
            if thread in self._placeholders:
                effects.append(Lost(thread))
                self._end_placeholder(thread, effects)
        self._something_ended(effects)

    # As a value -------------------------------------------------------------------------------------------------------

    @property
    def threads(self) -> tuple[int, ...]:
        """The threads that are here, those that want to leave included."""
        return tuple(sorted(self._threads))

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The threads that have a placeholder here."""
        return tuple(sorted(self._placeholders))

    def freeze(self) -> Hashable:
        """The whole state as a value: equal values behave equally for ever."""
        tables = (self._threads, self._departing, self._arriving)
        own = self._others, self.part, self.ended, self.arrivals, self._placeholders, self._still
        return own, tuple(tuple(sorted(table.items())) for table in tables), self._roll.freeze(), self._count.freeze()

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave; returns the engine itself."""
        own, (threads, departing, arriving), roll, count = frozen
        self._others, self.part, self.ended, self.arrivals, self._placeholders, self._still = own
        self._threads, self._departing, self._arriving = dict(threads), dict(departing), dict(arriving)
        self._roll.thaw(roll)
        self._count.thaw(count)
        return self
