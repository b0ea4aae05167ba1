"""Commands of the agent: reading their fields, and saying what is wrong with them."""

import json
from typing import Any

from guest.errors import GuestFailure
from guest.link.link import Link
from guest.protocol.engine import ProtocolError

Answer = dict[str, Any]


class CommandError(GuestFailure):
    """A command that makes no sense, or not now."""

    kind = "command"


def open_link(fields: dict[str, Any], kernel: int) -> Link:
    if fields["kind"] == "host":
        from guest.link.hostlink import HostLink  # each stage pays for its own link only

        try:
            return HostLink(int(fields["memory_fd"]), fields["doorbell_fds"], kernel)
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"link {fields!r}: {error!r}", "expected memory_fd and doorbell_fds") from error
    from guest.link.ivshmem import IvshmemLink

    pci, size_bytes, index = fields.get("pci"), fields.get("size_bytes"), fields.get("index", 0)
    if pci is not None and not isinstance(pci, str):
        raise CommandError(f"link: pci {pci!r}, expected an address like 0000:00:03.0, or null")
    if not isinstance(index, int) or not (size_bytes is None or isinstance(size_bytes, int)):
        raise CommandError(f"link: size_bytes {size_bytes!r}, index {index!r}, expected whole numbers")
    return IvshmemLink.open(pci, size_bytes, index)


def fields_of(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise CommandError(f"this line is not JSON: {line[:80]!r}: {error}", "one JSON object per line") from error
    if not isinstance(fields, dict):
        raise CommandError(f"{line[:80]!r}, expected a JSON object")
    return fields


def number(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CommandError(f"{name} {value!r}, expected a whole number from {least} to {most}")
    return value


def seconds(fields: dict[str, Any], name: str, default: float) -> float:
    value = fields.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CommandError(f"{name} {value!r}, expected a number of seconds")
    return float(value)


def choice(fields: dict[str, Any], name: str, known: Any, default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise CommandError(f"{name} {value!r}, expected one of: {', '.join(known)}")
    return value


def roles(fields: dict[str, Any], kernel: int, kernels: int) -> list[list[str]]:
    """The roles of all threads of all kernels. A kernel without any gets an idle one, which meets the barriers."""
    everyone = fields.get("all_roles")
    if not isinstance(everyone, list) or len(everyone) != kernels or not all(isinstance(own, list) for own in everyone):
        raise CommandError(f"all_roles {everyone!r}, expected {kernels} lists of roles, one per kernel")
    if fields.get("roles", everyone[kernel]) != everyone[kernel]:
        raise CommandError(f"roles {fields['roles']!r}, but all_roles says {everyone[kernel]!r} for kernel {kernel}")
    return [own or ["idle"] for own in everyone]


def error_answer(operation: str | None, error: Exception) -> Answer:
    if isinstance(error, GuestFailure):
        kind, message, hint = error.kind, error.message, error.hint
    elif isinstance(error, ProtocolError):
        kind, message, hint = "protocol", str(error), ""
    else:
        kind, hint = "system" if isinstance(error, OSError) else "defect", ""
        message = str(error) or f"{type(error).__name__}, without a word"
    return {"event": "error", "op": operation, "kind": kind, "message": message, "hint": hint}
