"""Tables of the index as files for other tools: CSV, and Parquet by DuckDB."""

import csv
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from images.errors import writing
from orchestrator.errors import InputError
from orchestrator.results.index import TABLES, query

FORMATS = (".csv", ".parquet")
_NULL = "\\N"
"""Stands for NULL on the way to DuckDB: an empty text is something else."""


def export(index: sqlite3.Connection, sql: str, file: Path) -> int:
    """Write what `sql` finds to `file`, its format by its name's ending; returns the number of rows.

    Raises InputError when the ending is another, or the file is there already: nothing is overwritten.
    """
    ending = file.suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"found '{file.name}', expected a name that ends in .csv or .parquet")
    if file.exists():
        raise InputError(f"found {file}, expected a file that is not there yet", "remove it, or take another name")
    names, rows = query(index, sql)
    with writing(file):
        if ending == ".csv":
            with file.open("x", newline="", encoding="utf-8") as target:
                _write_csv(target, names, rows, "")
        else:
            _write_parquet(file, names, rows)
    return len(rows)


def _write_csv(target: Any, names: Sequence[str], rows: Sequence[Sequence[Any]], null: str) -> None:
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([null if value is None else value for value in row] for row in rows)


def _write_parquet(file: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    import duckdb  # 0.2 s

    if len(set(names)) != len(names):
        raise InputError(f"found columns {', '.join(names)}, expected each name once", "name them: SELECT a AS b …")
    kinds = {name: _kind([row[column] for row in rows]) for column, name in enumerate(names)}
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", encoding="utf-8") as carried:
        _write_csv(carried, names, rows, _NULL)
        carried.flush()
        with duckdb.connect() as database:
            table = database.read_csv(carried.name, header=True, dtype=kinds, na_values=_NULL, quotechar='"')
            table.write_parquet(str(file), compression="zstd")


def _kind(values: Sequence[Any]) -> str:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, int) for value in present):
        return "BIGINT"
    if present and all(isinstance(value, int | float) for value in present):
        return "DOUBLE"
    return "VARCHAR"


def table_query(table: str) -> str:
    """The statement for a whole table. Raises InputError when there is none of that name."""
    if table not in TABLES:
        from orchestrator.experiments.vocabulary import nearest

        near = nearest(table, TABLES)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise InputError(f"found no table '{table}', expected one of {', '.join(TABLES)}{hint}")
    return f"SELECT * FROM {table}"
