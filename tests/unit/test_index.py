"""Questions over many runs: the index follows the runs' own files and cannot be written by a question."""

import csv
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from images.errors import HostError
from orchestrator.errors import InputError
from orchestrator.results.export import export, table_query
from orchestrator.results.index import FILE, TABLES, VERSION, open_index, query
from tests.unit.past_runs import past_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    past_run(tmp_path, tmp_path / "results")
    past_run(tmp_path, tmp_path / "results", error=HostError("guest gone"))
    return tmp_path / "results"


def asked(results: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(open_index(results, lambda _: None)) as index:
        return query(index, sql)[1]


def test_every_point_of_every_run_is_there_with_what_it_was_made_with(results: Path) -> None:
    assert asked(results, "SELECT outcome, points, planned_points, error_kind FROM runs ORDER BY points") == [
        ("error", 1, 8, "HostError"),
        ("passed", 8, 8, None),
    ]
    rows = asked(results, "SELECT sharing, protocol, notify, iterations, messages_total FROM points")
    assert len(rows) == 9
    assert {row[:4] for row in rows} == {
        ("R,W", "voting", notify, iterations) for notify in ("poll", "adaptive") for iterations in (1, 2)
    }
    assert {row[3:] for row in rows} == {(1, 10), (2, 18)}
    assert asked(results, "SELECT DISTINCT node, arch, image FROM nodes ORDER BY node") == [
        ("arm", "aarch64", ""), ("x86", "x86_64", "feed")
    ]  # fmt: skip
    faults = "SELECT node, page, remote_write FROM faults WHERE point = 0 AND page = 0 GROUP BY node"
    assert asked(results, faults) == [("arm", 0, 1), ("x86", 0, 1)]


def test_a_text_that_no_encoding_has_is_kept_readable(results: Path) -> None:
    """Errors of programs had such texts once."""
    run = next(results.iterdir())
    summary = json.loads((run / "run.json").read_text())
    error = {"kind": "PointsFailed", "message": "no \udcff there", "hint": ""}
    (run / "run.json").write_text(json.dumps(summary | {"error": error}))
    rows = asked(results, f"SELECT error_message FROM runs WHERE run_id = '{run.name}'")
    assert rows == [("no \\udcff there",)]


def test_a_run_that_comes_changes_or_goes_is_noticed(tmp_path: Path, results: Path) -> None:
    assert asked(results, "SELECT COUNT(*) FROM runs") == [(2,)]
    run = past_run(tmp_path, results)
    assert asked(results, "SELECT COUNT(*), SUM(points) FROM runs") == [(3, 17)]
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(summary | {"outcome": "failed"}))
    assert asked(results, "SELECT outcome FROM runs WHERE run_id = '" + run.name + "'") == [("failed",)]
    shutil.rmtree(run)
    assert asked(results, "SELECT COUNT(*), (SELECT COUNT(*) FROM points) FROM runs") == [(2, 9)]


def test_a_torn_last_line_costs_that_event_and_a_broken_summary_that_run(results: Path) -> None:
    one, two = sorted(results.glob("*/"))
    with (one / "events.jsonl").open("a") as events:
        events.write('{"event": "point_fin')
    (two / "run.json").write_text("{")
    assert asked(results, "SELECT run_id FROM runs") == [(one.name,)]


def test_an_index_of_another_version_is_made_anew(results: Path) -> None:
    asked(results, "SELECT 1")
    import sqlite3

    with closing(sqlite3.connect(results / FILE)) as index:
        index.execute(f"PRAGMA user_version = {VERSION + 1}")
        index.execute("DROP TABLE points")
        index.commit()
    assert asked(results, "SELECT COUNT(*) FROM points") == [(9,)]


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM runs", "DROP TABLE runs", "ATTACH 'other.db' AS other", "VACUUM INTO 'other.db'",
     "SELECT 1; SELECT 2", "SELECT nothing FROM runs"],
)  # fmt: skip
def test_what_does_more_than_read_is_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected one SQL statement that reads"):
        asked(results, sql)
    assert not (tmp_path / "other.db").exists()
    assert asked(results, "SELECT COUNT(*) FROM runs") == [(2,)]


@pytest.mark.parametrize("sql", ["DELETE FROM runs", "ATTACH 'other.db' AS other", "SELECT COUNT(*) FROM runs"])
def test_results_that_cannot_be_written_can_be_asked_too(
    results: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # to root everything is writable
    if sql.startswith("SELECT"):
        assert asked(results, sql) == [(2,)]
    else:
        with pytest.raises(InputError):
            asked(results, sql)
    assert not (results / FILE).exists()


def test_parquet_and_csv_hold_what_the_table_holds(results: Path, tmp_path: Path) -> None:
    import duckdb

    with closing(open_index(results, lambda _: None)) as index:
        for name in TABLES:
            sql = f"SELECT * FROM {name} ORDER BY 1, 2, 3"
            names, rows = query(index, sql)
            assert export(index, sql, tmp_path / f"{name}.csv") == len(rows) > 0
            export(index, sql, tmp_path / f"{name}.parquet")
            table = duckdb.read_parquet(str(tmp_path / f"{name}.parquet"))
            assert table.columns == names
            assert table.fetchall() == rows
            with (tmp_path / f"{name}.csv").open(newline="") as file:
                assert list(csv.reader(file))[1:] == [
                    ["" if value is None else str(value) for value in row] for row in rows
                ]


def test_nothing_is_exported_over_a_file_or_to_an_unknown_format(results: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("mine")
    with closing(open_index(results, lambda _: None)) as index:
        with pytest.raises(InputError, match="expected a file that is not there yet"):
            export(index, "SELECT 1", tmp_path / "points.csv")
        with pytest.raises(InputError, match=r"ends in .csv or .parquet"):
            export(index, "SELECT 1", tmp_path / "points.xlsx")
    with pytest.raises(InputError, match="did you mean 'points'"):
        table_query("point")
    assert (tmp_path / "points.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list"], r"error +vm +1 +8 "),
        (["list", "--json", "--limit", "1"], '"planned_points": 8'),
        (["query", "SELECT outcome, COUNT(*) AS n FROM runs GROUP BY outcome"], "outcome +n\nerror +1\npassed +1\n"),
        (["export", "runs.csv", "--table", "runs"], "runs.csv: 2 rows"),
    ],
)
def test_the_commands(results: Path, words: list[str], expected: str) -> None:
    import re

    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "results", *words, *(["--results", "."])],
        cwd=results,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout), done.stdout
    if "--json" in words:
        assert len(json.loads(done.stdout)) == 1


def test_a_directory_may_have_a_name_that_no_text_can_hold(tmp_path: Path) -> None:
    """Nor do its tables and its report fail for it."""
    results = tmp_path / os.fsdecode(b"r\xff")
    run = past_run(tmp_path, results)
    ((directory,),) = asked(results, "SELECT path FROM runs")
    assert directory == str(tmp_path / "r\N{REPLACEMENT CHARACTER}" / run.name)
    command = [sys.executable, "-m", "orchestrator", "report", "last", "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
