"""Traces of engines, replayed: what agrees with the model, and every way of leaving it."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from guest.protocol.effects import Effect
from guest.protocol.engine import Engine, ProtocolError
from guest.protocol.messages import Message, MessageName
from guest.protocol.page import Page
from guest.protocol.registry import PROTOCOLS
from guest.protocol.threads import ThreadsEngine
from guest.protocol.trace import TRACE_VERSION, Entry, TracedEngine, TracedPart
from guest.protocol.voting import VotingEngine
from orchestrator.checker.rehearsal import Rehearsal
from orchestrator.checker.replay import Trace, read_traces, replay
from orchestrator.cli import application
from orchestrator.errors import InputError
from orchestrator.results.directories import RunDirectory

PAGES = 2


class Hasty(VotingEngine):
    """Writes a shared page without asking anybody."""

    def _start_vote(self, page: Page, effects: list[Effect]) -> None:
        self._win(page, effects)


def traced(kernels: int, engine: type[Engine] = VotingEngine, events_max: int = 1000) -> list[TracedEngine]:
    """What `kernels` engines did while all of them read and wrote two pages."""
    clock = itertools.count(1_000)
    system = Rehearsal(kernels, PAGES, engine)
    engines = [TracedEngine(each, lambda: next(clock), events_max) for each in system.engines]
    system.engines = list(engines)
    for page in range(PAGES):
        for kernel in range(kernels):
            system.access(kernel, page, write=False)
            system.settle()
        for kernel in range(kernels):
            system.access(kernel, page, write=True)
        system.settle()
    return engines


def traces_of(engines: list[TracedEngine], protocol: str = "voting") -> list[Trace]:
    """As they come back from JSON."""
    return [
        Trace(
            node=f"node{kernel}",
            kernel=kernel,
            kernels=len(engines),
            protocol=protocol,
            pages=PAGES,
            dropped=engine.dropped,
            entries=tuple(Entry(*json.loads(json.dumps(entry))) for entry in engine.entries()),
        )
        for kernel, engine in enumerate(engines)
    ]


def changed(traces: list[Trace], kernel: int, change: Callable[[list[Entry]], None]) -> list[Trace]:
    entries = list(traces[kernel].entries)
    change(entries)
    return [
        Trace(**{**vars(trace), "entries": tuple(entries)}) if trace.kernel == kernel else trace for trace in traces
    ]


@pytest.mark.parametrize("kernels", [2, 3, 5])
def test_what_the_engines_did_is_what_the_model_says(kernels: int) -> None:
    traces = traces_of(traced(kernels))
    result = replay(traces)
    assert (result.divergence, result.complete) == (None, True)
    assert result.events == sum(len(trace.entries) for trace in traces)
    assert result.messages == sum(
        effect[0] == "Send" for trace in traces for e in trace.entries for effect in e.effects
    )


def bereft(kernels: int = 3) -> list[TracedEngine]:
    """The same, and then the last kernel writes page 0 and dies; the first one asks for it, and writes page 1."""
    engines = traced(kernels)
    system = Rehearsal(kernels, PAGES)
    system.engines = list(engines)
    dead = kernels - 1
    system.access(dead, 0, write=True)
    system.settle()
    for kernel in range(dead):
        system.bury(kernel, dead)
    system.access(0, 0, write=False)
    system.access(0, 1, write=True)
    system.settle()
    return engines


def test_the_dead_count_no_more() -> None:
    traces = traces_of(bereft())
    assert any("Poison" in effect for entry in traces[0].entries for effect in entry.effects)
    result = replay(traces)
    assert (result.divergence, result.complete) == (None, True)


def overheard(*, dies: bool) -> list[TracedEngine]:
    """A thread goes from kernel 0 to kernel 1, of which kernel 0 reads no more than that it runs there."""
    pages = [TracedEngine(VotingEngine(kernel, range(2), PAGES, 0), lambda: 0, 100) for kernel in range(2)]
    home, there = (TracedPart("threads", ThreadsEngine(kernel, range(2)), pages[kernel]) for kernel in range(2))
    home.start(7)
    (sent,) = home.migrate(7, 1)
    pages[1].fault(0, False)
    there.receive(0, sent.message)
    there.created()
    answer, _ = there.placed(7)
    home.receive(1, answer.message)
    if dies:
        pages[0].peer_down(1)
        home.peer_down(1)
    return pages


def test_of_a_kernel_that_dies_the_last_words_are_heard_and_what_came_before_is_not() -> None:
    found = replay(traces_of(overheard(dies=True)))
    assert found.divergence is None
    assert found.complete
    found = replay(traces_of(overheard(dies=False)))
    assert found.divergence is not None
    assert "but next on that link was PAGE_REQUEST" in found.divergence


def test_what_is_said_to_a_process_waits_for_its_birth_and_other_messages_do_not() -> None:
    pages = [TracedEngine(VotingEngine(kernel, range(3), PAGES, 0), lambda: 0, 100) for kernel in range(3)]
    parts = [TracedPart("threads/1/0", ThreadsEngine(kernel, range(3), 0), pages[kernel]) for kernel in range(2)]
    for kernel in range(2):
        pages[kernel].peer_down(2)
    heard: Any = parts[0].peer_down(2)[0]
    request: Any = pages[0].fault(0, False)[0]
    absent: Any = pages[1].receive(0, request.message)[0]
    pages[0].receive(1, absent.message)
    parts[1].receive(0, heard.message)
    found = replay(traces_of(pages))
    assert (found.divergence, found.complete) == (None, True)


def header(kernel: int, kernels: int) -> dict[str, Any]:
    return {
        "version": TRACE_VERSION,
        "protocol": "voting",
        "kernel": kernel,
        "kernels": kernels,
        "pages": PAGES,
        "dropped": 0,
    }


def test_a_kernel_that_was_killed_leaves_no_trace(tmp_path: Path) -> None:
    engines = bereft()
    directory = RunDirectory.create(tmp_path, "traced")
    for kernel, engine in enumerate(engines[:-1]):
        directory.keep_trace(0, f"node{kernel}", header(kernel, 3), engine.entries())
    traces = read_traces(directory.path / "traces" / "1")
    assert [trace.kept for trace in traces] == [True, True, False]
    result = replay(traces)
    assert (result.divergence, result.complete) == (None, True)


def test_what_others_did_by_way_of_a_kernel_without_a_trace_is_in_no_order(tmp_path: Path) -> None:
    """The origin takes page 0 from the second kernel, for the third one to write; of these two the second one comes
    later to where it loses it, as it has more to do before."""
    engines = traced(3, PROTOCOLS["origin"])
    system = Rehearsal(3, PAGES)
    system.engines = list(engines)
    for kernel in range(3):
        system.access(kernel, 0, write=False)
        system.settle()
    for kernel, page in [(1, 1), (0, 1)] * 8 + [(2, 0)]:
        system.access(kernel, page, write=True)
        system.settle()
    for kernel in (1, 2):
        system.bury(kernel, 0)
    directory = RunDirectory.create(tmp_path, "traced")
    for kernel in (1, 2):
        told = header(kernel, 3) | {"protocol": "origin"}
        directory.keep_trace(0, f"node{kernel}", told, engines[kernel].entries())
    result = replay(read_traces(directory.path / "traces" / "1"))
    assert (result.divergence, result.complete) == (None, True)


@pytest.mark.parametrize("went_on", [True, False])
def test_what_was_sent_after_a_trace_was_taken_is_missed_only_if_its_kernel_went_on(
    tmp_path: Path, went_on: bool
) -> None:
    """The first kernel's was taken before it heard that the last one had died, of which there is none."""
    engines = bereft()
    directory = RunDirectory.create(tmp_path, "traced")
    for kernel, engine in enumerate(engines[:-1]):
        entries = engine.entries()
        if kernel == 0:
            entries = entries[: next(i for i, entry in enumerate(entries) if entry.event == "peer_down")]
        directory.keep_trace(0, f"node{kernel}", header(kernel, 3) | {"open": went_on}, entries)
    result = replay(read_traces(directory.path / "traces" / "1"))
    assert not result.complete
    assert result.divergence is None if went_on else "nobody had sent that" in str(result.divergence)


