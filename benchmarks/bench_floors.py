"""Measure what privacy floors cost: ``python benchmarks/bench_floors.py [--rows 3400000] [--engine spark|duckdb]``.

The query joins the rows of one owner with those of a second owner and with data that has no floor, as the query of the demo does. It
counts persons, counts rows and averages two columns. It runs without floors, and as the pod runs it with floors: with the check of
Spark's plan, and with the count of the rows that are left out. Both run on the same rows in memory, in turns. The ratio is that of the
shortest times. The exit code is 1 if the ratio, or the time of the check, is over its limit.

DuckDB executes the rewritten text alone, without the check and the count.
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

Work = Callable[[], int]
LIMIT = 1.3
"""Largest ratio of the time with floors to the time without them."""
CHECK_LIMIT = 0.2
"""Most seconds that the check of Spark's plan may take."""
QUERY = """
SELECT p.maker AS maker, COUNT(DISTINCT f.person) AS persons, COUNT(*) AS n, AVG(f.delay) AS delay, AVG(w.wind) AS wind
FROM flights AS f JOIN planes AS p ON f.person = p.person JOIN weather AS w ON f.origin = w.origin AND f.hour = w.hour
GROUP BY p.maker HAVING COUNT(DISTINCT f.person) >= 25
"""
TABLES = {
    "flights": "SELECT CONCAT('N', {h0} % 40000) AS person, CAST({h1} % 3 AS STRING) AS origin, {h2} % 8760 AS hour, "
    "CAST({h3} % 200 AS DOUBLE) - 20 AS delay FROM numbers",
    "planes": "SELECT CONCAT('N', id) AS person, CONCAT('M', {h0} % 60) AS maker FROM numbers WHERE id < 40000",
    "weather": "SELECT CAST(id % 3 AS STRING) AS origin, CAST(FLOOR(id / 3) AS BIGINT) AS hour, CAST({h0} % 90 AS DOUBLE) / 3 AS wind "
    "FROM numbers WHERE id < 3 * 8760",
}
"""Spark SQL over a table of numbers."""


def table(name: str) -> str:
    """The text of a table; its values are spread by multiplication with a large prime."""
    return TABLES[name].format(**{f"h{index}": f"((id + {index}) * 2654435761 % 1000003)" for index in range(4)})


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


def in_duckdb(rows: int, own: str, floored: str) -> tuple[Work, Work, list[float]]:
    """Functions that run both texts in DuckDB."""
    connection = duckdb.connect()
    connection.execute(f"CREATE VIEW numbers AS SELECT range AS id FROM range({rows})")
    for name in TABLES:
        connection.execute(f"CREATE TABLE {name} AS {sqlglot.transpile(table(name), read='spark', write='duckdb')[0]}")
    first, second = (sqlglot.transpile(text, read="spark", write="duckdb")[0] for text in (own, floored))
    return (lambda: len(connection.execute(first).fetchall())), (lambda: len(connection.execute(second).fetchall())), []


def in_spark(rows: int, own: str, floored: str) -> tuple[Work, Work, list[float]]:
    """Functions that run both texts in a local Spark with the settings of the pod, and the times of the check of the plan."""
    from sparkapp.plan_check import PlanCheck
    from sparkapp.session import open_session
    from sparkapp.suppression import hold_persons

    spark = open_session("bench-floors")
    spark.range(0, rows, 1, spark.sparkContext.defaultParallelism).createOrReplaceTempView("numbers")
    for name in TABLES:
        frame = spark.sql(table(name)).persist()
        frame.count()
        frame.createOrReplaceTempView(name)
    check, times = PlanCheck(spark, catalog(floors=True)), []

    def with_floors() -> int:
        frame = spark.sql(floored)
        start = time.perf_counter()
        check.require_safe(frame)
        times.append(time.perf_counter() - start)
        held, suppression = hold_persons(spark, frame)
        found = len(held.collect())
        if suppression is not None:
            suppression.count(25)
            suppression.persons.unpersist(blocking=True)
        return found

    return (lambda: len(spark.sql(own).collect())), with_floors, times


def main() -> int:
    """Print the figures as JSON, and return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--limit", type=float, default=LIMIT)
    arguments.add_argument("--rows", type=int, default=3_400_000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--engine", choices=["spark", "duckdb"], default="spark")
    options = arguments.parse_args()
    own, floored = (check_sql(QUERY, catalog(floors=floors)).sql for floors in (False, True))
    *works, checks = (in_spark if options.engine == "spark" else in_duckdb)(options.rows, own, floored)
    best = [float("inf")] * len(works)
    for _ in range(options.rounds):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    figures = {
        "engine": options.engine,
        "rows": options.rows,
        "own_seconds": round(best[0], 3),
        "with_floors_seconds": round(best[1], 3),
        "ratio": round(best[1] / best[0], 2),
        "limit": options.limit,
        "plan_check_seconds": round(min(checks), 3) if checks else None,
        "plan_check_limit": CHECK_LIMIT,
    }
    print(json.dumps(figures))
    return 0 if best[1] / best[0] <= options.limit and min(checks, default=0) <= CHECK_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
