"""The protocol of threads: one kernel's side of a distributed process whose threads move between kernels.

A thread moves at a migration point, where its state can travel, in two messages:

    THREAD_MIGRATE  source → destination   here is the thread; it has placeholders on these kernels
    THREAD_PLACED   destination → source   it runs here now (BACK, CLONED, CREATED), or it is refused

With PLACED the thread is the destination's. Until then it is the source's: it goes on there if the destination refuses
or dies, and dies there with the source. Nothing more is needed, because a message that was sent can be read even if its
sender is dead: before a kernel is told of a death, it has read every PLACED of the dead. So a destination that says
PLACED before it lets the thread run can leave nobody in doubt who has it.

At the source the thread's process becomes its *placeholder*, which takes the thread back when it returns, and ends with
it:

    THREAD_EXIT     last kernel → those with a placeholder, and home    the thread has ended

The *group*, all threads of the process, ends when home finds by counting (`guest.protocol.count`) that none is left, or
when a thread says so. Whoever's part has ended says it to home, and home to all that have not said it:

    THREAD_COUNT    home → all, each → home    how many threads are with you, and how many have ever come?
    GROUP_EXIT      home → all, each → home    the group ends, is over here

When a kernel dies, its threads are lost; which ones, the survivors find out by calling the roll
(`guest.protocol.roll`):

    THREAD_ROLL     each → each                I have heard of it; later: this thread of yours is with me; that is all

and who waits for a thread asks the kernel where it began (`guest.protocol.watch`).

When home dies, nobody can join the process any more, and nobody counts: threads go on and move between the kernels
that there are, and each kernel dissolves its part once nothing of the process is left there. Whoever has ended the
group by then says so to all in home's place.

Links are in order, as rings are; messages of two kernels to a third are not. So a thread may be heard of from elsewhere
before its destination's PLACED is read: what is heard early waits for that.

Pure, like the engine of pages. A kernel that has died and come back is not of this process any more.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Self

from guest.protocol.arrival import Arrival, Part, Stage
from guest.protocol.count import Count, Verdict
from guest.protocol.effects import Send
from guest.protocol.engine import ProtocolError
from guest.protocol.messages import Message, MessageName, new_tuple
from guest.protocol.roll import RollCall
from guest.protocol.thread_effects import (
    Create,
    Dissolve,
    Drop,
    DropState,
    EndPlaceholder,
    EndThread,
    Fate,
    GroupEnded,
    Life,
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
from guest.protocol.thread_messages import ANSWER, COUNT, EXIT, GROUP_EXIT, HEARD, LAST, MIGRATE, PLACED, ROLL, send
from guest.protocol.watch import Watch


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
        self._early: dict[int, tuple[int, Message]] = {}
        """What was heard from elsewhere of threads that depart, by thread: the sender, and a MIGRATE or an EXIT."""
        self._placeholders: frozenset[int] = frozenset()
        self._put_off: int | None = None
        """What waits until nobody departs any more: home's question, by its round; at home, that it asks."""
        self._roll = RollCall()
        self._watch = Watch(kernel)
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
        return [send(to, MIGRATE, thread, 0, self._threads[thread] | 1 << self.kernel)]

    def exit(self, thread: int) -> list[ThreadEffect]:
        """The thread, which runs here, has ended. (One whose process dies while it departs may yet run elsewhere: it
        has ended once a Stay of it comes.)"""
        if self.ended:
            return []
        self._expect_running(thread, "end")
        told = self._threads.pop(thread) | 1 << self.home
        flags = 0 if self._surely_alive() else LAST
        effects: list[ThreadEffect] = [
            Send(other, Message(EXIT, thread, flags=flags)) for other in self._others if told >> other & 1
        ]
        effects += self._watch.gone(thread, self._others)
        self._something_ended(effects)
        return effects

    def watch(self, thread: int, began: int) -> list[ThreadEffect]:
        """Somebody here asks what has become of the thread, which began on that kernel, here for instance. A Fate says
        it, and another one that it is no more, if it lives now."""
        if self.ended:
            return []
        if began == self.kernel:
            return [self._watch.tell(began, thread, self._has(thread))]
        return self._watch.ask(thread, began) if began in self._others else [Fate(thread, Life.UNKNOWN)]

    def _has(self, thread: int) -> bool:
        return thread in self._threads or thread in self._placeholders

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
        """There is a process for the thread: see `Place`."""
        effects: list[ThreadEffect] = []
        arrival = self._arriving.get(thread)
        if arrival is not None and arrival.stage is Stage.PLACING:
            if self._roll.abreast(arrival.source):
                self._take_over(thread, arrival, effects)
            else:
                self._arriving[thread] = arrival._replace(stage=Stage.PLACED)
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
        effects.append(Send(arrival.source, Message(PLACED, thread, flags=Placement.REFUSED)))
        if self.part is Part.CREATING and not self._arriving:
            self._dissolve(effects)
        self._tidy(effects)

    def _take_over(self, thread: int, arrival: Arrival, effects: list[ThreadEffect]) -> None:
        """A thread that was placed is ours: nothing has still to come from its source."""
        del self._arriving[thread]
        if thread in self._placeholders:
            self._placeholders -= {thread}
        self._threads[thread] = arrival.copyset
        effects += [send(arrival.source, PLACED, thread, arrival.placement), new_tuple(Run, (thread,))]

    # Messages ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: int, message: Message) -> list[ThreadEffect]:
        """One message of another kernel. Raises ProtocolError on a message that is not of threads."""
        effects: list[ThreadEffect] = []
        if sender not in self._others:
            return effects  # it is dead
        match message.name:
            case MessageName.THREAD_MIGRATE:
                effects.append(new_tuple(TakeState, (message.page,)))
                self._let_in(sender, message, effects)
            case MessageName.THREAD_PLACED:
                self._let_go(message.page, sender, Placement(message.flags), effects)
            case MessageName.THREAD_EXIT:
                self._hear_exit(sender, message, effects)
            case MessageName.THREAD_COUNT:
                self._tell_count(sender, message, effects)
            case MessageName.GROUP_EXIT:
                if not self.ended:
                    self._end(effects, told_by=sender)
                self._ended_at(sender, effects)
            case MessageName.THREAD_ROLL:
                self._hear_roll(sender, message, effects)
            case MessageName.THREAD_WATCH if message.flags:
                effects += self._watch.told(message.page, Life(message.flags))
            case MessageName.THREAD_WATCH:
                if not self.ended:  # else the group's end is on its way, too
                    effects.append(self._watch.tell(sender, message.page, self._has(message.page)))
            case name:
                raise ProtocolError(f"kernel {sender} sends message {name}, which is none of threads")
        return effects

    def _let_in(self, source: int, message: Message, effects: list[ThreadEffect]) -> None:
        """Destination: a thread arrives."""
        thread = message.page
        if self._departing.get(thread, source) != source:
            self._early[thread] = source, message
            return
        if thread in self._threads or thread in self._arriving:
            raise ProtocolError(f"kernel {source} sends thread {thread}, which kernel {self.kernel} has")
        if self.ended or (self.part is Part.NONE and self.home not in self._others):
            effects += [DropState(thread), Send(source, Message(PLACED, thread, flags=Placement.REFUSED))]
            return
        self.arrivals += 1
        self._roll.seen(thread)
        placement = Placement.CLONED if self.part is Part.THERE else Placement.CREATED
        placement = Placement.BACK if thread in self._placeholders else placement
        stage = Stage.PLACING if self.part is Part.THERE else Stage.JOINING
        copyset = message.copyset & ~(1 << self.kernel)
        self._arriving[thread] = new_tuple(Arrival, (source, copyset, placement, stage))
        if stage is Stage.PLACING:
            effects.append(new_tuple(Place, (thread, placement)))
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
        else:
            del self._threads[thread]
            self._placeholders |= {thread}
            effects.append(Park(thread, to, placement))
        sender, message = self._early.pop(thread, (to, None))
        if message is not None:
            how = self._let_in if message.name == MIGRATE else self._hear_exit
            how(sender, message, effects)
        self._departed(effects)

    def _hear_exit(self, sender: int, message: Message, effects: list[ThreadEffect]) -> None:
        """A thread has ended that has, or had, a placeholder here."""
        if message.page in self._departing:
            self._early[message.page] = sender, message
            return
        self._end_placeholder(message.page, effects)
        if message.flags & LAST:
            self._something_ended(effects)

    def _end_placeholder(self, thread: int, effects: list[ThreadEffect]) -> None:
        if thread in self._placeholders:
            self._placeholders -= {thread}
            effects.append(EndPlaceholder(thread))
            effects += self._watch.gone(thread, self._others)
            self._tidy(effects)

    # The end of the group ---------------------------------------------------------------------------------------------

    def _surely_alive(self) -> bool:
        """Whether threads are here, or arrive. Those that depart may have ended elsewhere by now."""
        return len(self._threads) > len(self._departing) or bool(self._arriving)

    def _something_ended(self, effects: list[ThreadEffect]) -> None:
        """A kernel may have no thread any more. Home counts, if it has none either; others may be alone."""
        if self.kernel != self.home:
            self._tidy(effects)
        elif self._count.under_way:
            self._count.renew()
        elif self.ended or not self.arrivals or self._surely_alive() or self._roll.under_way:
            pass  # a thread that a dead kernel has sent away may still arrive where its death is not known
        elif self._departing:
            self._put_off = 0
        else:
            self._go_on(Verdict.AGAIN, effects)

    def _departed(self, effects: list[ThreadEffect]) -> None:
        """A thread departs no more: what was put off is done if it was the last one."""
        number = self._put_off
        if number is None or (self._departing and not self._surely_alive()):
            return
        self._put_off = None
        if self.kernel == self.home:
            self._something_ended(effects)
        elif self.home in self._others:
            self._tell_count(self.home, Message(COUNT, request=number), effects)

    def _go_on(self, verdict: Verdict, effects: list[ThreadEffect]) -> None:
        """Home: what follows from a count."""
        while verdict is Verdict.AGAIN and not (self._threads or self._arriving):
            verdict = self._count.begin(self._others, self.arrivals)
            question = Message(COUNT, request=self._count.round)
            effects += [Send(other, question) for other in self._others]
        if verdict is Verdict.ENDED and not self.ended:
            self._end(effects, told_by=None)

    def _tell_count(self, sender: int, message: Message, effects: list[ThreadEffect]) -> None:
        if self.kernel == self.home:
            if not self.ended:
                self._go_on(self._count.answer(sender, message.request, message.version, message.stamp), effects)
            return
        if self._departing and not self._surely_alive():
            self._put_off = message.request
            return
        threads = len(self._threads) + len(self._arriving)
        answer = Message(COUNT, request=message.request, flags=ANSWER, version=threads, stamp=self.arrivals)
        effects.append(Send(sender, answer))

    def _end(self, effects: list[ThreadEffect], told_by: int | None) -> None:
        """All that is here ends, and whoever needs to know is told."""
        self.ended = True
        effects += [Drop(thread) for thread in self._arriving]
        effects += [DropState(thread) for thread, (_, message) in self._early.items() if message.name == MIGRATE]
        effects += [EndThread(thread) for thread in self._threads]
        effects += [EndPlaceholder(thread) for thread in sorted(self._placeholders)]
        self._arriving, self._threads, self._departing, self._early, self._placeholders = {}, {}, {}, {}, frozenset()
        self._put_off = None
        self._watch.clear()
        self._dissolve(effects)
        if self.kernel == self.home:
            self._still = self._others
        if self.home in self._others:
            effects.append(Send(self.home, Message(GROUP_EXIT)))
        else:
            effects += [Send(other, Message(GROUP_EXIT)) for other in self._others if other != told_by]
        self._ended_at(self.kernel, effects)

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
        """The kernel died. Every PLACED that it sent has been read; whatever else of it still arrives is ignored."""
        effects: list[ThreadEffect] = []
        if kernel not in self._others:
            return effects
        self._others = tuple(other for other in self._others if other != kernel)
        self._count.give_up()
        for thread in [thread for thread, to in self._departing.items() if to == kernel]:
            del self._departing[thread]
            effects.append(Stay(thread, Why.DIED))
        self._departed(effects)
        for thread in [thread for thread, early in self._early.items() if early[0] == kernel]:
            if self._early[thread][1].name == MIGRATE:
                del self._early[thread]
                effects.append(DropState(thread))
        for thread in [thread for thread, arrival in self._arriving.items() if arrival.source == kernel]:
            del self._arriving[thread]
            effects += [Drop(thread), Lost(thread)]
            self._end_placeholder(thread, effects)
        effects += self._watch.peer_down(kernel)
        if kernel == self.home:
            self._lose_home(effects)
        self._roll.begin(kernel)
        effects += [Send(other, Message(ROLL, flags=HEARD, copyset=self._roll.dead)) for other in self._others]
        self._call_roll(effects)
        self._ended_at(kernel, effects)
        return effects

    def _lose_home(self, effects: list[ThreadEffect]) -> None:
        if self.ended:
            effects += [Send(other, Message(GROUP_EXIT)) for other in self._others]  # home may have told some only
        for thread in [thread for thread, arrival in self._arriving.items() if arrival.stage is Stage.JOINING]:
            effects.append(Drop(thread))
            self._refuse(thread, effects)
        if self.part is Part.CREATING:
            self._dissolve(effects)

    def _call_roll(self, effects: list[ThreadEffect]) -> None:
        if not self._roll.due(self._others):
            return
        self._roll.call(self._placeholders.difference(self._arriving))
        here = self._threads | {thread: arrival.copyset for thread, arrival in self._arriving.items()}
        for other in self._others:
            named = [thread for thread, copyset in here.items() if copyset >> other & 1]
            effects += [Send(other, Message(ROLL, thread, copyset=self._roll.dead)) for thread in named]
            effects.append(Send(other, Message(ROLL, flags=LAST, copyset=self._roll.dead)))
        self._end_roll(effects)

    def _hear_roll(self, sender: int, message: Message, effects: list[ThreadEffect]) -> None:
        if message.flags & HEARD:
            self._roll.heard(sender, message.copyset)
            self._call_roll(effects)
            return
        if not message.flags & LAST:
            self._roll.named(sender, message.copyset, message.page)
            return
        self._roll.called(sender, message.copyset)
        for thread, arrival in list(self._arriving.items()):
            if arrival.stage is Stage.PLACED and self._roll.abreast(arrival.source):
                self._take_over(thread, arrival, effects)
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
        tables = (self._threads, self._departing, self._arriving, self._early)
        own = self._others, self.part, self.ended, self.arrivals, self._placeholders, self._still, self._put_off
        helpers = self._roll.freeze(), self._count.freeze(), self._watch.freeze()
        return own, tuple(tuple(sorted(table.items())) for table in tables), helpers

    def thaw(self, frozen: Any) -> Self:
        """Take on a state that `freeze` gave; returns the engine itself."""
        own, (threads, departing, arriving, early), (roll, count, watch) = frozen
        self._others, self.part, self.ended, self.arrivals, self._placeholders, self._still, self._put_off = own
        self._threads, self._departing = dict(threads), dict(departing)
        self._arriving, self._early = dict(arriving), dict(early)
        self._roll.thaw(roll)
        self._count.thaw(count)
        self._watch.thaw(watch)
        return self
