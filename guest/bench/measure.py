"""Round trips of one message between two kernels, over the rings and by a notification policy.

One kernel calls `pong`, the other `ping`, with the same count. What is measured is what a daemon pays: packing, fences,
counters, and the wait, in Python on both ends.
"""

from time import perf_counter_ns
from typing import NoReturn

from guest.errors import LinkError
from guest.link.notify import Notifier, Policy
from guest.link.ring import Receiver, Sender
from guest.protocol.messages import Message, MessageName

SILENCE_S = 20.0
"""An answer that takes longer than this will not come: the other kernel is not there or cannot be woken."""
_LOOKS = 64
"""Looks at the ring itself before the notifier's own, which asks all rings and other descriptors too."""


def ping(sender: Sender, receiver: Receiver, notifier: Notifier, count: int) -> list[float]:
    """Send `count` messages, one after the other's answer. The round trips in microseconds.

    Raises LinkError when the other kernel stays silent, or answers something else than what was sent.
    """
    round_trips_us = []
    for number in range(count):
        message = Message(MessageName.CONTROL, number, number & 0xFFFFFFFF)
        started_ns = perf_counter_ns()
        if not sender.send(message):
            _refuse(sender)
        notifier.published(sender.to)
        answer = _next(receiver, notifier)
        round_trips_us.append((perf_counter_ns() - started_ns) / 1e3)
        if answer != message:
            raise LinkError(
                f"kernel {sender.to} answered {answer}, expected {message}",
                "does the other end run the same measurement?",
            )
    return round_trips_us


def pong(sender: Sender, receiver: Receiver, notifier: Notifier, count: int) -> None:
    """Answer `count` messages with themselves. Raises LinkError when the other kernel stays silent."""
    for _ in range(count):
        if not sender.send(_next(receiver, notifier)):
            _refuse(sender)
        notifier.published(sender.to)


def _next(receiver: Receiver, notifier: Notifier) -> Message:
    for _ in range(_LOOKS if notifier.policy is not Policy.INTERRUPT else 1):
        message = receiver.receive()
        if message is not None:
            return message
    notifier.wait(SILENCE_S)
    message = receiver.receive()
    if message is None:
        raise LinkError(
            f"no message from kernel {receiver.sender} within {SILENCE_S:.0f} s",
            "is its daemon running, and does its doorbell arrive?",
        )
    return message


def _refuse(sender: Sender) -> NoReturn:
    raise LinkError(
        f"the ring to kernel {sender.to} is full in a measurement that has one message on its way",
        "format the segment anew before it",
    )
