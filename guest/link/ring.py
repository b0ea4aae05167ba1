"""Message rings and page slots between two kernels: one writes, one reads, nobody locks.

Publishing, by the sender: page slot, message slot, full fence, head. Reading, by the receiver: head, full fence,
message slot, page slot.

The receiver gives slots back by the tail and by a count of released page slots. Both may be written only behind a fence
that follows its last look at what they give back. It writes them when it finds the ring empty, when nobody waits for
it, and otherwise in batches, behind the fence that follows a look at the head anyway. A sender that finds the ring full
therefore gets room as soon as the receiver has handled what is there.

Page slots are given back in order, one by one, because a pair's messages are handled in order: no message and no
free list is needed for that.

These few lines run several times in every remote fault, on a Python that emulation makes 12 to 15 times slower. So
indices are computed once, words are read through memoryviews, and nothing is allocated but the message itself.
"""

from typing import NoReturn

from guest.errors import RingError
from guest.link.fence import full_fence
from guest.link.segment import PAGE_BYTES, PAIR_HEAD, PAIR_RELEASED, PAIR_TAIL, SLOT_BYTES, WORD_MASK, Segment
from guest.protocol.messages import FIELDS, STAMP, STAMP_BYTES, WIRE_VERSION, Message, new_tuple

_SEQUENCE_MASK = 0xFFFFFFFF  # a message names its page slot by the lower 32 bits of the running number
_pack = FIELDS.pack_into
_unpack = FIELDS.unpack_from


class Sender:
    """The writing end of the pair (me→to). One object per pair and daemon; it owns the head."""

    __slots__ = (
        "_counters",
        "_fields",
        "_head_word",
        "_limit",
        "_mask",
        "_memory",
        "_page_limit",
        "_page_mask",
        "_pages",
        "_pages_sent",
        "_released_word",
        "_sent",
        "_tail_word",
        "_words",
        "to",
    )

    def __init__(self, segment: Segment, me: int, to: int) -> None:
        layout = segment.layout
        control = layout.pair_offset(me, to) // 8
        pages = layout.pages_offset(me, to)
        self.to = to
        self._memory = segment.memory
        self._words = segment.words
        self._head_word = control + PAIR_HEAD
        self._tail_word = control + PAIR_TAIL
        self._released_word = control + PAIR_RELEASED
        self._counters = segment.nodes[me].message_words
        self._fields = layout.ring_offset(me, to) + STAMP_BYTES
        self._mask = layout.ring_slots - 1
        self._page_mask = layout.page_slots - 1
        self._pages = [
            segment.memory[offset : offset + PAGE_BYTES]
            for offset in range(pages, pages + layout.page_slots * PAGE_BYTES, PAGE_BYTES)
        ]
        self._sent: int = self._words[self._head_word]
        self._limit = self._sent  # below the real one: the first send looks at the tail
        self._pages_sent: int = self._words[self._released_word]
        self._page_limit = self._pages_sent

    def send(self, message: Message) -> bool:
        """Publish `message`; False, and nothing happened, when the ring is full."""
        sent = self._sent
        if sent == self._limit and not self._has_room():
            return False
        # Names for the fields: faster than unpacking them in the call.
        name, page, request, flags, version, copyset, stamp, epoch, slot = message
        offset = self._fields + (sent & self._mask) * SLOT_BYTES
        _pack(self._memory, offset, name, page, request, flags, version, copyset, stamp, epoch, slot)
        full_fence()
        words = self._words
        self._sent = sent = sent + 1
        words[self._head_word] = sent
        counter = self._counters + name
        words[counter] = words[counter] + 1 & WORD_MASK  # of a segment that is written over, too
        return True

    def page_slot(self) -> tuple[int, memoryview] | None:
        """The next page slot, its number and its 4096 bytes to be filled; None when the receiver has them all.

        Nothing is reserved: the slot is taken by `send_page`, and offered again until then.
        """
        sequence = self._pages_sent
        if sequence == self._page_limit:
            self._page_limit = limit = self._words[self._released_word] + len(self._pages)
            if sequence == limit:
                return None
            full_fence()  # the receiver's last look at the slot, before we write to it
        return sequence, self._pages[sequence & self._page_mask]

    def send_page(self, message: Message) -> bool:
        """Publish `message` with the slot that `page_slot` offered last as its payload; False when the ring is full.

        Whatever `message.slot` says is replaced. Raises RingError when no slot was offered.
        """
        sequence = self._pages_sent
        if sequence == self._page_limit:
            raise RingError(
                f"a page was sent to kernel {self.to} while it holds all {len(self._pages)} page slots",
                "fill the slot that page_slot() offers, and send only then",
            )
        if not self.send(new_tuple(Message, (*message[:8], sequence & _SEQUENCE_MASK))):
            return False
        self._pages_sent = sequence + 1
        return True

    @property
    def unread(self) -> int:
        """Messages that the receiver has not given back yet; it may be handling the last of them."""
        tail: int = self._words[self._tail_word]
        return self._sent - tail

    def _has_room(self) -> bool:
        tail = self._words[self._tail_word]
        if not 0 <= self._sent - tail <= self._mask + 1:
            raise RingError(
                f"ring to kernel {self.to}: tail {tail}, while {self._sent} messages were sent",
                "the segment was formatted or overwritten while a daemon had it open",
            )
        self._limit = tail + self._mask + 1
        if self._sent == self._limit:
            return False
        full_fence()  # the receiver's last look at the slot, before we write to it
        return True


