"""Measure what privacy floors cost: ``python benchmarks/bench_floors.py [--rows 3400000] [--engine duckdb|spark]``.

The query joins the rows of one owner with those of a second owner and with data that has no floor, as the query of the demo does. It
counts persons, counts rows and averages two columns. The same query runs without floors and with them, on the same rows, in turns. The
ratio is that of the shortest times. The exit code is 1 if it is over the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import duckdb
import sqlglot

from cleanroom.sql import Catalog, check_sql

LIMIT = 1.3
QUERY = """
SELECT p.maker AS maker, COUNT(DISTINCT f.person) AS persons, COUNT(*) AS n, AVG(f.delay) AS delay, AVG(w.wind) AS wind
FROM flights AS f JOIN planes AS p ON f.person = p.person JOIN weather AS w ON f.origin = w.origin AND f.hour = w.hour
GROUP BY p.maker HAVING COUNT(DISTINCT f.person) >= 25
"""
TABLES = {
    "flights": "SELECT 'N' || (hash(i) % 40000) AS person, (hash(i + 1) % 3)::VARCHAR AS origin, (hash(i + 2) % 8760)::BIGINT AS hour, "
    "(hash(i + 3) % 200)::DOUBLE - 20 AS delay FROM range({rows}) AS t(i)",
    "planes": "SELECT 'N' || i AS person, 'M' || (hash(i) % 60) AS maker FROM range(40000) AS t(i)",
    "weather": "SELECT (i % 3)::VARCHAR AS origin, i // 3 AS hour, (hash(i) % 90) / 3 AS wind FROM range(3 * 8760) AS t(i)",
}


def catalog(*, floors: bool) -> Catalog:
    """The views, with floors of two owners or without any."""
    rules: dict[str, dict[str, object]] = {
        "flights": {"minGroupSize": 20, "identity": "person", "dimensions": ["origin", "hour"]},
        "planes": {"minGroupSize": 25, "identity": "person", "dimensions": ["maker"]},
    }
    columns = {
        "flights": {"person": "string", "origin": "string", "hour": "long", "delay": "number"},
        "planes": {"person": "string", "maker": "string"},
        "weather": {"origin": "string", "hour": "long", "wind": "number"},
    }
    views = [{"name": name, "columns": types, "floors": rules.get(name, {}) if floors else {}} for name, types in columns.items()]
    return Catalog.model_validate({"views": views})


def in_duckdb(rows: int, texts: list[str]) -> list[Callable[[], object]]:
    """Functions that run ``texts`` in DuckDB."""
    connection = duckdb.connect()
    for name, text in TABLES.items():
        connection.execute(f"CREATE TABLE {name} AS {text.format(rows=rows)}")
    queries = [sqlglot.transpile(text, read="spark", write="duckdb")[0] for text in texts]
    return [lambda query=query: len(connection.execute(query).fetchall()) for query in queries]  # type: ignore[misc]


def in_spark(rows: int, texts: list[str]) -> list[Callable[[], object]]:
    """Functions that run ``texts`` in a local Spark with the settings of the pod, on rows in its memory."""
    from sparkapp.session import open_session

    spark = open_session("bench-floors")
    connection = duckdb.connect()
    for name, text in TABLES.items():
        frame = spark.createDataFrame(connection.execute(text.format(rows=rows)).to_arrow_table()).persist()
        frame.count()
        frame.createOrReplaceTempView(name)
    return [lambda text=text: len(spark.sql(text).collect()) for text in texts]  # type: ignore[misc]


def main() -> int:
    """Print the figures as JSON, and return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--limit", type=float, default=LIMIT)
    arguments.add_argument("--rows", type=int, default=3_400_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--engine", choices=["duckdb", "spark"], default="spark")
    options = arguments.parse_args()
    texts = [check_sql(QUERY, catalog(floors=floors)).sql for floors in (False, True)]
    runs = (in_spark if options.engine == "spark" else in_duckdb)(options.rows, texts)
    best = [float("inf")] * len(runs)
    for _ in range(options.rounds):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - start)
    own, floored = best
    ratio = floored / own
    figures = {"engine": options.engine, "rows": options.rows, "own_seconds": round(own, 3), "with_floors_seconds": round(floored, 3)}
    print(json.dumps({**figures, "ratio": round(ratio, 2), "limit": options.limit}))
    return 0 if ratio <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
