"""Counterexamples and examples for people: one line a step, or a message-sequence chart."""

from collections.abc import Iterable

from guest.protocol.futex import CANCEL, WOKEN
from guest.protocol.messages import Flag, Message, MessageName
from guest.protocol.space import operation_of
from guest.protocol.thread_effects import Life, Placement
from guest.protocol.thread_messages import ANSWER, HEARD, LAST, THREAD_MESSAGES
from orchestrator.checker.machine import Numbering
from orchestrator.checker.move import Move
from orchestrator.checker.rehearsal import Sent
from orchestrator.checker.search import Report

_STAMPED = (MessageName.INVALIDATE, MessageName.VOTE, MessageName.ABANDON)


def describe(message: Message) -> str:
    """A message in a few words: name, what it says, version, timestamp."""
    name = MessageName(message.name)
    words = [name.name]
    if name in THREAD_MESSAGES:
        return " ".join([*words, *_of_threads(name, message)])
    if name in (MessageName.SPACE_LOCK, MessageName.SPACE_OP):
        words.append(str(operation_of(message)))
    if name is MessageName.SPACE_OP:
        words.append(f"epoch {message.epoch}")
    if name in (MessageName.FUTEX_WAIT, MessageName.FUTEX_WAKE, MessageName.FUTEX_ANSWER):
        words.append(_futex(message))
    if name is MessageName.PAGE_REQUEST:
        words.append(_access(message.flags))
    if name is MessageName.VOTE:
        words.append("grant" if message.flags & Flag.GRANT else "refuse")
        words += ["also writing"] if message.flags & Flag.ALSO_WRITING else []
    if name is MessageName.PAGE_ABSENT and message.flags & Flag.FETCHING:
        words.append("fetching too")
    if name is MessageName.PAGE_DATA and message.flags & Flag.FOR_WRITE:
        words.append("the only copy")
    if name is MessageName.PAGE_ABSENT and message.flags & Flag.LOST:
        words.append("lost")
    if name in (MessageName.PAGE_DATA, MessageName.INVALIDATE) and (message.copyset or message.stamp):
        words.append(f"version {message.version}")
    if name in _STAMPED and message.stamp >> 16:
        words.append(f"timestamp {message.stamp >> 16}.{message.stamp & 0xFFFF}")
    return " ".join(words)


def _of_threads(name: MessageName, message: Message) -> list[str]:
    match name:
        case MessageName.THREAD_COUNT:
            counted = f"{message.version} here, {message.stamp} ever" if message.flags & ANSWER else "how many?"
            return [f"round {message.request}", counted]
        case MessageName.THREAD_ROLL if message.flags & HEARD:
            return ["heard of it"]
        case MessageName.THREAD_ROLL if message.flags & LAST:
            return ["that is all"]
        case MessageName.GROUP_EXIT:
            return []
    words = [f"thread {message.page}"]
    if name is MessageName.THREAD_WATCH:
        words.append(Life(message.flags).name if message.flags else "?")
    if name is MessageName.THREAD_PLACED:
        words.append(Placement(message.flags).name)
    if name is MessageName.THREAD_EXIT and message.flags & LAST:
        words.append("the last one here")
    return words


def tell(report: Report) -> str:
    """The report, and its trace step by step."""
    return "\n".join(
        [str(report), *(f"{number:4} {tell_move(move, report.parcels)}" for number, move in enumerate(report.trace, 1))]
    )


def sequence_chart(kernels: int, sent: Iterable[Sent]) -> str:
    """The messages as a mermaid sequence diagram."""
    lines = ["sequenceDiagram"]
    lines += [f"    participant k{kernel} as kernel {kernel}" for kernel in range(kernels)]
    lines += [f"    k{sender}->>k{receiver}: {describe(message)}" for sender, receiver, message in sent]
    return "\n".join(lines)


def trace_chart(report: Report) -> str:
    """The trace as a mermaid sequence diagram: an arrow where a message arrives, a note where something begins."""
    lines = ["sequenceDiagram"]
    lines += [f"    participant k{kernel} as kernel {kernel}" for kernel in range(report.scenario.kernels)]
    for move in report.trace:
        if move.flight:
            sender, receiver, parcel = move.flight
            lines.append(f"    k{sender}->>k{receiver}: {describe(report.parcels.values[parcel].message)}")
        else:
            lines.append(f"    Note over k{move.kernel}: {move.says}")
    if report.violation:
        lines.append(f"    Note over k0,k{report.scenario.kernels - 1}: {report.violation}")
    return "\n".join(lines)


def _futex(message: Message) -> str:
    """The word that is waited for, its value, and what is said of that."""
    said = {
        (MessageName.FUTEX_WAIT, CANCEL): " no more",
        (MessageName.FUTEX_ANSWER, 0): ": queued",
        (MessageName.FUTEX_ANSWER, WOKEN): ": woken",
    }
    return f"{message.page:#x} = {message.version}{said.get((MessageName(message.name), message.flags), '')}"


def _access(flags: int) -> str:
    if flags & Flag.FETCH:
        return "fetch"
    return "read for write" if flags & Flag.FOR_WRITE else "read"


def tell_move(move: Move, parcels: Numbering) -> str:
    """A move in a sentence."""
    if move.flight:
        sender, _, parcel = move.flight
        what = f"receives {describe(parcels.values[parcel].message)} from {sender}"
    else:
        what = move.says
    sends = move.outcome.sends if move.outcome else ()
    answers = ", ".join(f"{describe(parcels.values[parcel].message)} to {to}" for to, parcel in sends)
    return f"kernel {move.kernel} {what}" + (f": sends {answers}" if answers else "")
