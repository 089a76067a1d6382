"""Assertions on rows and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cleanroom.errors import CleanRoomError


def duckdb_rows(sql: str, files: dict[str, Path], order: str) -> list[dict[str, Any]]:
    """Run ``sql`` in DuckDB over CSV and Parquet files. ``NA`` is a missing value, as in uploads."""
    import duckdb  # not at the top, because most tests do not need it

    with duckdb.connect() as db:
        for view, file in files.items():
            source = f"read_csv('{file}', header=true, nullstr=['', 'NA'])" if file.suffix == ".csv" else f"read_parquet('{file}')"
            db.execute(f"CREATE VIEW {view} AS SELECT * FROM {source}")
        found = db.execute(f"SELECT * FROM ({sql}) ORDER BY {order}")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]], key: str) -> None:
    """Compare rows in any order; floating point numbers may differ by 1e-9 relative."""
    assert len(expected) > 0
    ordered = sorted(found, key=lambda row: row[key])
    assert [row[key] for row in ordered] == [row[key] for row in sorted(expected, key=lambda row: row[key])]
    for one, other in zip(ordered, sorted(expected, key=lambda row: row[key]), strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, float):
                assert one[name] == pytest.approx(value, rel=1e-9, abs=0), (name, one, other)
            else:
                assert one[name] == value, (name, one, other)


def code_of(work: Any) -> str:
    """Call ``work``, which must raise, and return the error code."""
    with pytest.raises(CleanRoomError) as caught:
        work()
    return caught.value.code
