"""Datasets of runs with several executors, and queries over them whose results are known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom.documents.dataset import FieldType
from tests.payload_world import Rows

CANARY = "canary-of-the-shuffle"
MAKERS = ("AIRBUS", "BOEING", "EMBRAER")
PLANE_ROWS, FLIGHT_ROWS, COPY_ROWS = 300, 66_000, 20
ROW_GROUPS = 10
PLANES: dict[str, FieldType] = {"tailnum": "string", "maker": "string", "papers": "string"}
FLIGHTS: dict[str, FieldType] = {"tailnum": "string", "note": "string"}
COPIES: dict[str, FieldType] = {"maker": "string", "copy": "string"}
RESULT: dict[str, FieldType] = {"maker": "string", "found": "long"}
JOIN = (
    "SELECT p.maker, COUNT(*) AS found FROM flights AS f JOIN planes AS p ON f.tailnum = p.tailnum"
    " WHERE LENGTH(p.papers) > 0 AND LENGTH(f.note) > 0 GROUP BY p.maker"
)
"""Reads every column of flights and planes."""
JOINED: list[dict[str, Any]] = [{"maker": maker, "found": FLIGHT_ROWS // len(MAKERS)} for maker in MAKERS]
SPILLING = """SELECT p.maker, COUNT(DISTINCT CONCAT(p.papers, c.copy)) AS found
    FROM planes AS p JOIN copies AS c ON p.maker = c.maker GROUP BY p.maker"""
"""Groups by 360 MB of distinct texts."""
SPILLED: list[dict[str, Any]] = [{"maker": maker, "found": PLANE_ROWS // len(MAKERS) * COPY_ROWS} for maker in MAKERS]


def planes(folder: Path) -> Rows:
    """18 MB of Parquet that no codec compresses. The driver leaves it to Spark's own reader."""
    file = folder / "planes.parquet"
    rows = {
        "tailnum": [str(number) for number in range(PLANE_ROWS)],
        "maker": list(MAKERS) * (PLANE_ROWS // len(MAKERS)),
        "papers": [f"{CANARY} {os.urandom(30_000).hex()}" for _ in range(PLANE_ROWS)],
    }
    pq.write_table(pa.table(rows), file, row_group_size=PLANE_ROWS // ROW_GROUPS, use_dictionary=False)
    return Rows("planes", PLANES, tuple(PLANES), [file])


def flights(folder: Path) -> Rows:
    """68 MB of CSV. The driver leaves it to Python workers of executors."""
    file = folder / "flights.csv"
    file.write_text("".join(f"{number % PLANE_ROWS},{number:01024}\n" for number in range(FLIGHT_ROWS)))
    return Rows("flights", FLIGHTS, tuple(FLIGHTS), [file], "csv")


def copies(folder: Path) -> Rows:
    """A factor for the rows of planes."""
    file = folder / "copies.csv"
    file.write_text("".join(f"{maker},{number}\n" for maker in MAKERS for number in range(COPY_ROWS)))
    return Rows("copies", COPIES, tuple(COPIES), [file], "csv")
