"""docs/results.md and the events of real runs, held against each other: one schema, documented."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest.protocol.messages import MessageName
from orchestrator.results.events import EventName
from orchestrator.results.index import TABLES
from tests.local.test_run_local import QUICK, ROOT, command, environment, run

PAGE = ROOT / "docs" / "results.md"
RARE = ("mismatches[]", "losses.", "dead_threads[]", "lost[]", "figures.", "moves[]", "stays[]")
"""Fields of wrong values, of guests that died, of programs that report figures, and of threads that move."""
OPAQUE = {"experiment"}
"""Documented as a whole elsewhere."""


def documented() -> dict[str, set[str]]:
    """Patterns of fields by event; under "" those that every event has."""
    text = PAGE.read_text().partition("\n## Events\n")[2]
    sections = re.split(r"^### `(\w+)`$", text, flags=re.MULTILINE)
    named = {"": sections[0], **dict(zip(sections[1::2], sections[2::2], strict=True))}
    return {
        event: {
            field
            for row in re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
            for field in re.findall(r"`([^`]+)`", row)
        }
        for event, section in named.items()
    }


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Paths of everything in an event; dictionaries are gone into, and lists of them."""
    if isinstance(value, dict) and path not in OPAQUE:
        for key, each in value.items():
            yield from fields(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from fields(each, f"{path}[]")
    else:
        yield path


def matches(path: str, patterns: set[str]) -> bool:
    parts = path.split(".")
    for pattern in patterns:
        if pattern.startswith(f"{path}[]"):
            return True  # a list that is empty here
        wanted = pattern.split(".")
        rest = pattern.endswith((".PATH", ".PROGRAM"))  # such names may have dots in them
        if len(wanted) != len(parts) and not (rest and len(parts) >= len(wanted)):
            continue
        if all(want.isupper() or want == part for want, part in zip(wanted, parts, strict=False)):
            return True
    return False


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a run that passes, one that fails, and one that ends in an error and is gone on with."""
    matrix = "matrix: {workload.iterations: [1, 4]}\n"
    late = QUICK.replace("iterations: 4", "iterations: 100000") + "timeout_s: 1\n"
    found = []
    for name, text in (("pass", QUICK + matrix), ("fail", QUICK + "expect: [pages == 7]\n"), ("late", late)):
        folder = tmp_path_factory.mktemp(name)
        run(folder, text)
        if name == "late":
            subprocess.run(command("run", "--resume", "last"), cwd=folder, env=environment(), timeout=100, check=False)
        (log,) = folder.glob("results/*/events.jsonl")
        found += [json.loads(line) for line in log.read_text().splitlines()]
    return found


def test_every_kind_of_event_has_a_section_and_happens(events: list[dict[str, Any]]) -> None:
    assert set(documented()) - {""} == {event.value for event in EventName}
    assert {event["event"] for event in events} == {event.value for event in EventName}


def test_every_field_of_every_event_is_documented(events: list[dict[str, Any]]) -> None:
    pages = documented()
    wrong = {
        f"{event['event']}: {path}"
        for event in events
        for path in fields(event)
        if not matches(path, pages[""] | pages[event["event"]])
    }
    assert wrong == set()


def test_every_documented_field_is_there(events: list[dict[str, Any]]) -> None:
    """But for what these runs do not have, and the boot of machines."""
    missing = {
        f"{name}: {field}"
        for name, patterns in documented().items()
        for field in patterns
        if name and not any(
            matches(path, {field}) for event in events if event["event"] == name for path in fields(event)
        )
    }  # fmt: skip
    assert {each for each in missing if not any(rare in each for rare in RARE)} <= {"node_ready: boot_stages_s.STAGE"}


def test_names_of_messages_match_those_the_page_stands_for(events: list[dict[str, Any]]) -> None:
    sent = {name for event in events if event["event"] == "point_finished" for name in event["result"]["messages"]}
    assert sent
    assert sent <= {name.name for name in MessageName}


def test_tables_of_the_index_and_their_columns_are_documented() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE))
    assert {name: set(columns) - set(re.findall(r"`(\w+)`", rows[name])) for name, columns in TABLES.items()} == {
        name: set() for name in TABLES
    }


def test_the_page_is_linked_from_where_people_start() -> None:
    assert "docs/results.md" in Path(ROOT / "README.md").read_text()