def test_an_effect_that_the_engine_would_not_ask_for_is_named_with_what_went_before() -> None:
    def spoil(entries: list[Entry]) -> None:
        index = next(i for i, entry in enumerate(entries) if ["Protect", 0] in entry.effects)
        effects = [effect for effect in entries[index].effects if effect[0] != "Protect"]
        entries[index] = entries[index]._replace(effects=effects)

    result = replay(changed(traces_of(traced(2)), 0, spoil))
    assert result.divergence is not None
    assert "of node0, received PAGE_REQUEST" in result.divergence
    assert "it did send PAGE_DATA" in result.divergence
    assert "the engine says protect 0; send PAGE_DATA" in result.divergence
    assert not result.complete
    assert any("a thread faulted on page 0" in line for line in result.last)


def test_a_message_that_nobody_sent_is_found() -> None:
    def forge(entries: list[Entry]) -> None:
        index = max(i for i, entry in enumerate(entries) if entry.event == "receive")
        entries.append(entries[index])

    result = replay(changed(traces_of(traced(2)), 0, forge))
    assert result.divergence is not None
    assert "but nobody had sent that" in result.divergence


def test_a_message_that_never_arrived_is_found_by_the_next_one_on_its_link() -> None:
    def lose(entries: list[Entry]) -> None:
        del entries[next(i for i, entry in enumerate(entries) if entry.event == "receive")]

    result = replay(changed(traces_of(traced(2)), 0, lose))
    assert result.divergence is not None
    assert "but next on that link was" in result.divergence


