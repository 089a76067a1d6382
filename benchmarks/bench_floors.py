"""Measures what privacy floors cost: ``python -m benchmarks.bench_floors [--rows 3400000] [--engines Spark,DuckDB] [--shapes demo]``.

Each query runs without floors, as its author wrote it, and as the pod runs it with floors: with the check of Spark's plan, and with the
count of the rows that are left out. Both run on the same rows in memory, in turns. The ratio is that of the shortest times.

DuckDB executes the rewritten text alone, without the check and the count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import duckdb
import sqlglot

from benchmarks.framework import Benchmark, at_most
from cleanroom.sql import Catalog, check_sql

Work = Callable[[], object]
LIMIT = 1.3
"""Largest ratio of the time with floors to the time without them."""
CHECK_LIMIT = 0.2
"""Most seconds that the check of Spark's plan may take."""
_JOINS = """FROM flights AS f JOIN planes AS p ON f.person = p.person JOIN weather AS w ON f.origin = w.origin AND f.hour = w.hour
GROUP BY p.maker"""
_MEANS = "COUNT(DISTINCT f.person) AS persons, COUNT(*) AS n, AVG(f.delay) AS delay"


class Shape(NamedTuple):
    """A query, and whether the owner of the planes declares that each person has one row."""

    query: str
    unique: bool = True


SHAPES = {
    # The query of the demo.
    "demo": Shape(f"SELECT p.maker AS maker, {_MEANS}, AVG(w.wind) AS wind {_JOINS} HAVING COUNT(DISTINCT f.person) >= 25"),
    # Without the declaration groups may overlap and are compared. The weather is then joined by one column.
    "overlap": Shape(
        f"SELECT p.maker AS maker, {_MEANS}, AVG(w.wind) AS wind FROM flights AS f JOIN planes AS p ON f.person = p.person "
        "JOIN (SELECT hour, AVG(wind) AS wind FROM weather GROUP BY hour) AS w ON f.hour = w.hour GROUP BY p.maker "
        "HAVING COUNT(DISTINCT f.person) >= 25",
        False,
    ),
    # One table, whose persons are in all groups.
    "one table": Shape(f"SELECT f.origin AS origin, {_MEANS} FROM flights AS f GROUP BY f.origin"),
    # A query that does not count persons itself.
    "means": Shape(f"SELECT p.maker AS maker, COUNT(*) AS n, AVG(f.delay) AS delay, AVG(w.wind) AS wind {_JOINS}"),
    # Moments, which have many conditions.
    "deviation": Shape(f"SELECT p.maker AS maker, {_MEANS}, STDDEV(f.delay) AS deviation, STDDEV(w.wind) AS wind {_JOINS}"),
}
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


def catalog(*, floors: bool, unique: bool) -> Catalog:
    """The views, with floors of two owners or without any; ``unique``: the planes have one row per person."""
    rules: dict[str, dict[str, object]] = {
        "flights": {"minGroupSize": 20, "identity": "person", "dimensions": ["origin", "hour"]},
        "planes": {"minGroupSize": 25, "identity": "person", "dimensions": ["maker"]},
    }
    columns = {
        "flights": {"person": "string", "origin": "string", "hour": "long", "delay": "number"},
        "planes": {"person": "string", "maker": "string"},
        "weather": {"origin": "string", "hour": "long", "wind": "number"},
    }
    views: list[dict[str, object]] = [
        {"name": name, "columns": types, "floors": rules.get(name, {}) if floors else {}} for name, types in columns.items()
    ]
    if unique:
        views[1]["uniqueColumns"] = ["person"]
    return Catalog.model_validate({"views": views})


