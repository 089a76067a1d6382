"""Catalogues and data for the tests of the gate, and functions that run a query on them in DuckDB."""

# ruff: noqa: E501  (long lines of data)

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot

from cleanroom.sql import Catalog, GateVerdict

_TYPES = {
    "string": "VARCHAR",
    "integer": "INTEGER",
    "long": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}
_ARROW = {"number": pa.float64()}
"""Numbers may mix ``int`` and ``float``; the other types follow from the values."""

OPEN = Catalog.model_validate(
    {
        "views": {
            "events": {
                "columns": {"event_id": "integer", "user_key": "string", "kind": "string", "spend": "number", "day": "date", "note": "string", "ip": "string"},
                "allowedColumns": ["event_id", "user_key", "kind", "spend", "day", "note"],
            },
            "users": {"columns": {"user_key": "string", "city": "string"}},
            "customer": {
                "c_custkey": "integer", "c_name": "string", "c_nationkey": "integer", "c_phone": "string", "c_acctbal": "number", "c_mktsegment": "string",
            },
            "sales": {
                "o_orderkey": "integer", "o_custkey": "integer", "o_orderdate": "date", "o_orderpriority": "string", "o_shippriority": "integer",
                "o_comment": "string",
            },
            "lineitem": {
                "l_orderkey": "integer", "l_partkey": "integer", "l_suppkey": "integer", "l_quantity": "number", "l_extendedprice": "number",
                "l_discount": "number", "l_tax": "number", "l_returnflag": "string", "l_linestatus": "string", "l_shipdate": "date",
                "l_commitdate": "date", "l_receiptdate": "date", "l_shipmode": "string",
            },
            "supplier": {"s_suppkey": "integer", "s_name": "string", "s_nationkey": "integer"},
            "nation": {"n_nationkey": "integer", "n_name": "string", "n_regionkey": "integer"},
            "region": {"r_regionkey": "integer", "r_name": "string"},
            "part": {"p_partkey": "integer", "p_name": "string", "p_brand": "string", "p_type": "string", "p_size": "integer"},
            "partsupp": {"ps_partkey": "integer", "ps_suppkey": "integer", "ps_availqty": "integer", "ps_supplycost": "number"},
        }
    }
)  # fmt: skip
"""No floors: the rewritten query must return the same rows as the original."""

FLOOR = 5
GUARDED = Catalog.model_validate(
    {
        "views": [
            {
                "name": "orders",
                "owner": "contosso",
                "columns": {
                    "order_id": "integer", "user_key": "string", "region": "string", "status": "string", "amount": "number", "discount": "number",
                    "age": "integer", "day": "date", "email": "string",
                },
                "allowedColumns": ["order_id", "user_key", "region", "status", "amount", "discount", "age", "day"],
                "floors": {"minGroupSize": FLOOR, "identityColumn": "user_key", "allowedOutputColumns": ["region", "status", "day"]},
            },
            {
                "name": "clicks",
                "owner": "litware",
                "columns": {"user_key": "string", "campaign": "string", "spend": "number", "device": "string"},
                "floors": {"minGroupSize": 3, "identityColumn": "user_key"},
            },
            {"name": "weights", "owner": "fabrikam", "columns": {"user_key": "string", "w": "number", "seg": "string"}},
            {"name": "regions", "owner": "fabrikam", "columns": {"region": "string", "country": "string"}},
        ]
    }
)  # fmt: skip
"""Two owners with floors (5 and 3), and two views of the analyst without a floor."""


def create(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, rows: Mapping[str, Sequence[tuple[Any, ...]]], *, visible: bool = False
) -> None:
    """Create a table for each view and fill it. ``visible`` omits columns that are neither allowed nor identities."""
    for view in catalog.views:
        names = {column.name for column in view.visible()} | {c.name for c in view.columns if c.name.lower() in view.identity_columns}
        columns = [(index, column) for index, column in enumerate(view.columns) if not visible or column.name in names]
        connection.execute(f"CREATE OR REPLACE TABLE {view.name} ({', '.join(f'{c.name} {_TYPES[c.type]}' for _, c in columns)})")
        if data := rows.get(view.name):
            table = pa.table({c.name: pa.array([row[index] for row in data], _ARROW.get(c.type)) for index, c in columns})
            connection.from_arrow(table).insert_into(view.name)