def test_engines_that_break_an_invariant_are_found_though_they_agree_with_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROTOCOLS, "hasty", Hasty)
    result = replay(traces_of(traced(2, Hasty), "hasty"))
    assert result.divergence is not None
    assert "invariant 1: page 0 is writable in one kernel and readable in another" in result.divergence


def test_what_an_engine_refused_is_part_of_its_trace() -> None:
    engine = TracedEngine(VotingEngine(0, range(2), PAGES), lambda: 0)
    with pytest.raises(ProtocolError):
        engine.receive(1, Message(MessageName.VOTE, PAGES))
    ((_, event, _, effects),) = engine.entries()
    assert event == "receive"
    assert effects[0][0] == "Refused"


def test_a_trace_without_room_says_how_much_is_missing_and_replays_as_far_as_it_goes() -> None:
    engines = traced(2, events_max=10)
    assert all(engine.dropped > 0 for engine in engines)
    result = replay(traces_of(engines))
    assert (result.divergence, result.complete) == (None, False)
    assert 10 <= result.events <= 20


def kept(tmp_path: Path) -> Path:
    directory = RunDirectory.create(tmp_path / "results", "traced")
    (directory.path / "run.json").write_text('{"outcome": "passed"}')
    for kernel, engine in enumerate(traced(2)):
        directory.keep_trace(0, f"node{kernel}", header(kernel, 2), engine.entries())
    return directory.path


def test_traces_are_read_as_they_were_kept(tmp_path: Path) -> None:
    assert read_traces(kept(tmp_path) / "traces" / "1") == traces_of(traced(2))


