"""An SQLite index over all runs of a results directory, so that questions about many runs are one query.

The runs' own files are the truth; the index is made from them and brought up to date whenever it is opened: runs that
are new or have changed are read, runs that are gone are dropped. It may be deleted at any time. Its tables are
explained in docs/results.md.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from images.errors import HostError
from orchestrator.errors import InputError
from orchestrator.results.directories import all_runs
from orchestrator.results.past_run import EVENTS, PastPoint, PastRun, read_run

FILE = ".index.sqlite3"
VERSION = 2
"""Of the tables; an index of another version is made anew."""
_WAIT_S = 30.0
"""How long another process may take to bring the index up to date."""

TABLES: dict[str, dict[str, str]] = {
    "runs": {
        "run_id": "TEXT PRIMARY KEY", "experiment": "TEXT", "stage": "TEXT", "outcome": "TEXT", "started": "TEXT",
        "duration_s": "REAL", "points": "INTEGER", "planned_points": "INTEGER", "error_kind": "TEXT",
        "error_message": "TEXT", "source": "TEXT", "host": "TEXT", "path": "TEXT", "changed": "TEXT",
    },
    "nodes": {
        "run_id": "TEXT", "node": "TEXT", "arch": "TEXT", "accelerator": "TEXT", "boot_s": "REAL", "image": "TEXT",
        "kernel": "TEXT", "warm": "INTEGER",
    },
    "stages": {"run_id": "TEXT", "stage": "TEXT", "duration_s": "REAL"},
    "points": {
        "run_id": "TEXT", "point": "INTEGER", "repetition": "INTEGER", "sharing": "TEXT", "protocol": "TEXT",
        "notify": "TEXT", "kernels": "INTEGER", "pages": "INTEGER", "array_bytes": "INTEGER", "iterations": "INTEGER",
        "verified": "INTEGER", "passed": "INTEGER", "messages_total": "INTEGER", "duration_s": "REAL",
        "parameters": "TEXT",
    },
    "messages": {"run_id": "TEXT", "point": "INTEGER", "node": "TEXT", "name": "TEXT", "count": "INTEGER"},
    "latencies": {
        "run_id": "TEXT", "point": "INTEGER", "kind": "TEXT", "count": "INTEGER", "median_us": "REAL", "p99_us": "REAL",
    },
    "faults": {
        "run_id": "TEXT", "point": "INTEGER", "node": "TEXT", "page": "INTEGER", "local_fault": "INTEGER",
        "remote_read": "INTEGER", "remote_write": "INTEGER",
    },
}  # fmt: skip
"""Tables, their columns and the columns' types."""


def open_index(results: Path, say: Callable[[str], None]) -> sqlite3.Connection:
    """The index of `results`, brought up to date, to be read only.

    Raises HostError when that is not possible, InputError when there is no such directory.
    """
    if not results.is_dir():
        raise InputError(f"found no folder {results}, expected result directories in it", "see --results DIR")
    path = results / FILE
    try:
        if os.access(results, os.W_OK):
            with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as index:
                _bring_up_to_date(index, results, say)
            reader = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
        else:  # somebody else's results: made in memory each time
            reader = sqlite3.connect(":memory:", isolation_level=None)
            _bring_up_to_date(reader, results, say)
            reader.execute("PRAGMA query_only = TRUE")
    except sqlite3.Error as error:
        raise HostError(f"{path}: the index cannot be brought up to date: {error}", "it may be deleted") from None
    reader.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # ATTACH would make files
    reader.set_progress_handler(lambda: 0, 100_000)  # lets Ctrl-C in
    return reader


