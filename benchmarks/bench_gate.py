"""Measures how long the query gate takes.

The main query has more than 200 lines: twelve common table expressions with joins, conditions and aggregates, and a SELECT over the last
of them. Three other queries have a CASE of 200 branches, 200 output columns with casts, and a view of 500 columns.

The time is the processor time of ``check_sql``: it reads, checks and rewrites the query, and builds lineage and card.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.framework import Benchmark, at_most, reported
from cleanroom.sql import Catalog, check_sql

CATALOG = Catalog.model_validate(
    {
        "views": {
            "orders": {
                "columns": {
                    "order_id": "integer",
                    "user_key": "string",
                    "region": "string",
                    "amount": "number",
                    "discount": "number",
                    "status": "string",
                },
                "floors": {"minGroupSize": 50, "identityColumn": "user_key", "dimensions": ["region", "status", "amount"]},
            },
            "clicks": {"columns": {"user_key": "string", "clicked_at": "timestamp", "spend": "number"}},
        }
    }
)


def query(parts: int = 12) -> str:
    """A report of about 17 lines per part: rows, then one row per person, then a result under a floor."""
    tables = []
    for number in range(parts):
        source = "orders" if number == 0 else f"part_{number - 1}"
        tables.append(
            f"""part_{number} AS (
  SELECT
    o.user_key AS user_key,
    o.region AS region,
    o.status AS status,
    o.amount AS amount,
    o.discount AS discount,
    coalesce(o.amount, 0) AS gross_{number}
  FROM {source} AS o
  JOIN (
    SELECT user_key, SUM(spend) AS spend, COUNT(*) AS clicks
    FROM clicks
    WHERE clicked_at >= DATE '2024-01-{number + 1:02}'
    GROUP BY user_key
  ) AS c ON o.user_key = c.user_key
  WHERE o.amount > {number}
    AND o.region IN ('north', 'south', 'east')
    AND (o.status <> 'void' OR c.spend BETWEEN {number} AND {number + 10})
)"""
        )
    last = f"part_{parts - 1}"
    return (
        "WITH " + ",\n".join(tables) + f"\nSELECT p.region,\n  SUM(p.amount) - SUM(p.amount * p.discount) AS total,\n"
        "  COUNT(DISTINCT p.user_key) AS buyers,\n"
        f"  AVG(p.gross_{parts - 1}) AS mean\nFROM {last} AS p\nGROUP BY p.region\nHAVING COUNT(*) > 10\nORDER BY total DESC"
    )


WIDE = Catalog.model_validate({"views": {"wide": {f"c{number}": "number" for number in range(500)}}})
SHAPES = {
    "case": "SELECT CASE\n" + "\n".join(f"  WHEN spend > {n} THEN 'over {n}'" for n in range(200)) + "\nEND AS band FROM clicks",
    "columns": "SELECT\n  " + ",\n  ".join(f"CAST(SUM(spend + {n}) AS DECIMAL(12, 2)) AS c{n}" for n in range(200)) + "\nFROM clicks",
    "wide": "SELECT * FROM wide",
}
"""Other queries whose text or rendering is long."""


def median_ms(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median and minimum of ``rounds`` runs, in milliseconds of processor time, which other processes affect less than elapsed time."""
    times = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1000)
    return statistics.median(times), min(times)


def require_allowed(sql: str, catalog: Catalog) -> None:
    """End with the gate's reasons if it does not allow the query."""
    verdict = check_sql(sql, catalog)
    if not verdict.allowed:
        raise SystemExit(str([reason.message for reason in verdict.reasons]))


def measure(rounds: int = 30) -> dict[str, float]:
    """Return the times."""
    sql = query()
    found: dict[str, float] = {}
    require_allowed(sql, CATALOG)
    found["main query"], found["main query, shortest"] = median_ms(lambda: check_sql(sql, CATALOG), rounds)
    for name, text in SHAPES.items():
        catalog = WIDE if name == "wide" else CATALOG
        require_allowed(text, catalog)
        found[f"{name}, shortest"] = median_ms(partial(check_sql, text, catalog), max(5, rounds // 3))[1]
    return found


BENCHMARK = Benchmark(
    "processor time of the query gate",
    measure,
    [
        at_most("main query", 20, "ms"),
        reported("main query, shortest", "ms"),
        *(reported(f"{name}, shortest", "ms") for name in SHAPES),
    ],
)

if __name__ == "__main__":
    BENCHMARK.main()