@pytest.mark.parametrize(
    ("line", "text", "found"),
    [
        (1, '{"version": 1}', "a trace of version 1, this side reads 5"),
        (2, '[1.0, "fault", [5000, true], []]', "event 'fault' with [5000, True], of "),
        (1, '{"version": 5, "protocol": "gossip"}', "protocol 'gossip', known: "),
        (3, '[1.0, "explode", [], []]', "event 'explode'"),
        (3, '[1.0, "fault", [0', "Expecting"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path, line: int, text: str, found: str) -> None:
    folder = kept(tmp_path) / "traces" / "1"
    path = folder / "node1.jsonl"
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        read_traces(folder)
    assert str(caught.value).startswith(f"{path}:{line}: found {found}")


def test_a_kernel_without_a_trace_whose_death_nobody_heard_of_may_have_sent_anything(tmp_path: Path) -> None:
    run = kept(tmp_path)
    folder = run / "traces" / "1"
    (folder / "node0.jsonl").unlink()
    result = replay(read_traces(folder))
    assert [trace.node for trace in result.traces] == ["kernel 0, which left no trace", "node1"]
    assert (result.divergence, result.complete, result.untraced) == (None, False, [0])
    assert result.events == len(result.traces[1].entries) > 0
    done = CliRunner().invoke(application(), ["replay", str(run)])
    assert "as the model says, as far as the traces go (there is none of kernel 0)" in done.stdout


def test_what_the_others_did_is_replayed_beside_a_kernel_without_a_trace(tmp_path: Path) -> None:
    folder = kept(tmp_path) / "traces" / "1"
    (folder / "node0.jsonl").unlink()

    def does_nothing(entries: list[Entry]) -> None:
        entries[-1] = entries[-1]._replace(effects=[])

    result = replay(changed(read_traces(folder), 1, does_nothing))
    assert "of node1" in (result.divergence or "")
    assert "it did nothing" in (result.divergence or "")


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        (
            "kernel",
            0,
            "node0 is kernel 0 of 2, node1 is kernel 0 of 2, expected at most one trace of each of 2 kernels",
        ),
        (
            "kernel",
            7,
            "node0 is kernel 0 of 2, node1 is kernel 7 of 2, expected at most one trace of each of 2 kernels",
        ),
        ("kernels", 3, "node0 is kernel 0 of 2, node1 is kernel 1 of 3, expected at most one trace of each of 2 kern"),
    ],
)
def test_traces_of_different_points_are_refused(tmp_path: Path, field: str, value: int, found: str) -> None:
    folder = kept(tmp_path) / "traces" / "1"
    path = folder / "node1.jsonl"
    header, *entries = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(header), field: value}), *entries]))
    with pytest.raises(InputError) as caught:
        read_traces(folder)
    assert f"found {found}" in str(caught.value)


def test_the_command_prints_a_line_a_point_or_json(tmp_path: Path) -> None:
    directory = str(kept(tmp_path))
    done = CliRunner().invoke(application(), ["replay", directory])
    assert done.exit_code == 0
    assert "messages: as the model says" in done.stdout
    (point,) = json.loads(CliRunner().invoke(application(), ["replay", directory, "--json"]).stdout)["points"]
    assert (point["point"], point["kernels"], point["divergence"]) == (1, ["node0", "node1"], None)
    refused = CliRunner().invoke(application(), ["replay", directory, "--point", "2"])
    assert isinstance(refused.exception, InputError)
    assert "found no trace of point 2, expected one of 1" in str(refused.exception)


def test_a_divergence_is_one_json_document_and_exit_code_one(tmp_path: Path) -> None:
    run = tmp_path / "results" / "20260101T000000Z-pair-aaaa"
    folder = run / "traces" / "1"
    folder.mkdir(parents=True)
    (run / "run.json").write_text('{"outcome": "passed"}')
    request = list(Message(MessageName.PAGE_REQUEST))
    for kernel, node in enumerate(("x86", "arm")):
        header = {"version": TRACE_VERSION, "protocol": "voting", "kernel": kernel, "kernels": 2, "pages": 1,
                  "dropped": 0, "node": node}  # fmt: skip
        entries = [[1.0, "receive", [0, request], []]] if node == "arm" else []
        (folder / f"{node}.jsonl").write_text("\n".join(map(json.dumps, [header, *entries])) + "\n")
    line = [sys.executable, "-m", "orchestrator", "replay", "last", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["outcome"] == "failed"