def run(connection: duckdb.DuckDBPyConnection, spark_sql: str) -> list[tuple[Any, ...]]:
    """Execute Spark SQL in DuckDB and return the rows of the last statement."""
    statements = sqlglot.transpile(spark_sql, read="spark", write="duckdb")
    connection.begin()
    try:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.execute(statements[-1]).fetchall()
    finally:
        connection.rollback()


def run_verdict(connection: duckdb.DuckDBPyConnection, verdict: GateVerdict) -> list[tuple[Any, ...]]:
    return run(connection, verdict.sql)


def same_rows(left: Sequence[tuple[Any, ...]], right: Sequence[tuple[Any, ...]], *, ordered: bool) -> bool:
    """Whether two results contain the same rows. Floats may differ by 1e-9 relative."""
    if not ordered:
        left, right = sorted(left, key=_key), sorted(right, key=_key)
    return len(left) == len(right) and all(
        len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in zip(left, right, strict=True)
    )


def _key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((value is None, f"{value:.6g}" if isinstance(value, float) else str(value)) for value in row)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) or isinstance(right, float):
        return left is not None and right is not None and math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)
    return bool(left == right)


def open_rows(seed: int = 7) -> dict[str, list[tuple[Any, ...]]]:
    """Small data for :data:`OPEN`, for which almost every TPC-H query returns rows."""
    rnd = random.Random(seed)

    def day(first: int = 1992, last: int = 1998) -> str:
        return f"{rnd.randint(first, last)}-{rnd.randint(1, 12):02}-{rnd.randint(1, 28):02}"

    nations = ["FRANCE", "GERMANY", "BRAZIL", "CHINA", "INDIA", "PERU"]
    rows: dict[str, list[tuple[Any, ...]]] = {
        "events": [
            (
                i, f"u{rnd.randint(1, 12)}", rnd.choice(["view", "buy", "try"]), rnd.choice([1.5, 3.0, 12.25, 25.0, 33.3, 41.75]),
                f"2024-0{rnd.randint(1, 3)}-{rnd.randint(1, 28):02}", rnd.choice([None, "a b c", " pad ", "Zoë – naïve", "tab\tand 'quote' and back\\slash"]),
                "10.0.0.1",
            )
            for i in range(1, 61)
        ],
        "users": [(f"u{i}", rnd.choice(["Oslo", "Rome", "Lima"])) for i in range(3, 16)],
        "customer": [
            (i, f"C{i}", rnd.randrange(6), f"{rnd.choice([13, 31, 23, 44])}-555-{i}", rnd.uniform(-100, 900), rnd.choice(["BUILDING", "AUTOMOBILE"]))
            for i in range(1, 31)
        ],
        "sales": [
            (i, rnd.randint(1, 22), day(), rnd.choice(["1-URGENT", "2-HIGH", "3-MEDIUM"]), 0, rnd.choice(["plain", "special packed requests"]))
            for i in range(1, 121)
        ],
        "supplier": [(i, f"Supplier#{i}", rnd.randrange(6)) for i in range(1, 13)],
        "nation": [(i, name, i % 3) for i, name in enumerate(nations)],
        "region": [(0, "ASIA"), (1, "AMERICA"), (2, "EUROPE")],
        "part": [(i, rnd.choice(["green tin", "red steel", "dark green"]), f"Brand#{i % 4}", rnd.choice(["PROMO TIN", "MEDIUM STEEL", "LARGE BRASS"]), i % 9 + 1) for i in range(1, 21)],
        "partsupp": [(i, s, rnd.randint(1, 99), rnd.uniform(1, 50)) for i in range(1, 21) for s in rnd.sample(range(1, 13), 4)],
    }  # fmt: skip
    pairs = [(row[0], row[1]) for row in rows["partsupp"]]
    rows["lineitem"] = []
    for _ in range(500):
        part, supp = rnd.choice(pairs)
        rows["lineitem"].append(
            (
                rnd.randint(1, 120),
                part,
                supp,
                float(rnd.randint(1, 50)),
                rnd.uniform(10, 1000),
                rnd.choice([0.0, 0.05, 0.06, 0.07, 0.1]),
                rnd.choice([0.0, 0.04, 0.08]),
                rnd.choice("RAN"),
                rnd.choice("OF"),
                day(),
                day(),
                day(),
                rnd.choice(["MAIL", "SHIP", "AIR"]),
            )
        )
    return rows