class DuckDB:
    """Runs texts in DuckDB."""

    def __init__(self, rows: int) -> None:
        self._connection = duckdb.connect()
        self._connection.execute(f"CREATE VIEW numbers AS SELECT range AS id FROM range({rows})")
        for name in TABLES:
            self._connection.execute(f"CREATE TABLE {name} AS {_duckdb(table(name))}")

    def works(self, own: str, floored: str, shape: Shape) -> tuple[Work, Work, list[float]]:
        """Functions that run both texts, and the times of the check of the plan."""
        texts = [_duckdb(text) for text in (own, floored)]
        first, second = (lambda text=text: self._connection.execute(text).fetchall() for text in texts)
        return first, second, []


def _duckdb(text: str) -> str:
    return sqlglot.transpile(text, read="spark", write="duckdb")[0]


class Spark:
    """Runs texts in a local Spark with the settings of the pod."""

    def __init__(self, rows: int) -> None:
        from sparkapp.session import open_session

        # With Spark's default of 1 GB, the rows are on disk, and each query decrypts them.
        os.environ.setdefault("PYSPARK_SUBMIT_ARGS", "--driver-memory 4g pyspark-shell")
        self._spark = spark = open_session("bench-floors")
        spark.range(0, rows, 1, spark.sparkContext.defaultParallelism).createOrReplaceTempView("numbers")
        self._frames = {name: spark.sql(table(name)).localCheckpoint().persist() for name in TABLES}  # leaves, as the datasets of a pod
        for frame in self._frames.values():
            frame.count()

    def _register(self, floors: bool) -> None:
        """Register the views as the pod does: those with a floor have only rows with an identity."""
        from sparkapp.reading import rows_of_persons

        for view in catalog(floors=floors, unique=True).views:
            frame = self._frames[view.name]
            (rows_of_persons(frame, view.identity_columns) if view.min_group_size else frame).createOrReplaceTempView(view.name)

    def works(self, own: str, floored: str, shape: Shape) -> tuple[Work, Work, list[float]]:
        """Functions that run both texts, and the times of the check of the plan."""
        from sparkapp.plan_check import PlanCheck
        from sparkapp.suppression import hold_persons

        self._register(floors=True)
        check, times = PlanCheck(self._spark, catalog(floors=True, unique=shape.unique)), list[float]()

        def without_floors() -> None:
            self._register(floors=False)
            self._spark.sql(own).collect()

        def with_floors() -> None:
            self._register(floors=True)
            frame = self._spark.sql(floored)
            start = time.perf_counter()
            check.require_safe(frame)
            times.append(time.perf_counter() - start)
            held, suppression = hold_persons(self._spark, frame)
            held.collect()
            if suppression is not None:
                suppression.count(25)
                suppression.unpersist()

        return without_floors, with_floors, times


def measure_shape(engine: Spark | DuckDB, name: str, rounds: int) -> dict[str, float]:
    """The figures of one shape."""
    shape, label = SHAPES[name], f"{type(engine).__name__}, {name}"
    own, floored = (check_sql(shape.query, catalog(floors=floors, unique=shape.unique)).sql for floors in (False, True))
    *works, checks = engine.works(own, floored, shape)
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - start)
    print(f"{label}: {best[0]:.3f} s, with floors {best[1]:.3f} s", flush=True)
    return {label: best[1] / best[0], **({f"{label}: check of the plan": min(checks)} if checks else {})}


def measure(rows: int = 3_400_000, rounds: int = 5, engines: str = "DuckDB,Spark", shapes: str = ",".join(SHAPES)) -> dict[str, float]:
    """Measure the named shapes on the named engines."""
    found: dict[str, float] = {}
    for engine in engines.split(","):
        opened = DuckDB(rows) if engine == "DuckDB" else Spark(rows)
        for name in shapes.split(","):
            found |= measure_shape(opened, name, rounds)
    return found


BENCHMARK = Benchmark(
    "a query with privacy floors, against the same query without them",
    measure,
    [at_most(f"{engine}, {name}", LIMIT, "x") for engine in ("DuckDB", "Spark") for name in SHAPES]
    + [at_most(f"Spark, {name}: check of the plan", CHECK_LIMIT, "s") for name in SHAPES],
)

if __name__ == "__main__":
    BENCHMARK.main()