def query(index: sqlite3.Connection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of the columns, and the rows. Raises InputError with what SQLite says of a statement it will not run."""
    try:
        cursor = index.execute(sql)
        return [column[0] for column in cursor.description or ()], cursor.fetchall()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise InputError(
            f"found '{sql}', expected one SQL statement that reads: {error}",
            f"tables are {', '.join(TABLES)}; docs/results.md has their columns",
        ) from None


def _bring_up_to_date(index: sqlite3.Connection, results: Path, say: Callable[[str], None]) -> None:
    with _transaction(index):
        (version,) = index.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            for table, columns in TABLES.items():
                index.execute(f"DROP TABLE IF EXISTS {table}")
                index.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
            index.execute(f"PRAGMA user_version = {VERSION}")
        known = dict(index.execute("SELECT run_id, changed FROM runs").fetchall())
        found = {path.name: (path, _changed(path)) for path in all_runs(results)}
        for run_id in known.keys() - found.keys():
            _forget(index, run_id)
        fresh = [name for name, (_, changed) in found.items() if known.get(name) != changed]
        for count, name in enumerate(fresh):
            if len(fresh) > 1 and count % 100 == 0:
                say(f"indexing runs: {count} of {len(fresh)}")
            _forget(index, name)
            path, changed = found[name]
            try:
                run = read_run(path)
            except InputError as error:
                say(f"left out: {error.message}")
                continue
            for table, rows in _rows(run, name, changed):
                marks = ", ".join("?" * len(TABLES[table]))
                index.executemany(f"INSERT INTO {table} VALUES ({marks})", (tuple(map(_storable, row)) for row in rows))


def _storable(value: Any) -> Any:
    """Texts of programs can hold what no encoding has: half of a surrogate pair."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    """One at a time, and whole or not at all; two commands may bring the index up to date at once."""
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def _changed(run: Path) -> str:
    """Differs once the run has changed."""
    marks = []
    for name in ("run.json", EVENTS):
        try:
            status = (run / name).stat()
            marks.append(f"{status.st_mtime_ns}-{status.st_size}")
        except FileNotFoundError:
            marks.append("")
    return " ".join(marks)


def _forget(index: sqlite3.Connection, run_id: str) -> None:
    for table in TABLES:
        index.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))


def _rows(run: PastRun, run_id: str, changed: str) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    summary = run.summary
    error = summary.get("error") or {}
    provenance = summary.get("provenance", {})
    yield "runs", [
        (run_id, summary.get("experiment"), summary.get("stage"), summary["outcome"], summary.get("started"),
         summary.get("duration_s"), len(summary.get("points", ())), summary.get("planned_points"), error.get("kind"),
         error.get("message"), summary.get("versions", {}).get("source"), provenance.get("host", {}).get("name"),
         os.fsencode(run.directory).decode(errors="replace"), changed)
    ]  # fmt: skip
    yield "nodes", [
        (run_id, node["name"], node["arch"], node["accelerator"], node["boot_s"], node.get("image"),
         node["facts"].get("kernel_release"), int(node.get("warm", False)))
        for node in summary.get("nodes", ())
    ]  # fmt: skip
    yield "stages", [(run_id, *stage) for stage in summary.get("stages_s", {}).items()]
    for point in run.points:
        if point.result is not None:
            yield from _rows_of_point(point, point.result, run_id)


def _rows_of_point(
    point: PastPoint, result: dict[str, Any], run_id: str
) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    place = (run_id, point.index)
    yield "points", [
        (*place, point.repetition, point.sharing, point.coherency.get("protocol"), point.coherency.get("notify"),
         result.get("kernels"), result.get("pages"), result.get("array_bytes"), result.get("iterations"),
         result["verified"], point.passed, result.get("messages_total"), result["duration_s"],
         json.dumps(point.parameters))
    ]  # fmt: skip
    yield (
        "latencies",
        [
            (*place, kind, latency["count"], latency["median"], latency["p99"])
            for kind, latency in result.get("latency_us", {}).items()
        ],
    )
    for node, answer in point.answers.items():
        yield "messages", [(*place, node, name, count) for name, count in answer.get("messages", {}).items()]
        yield "faults", [(*place, node, *counts) for counts in answer.get("faults_by_page", ())]