class Receiver:
    """The reading end of the pair (sender→me). One object per pair and daemon; it owns the tail."""

    __slots__ = (
        "_batch",
        "_control",
        "_fields",
        "_given_back",
        "_head_word",
        "_mask",
        "_memory",
        "_page_addresses",
        "_page_mask",
        "_pages",
        "_received",
        "_released",
        "_seen",
        "_words",
        "sender",
    )

    def __init__(self, segment: Segment, sender: int, me: int) -> None:
        layout = segment.layout
        pages = layout.pages_offset(sender, me)
        self.sender = sender
        self._memory = segment.memory
        self._words = segment.words
        self._control = layout.pair_offset(sender, me) // 8
        self._head_word = self._control + PAIR_HEAD
        self._fields = layout.ring_offset(sender, me) + STAMP_BYTES
        self._mask = layout.ring_slots - 1
        self._page_mask = layout.page_slots - 1
        self._batch = layout.page_slots // 2
        offsets = range(pages, pages + layout.page_slots * PAGE_BYTES, PAGE_BYTES)
        self._pages = [segment.memory[offset : offset + PAGE_BYTES] for offset in offsets]
        self._page_addresses = [segment.address + offset for offset in offsets]
        self._received: int = self._words[self._control + PAIR_TAIL]
        self._seen = self._received
        self._given_back = self._received
        self._released: int = self._words[self._control + PAIR_RELEASED]
        self._check_stamps(layout.ring_offset(sender, me), layout.ring_slots)

    def pending(self) -> bool:
        """Whether `receive` would return a message. One look at one word."""
        return self._seen != self._received or self._words[self._head_word] != self._received

    def receive(self) -> Message | None:
        """The next message, or None. The payload of one with a page stays until `release` is called for it."""
        position = self._received
        if position == self._seen:
            head = self._words[self._head_word]
            if head == position:
                if self._given_back != position:
                    full_fence()
                    self._give_back()
                return None
            if not 0 < head - position <= self._mask + 1:
                self._refuse_head(head)
            full_fence()
            self._seen = head
            if position - self._given_back >= self._batch:
                self._give_back()
        offset = self._fields + (position & self._mask) * SLOT_BYTES
        self._received = position + 1
        return new_tuple(Message, _unpack(self._memory, offset))

    def payload(self, message: Message) -> memoryview:
        """The page that came with `message`, in place."""
        return self._pages[message[8] & self._page_mask]

    def payload_address(self, message: Message) -> int:
        """Where the page that came with `message` lies in this process, for UFFDIO_COPY."""
        return self._page_addresses[message[8] & self._page_mask]

    def release(self, message: Message) -> None:
        """Give the page slot of `message` back. In the order of arrival, once for every message that brought a page.

        Raises RingError when it is another slot's turn: a payload released early would change under its reader.
        """
        released = self._released
        if message[8] != released & _SEQUENCE_MASK:
            raise RingError(
                f"page slot {message[8]} from kernel {self.sender} was released out of turn, "
                f"expected {released & _SEQUENCE_MASK}",
                "handle the messages of a pair in order, and release each payload once",
            )
        self._released = released + 1
        self._given_back = -1  # no position: there is something to give back, whatever was received since

    def _give_back(self) -> None:
        """Let the sender reuse all that was received so far. Only behind a fence: our reads of it come first."""
        words = self._words
        control = self._control
        words[control + PAIR_TAIL] = self._given_back = self._received
        words[control + PAIR_RELEASED] = self._released

    def _check_stamps(self, ring: int, slots: int) -> None:
        """Formatting stamps every slot, and no sender changes that: checked here, and never again."""
        for offset in range(ring, ring + slots * SLOT_BYTES, SLOT_BYTES):
            version, sender = STAMP.unpack_from(self._memory, offset)
            if version != WIRE_VERSION or sender != self.sender:
                raise RingError(
                    f"the ring from kernel {self.sender} is stamped with wire version {version} of kernel {sender}, "
                    f"expected version {WIRE_VERSION} of kernel {self.sender}",
                    "the segment was overwritten, or host and guests run different versions of this project",
                )

    def _refuse_head(self, head: int) -> NoReturn:
        raise RingError(
            f"ring from kernel {self.sender}: head {head}, while {self._received} messages were received, "
            f"expected at most {self._mask + 1} more",
            "the segment was formatted or overwritten while a daemon had it open",
        )
