"""Rewritten queries in Spark under the locked settings: they parse, and return the same rows as in DuckDB."""

from __future__ import annotations

import datetime
import decimal
import os
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from cleanroom.datasets.schema import arrow_schema
from cleanroom.sql import Catalog, GateVerdict, check_sql, locked_spark_conf, split_statements
from sparkapp.reading import SPARK_TYPES
from tests.unit.sql.honest import GENERAL, TPCH
from tests.unit.sql.test_floors import ALLOWED_OVER_FLOORS, populate
from tests.unit.sql.test_privacy_groups import LOW
from tests.unit.sql.world import GUARDED, OPEN, create, open_rows, run_verdict, same_rows

pytestmark = pytest.mark.spark
pyspark = pytest.importorskip("pyspark")

QUICK = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.ui.explainMode": "simple",
}
"""Settings that speed up many small queries and change no result."""
ROUNDED = "CAST(`events`.`spend` AS INT)"
"""DuckDB rounds where Spark truncates."""


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from sparkapp.session import open_session

    session = open_session("query-gate")
    for name, value in QUICK.items():
        session.conf.set(name, value)
    for catalog, rows in ((OPEN, open_rows()), (GUARDED, populate(1))):
        load(session, catalog, rows)
    yield session
    session.stop()


def load(session: Any, catalog: Catalog, rows: dict[str, Any]) -> None:
    """Register the views of ``catalog``."""
    for view in catalog.views:
        kept = {column.name for column in view.visible()} | {c.name for c in view.columns if c.name.lower() in view.identity_columns}
        columns = [(index, column) for index, column in enumerate(view.columns) if column.name in kept]
        types = {column.name: column.type for _, column in columns}
        data = [{column.name: _value(row[index], column.type) for index, column in columns} for row in rows.get(view.name, ())]
        table = pa.Table.from_pylist(data, schema=arrow_schema(types, list(types)))
        frame = session.createDataFrame(table, ", ".join(f"`{name}` {SPARK_TYPES[kind]}" for name, kind in types.items()))
        if rows:  # in one part, which is joined and aggregated without a shuffle, in half the time
            frame = frame.coalesce(1)
        if view.min_group_size:  # as the pod does
            frame = frame.filter(" AND ".join(f"`{identity}` IS NOT NULL" for identity in view.identity_columns))
        frame.createOrReplaceTempView(view.name)


def _value(value: Any, kind: str) -> Any:
    return datetime.date.fromisoformat(value) if kind == "date" and isinstance(value, str) else value


def _plain(rows: list[Any]) -> list[tuple[Any, ...]]:
    def one(value: Any) -> Any:
        if isinstance(value, decimal.Decimal):
            return float(value)
        if isinstance(value, datetime.datetime):
            return value.date() if value.time() == datetime.time() else value
        return value

    return [tuple(one(value) for value in row) for row in rows]


def _execute(session: Any, sql: str) -> list[tuple[Any, ...]]:
    result: list[Any] = []
    for statement in split_statements(sql.replace("__cr_", "cr_")):  # an author may not use reserved names
        result = session.sql(statement).collect()
    return _plain(result)


def _in_duckdb(catalog: Catalog, rows: dict[str, Any], verdict: GateVerdict) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        create(connection, catalog, rows, visible=True)
        return _plain(run_verdict(connection, verdict))


STEP = 1 if os.environ.get("CLEANROOM_ALL_ON_SPARK") else 4
"""The default suite runs every fourth query, and all of TPC-H."""


@pytest.mark.parametrize(
    ("sql", "catalog"),
    [(sql, "open") for sql in [*TPCH.values(), *GENERAL[::STEP]]]
    + [(sql, "guarded") for sql, _ in list(ALLOWED_OVER_FLOORS.values())[::STEP]],
    ids=lambda value: " ".join(value.split())[:60].encode("ascii", "replace").decode(),
)
def test_rewritten_query_returns_the_same_rows_in_spark_and_duckdb(sql: str, catalog: str, spark: Any) -> None:
    rules, rows = (OPEN, open_rows()) if catalog == "open" else (GUARDED, populate(1))
    verdict = check_sql(split_statements(sql), rules)
    if ROUNDED in verdict.sql:
        pytest.skip("DuckDB rounds where Spark truncates")
    assert same_rows(_execute(spark, verdict.sql), _in_duckdb(rules, rows, verdict), ordered=False)


def test_moments_of_persons_make_those_of_the_rows_in_spark(spark: Any) -> None:
    data = populate(3, 900)
    data["orders"] = [(*row[:5], None if row[0] % 3 == 0 else row[5], *row[6:]) for row in data["orders"]]
    load(spark, LOW, data)
    sql = "SELECT region, STDDEV(amount) AS d, VAR_POP(discount) AS v, VARIANCE(age) AS a FROM orders GROUP BY region"
    verdict = check_sql(sql, LOW)
    assert verdict.sql.count("FROM `orders`") == 1, verdict.reasons
    assert same_rows(_execute(spark, verdict.sql), _execute(spark, sql), ordered=False)


def test_a_union_whose_rows_are_made_unique_for_a_join_can_be_optimised(spark: Any) -> None:
    """Spark knows the rows of most views only when it reads them, as here in one part. It folds constant rows while it optimises."""
    rows = populate(1)
    load(spark, GUARDED, rows)
    union = "SELECT region, country FROM regions WHERE region < 'o' UNION ALL SELECT region, country FROM regions WHERE region >= 'o'"
    sql = f"SELECT g.country, SUM(o.amount) AS s FROM orders o JOIN ({union}) g ON o.region = g.region GROUP BY g.country"
    verdict = check_sql(sql, GUARDED)
    assert "QUALIFY COUNT(*) OVER" in verdict.sql, verdict.reasons
    expected = _in_duckdb(GUARDED, rows, verdict)
    assert len(expected) > 1
    assert same_rows(_execute(spark, verdict.sql), expected, ordered=False)


def test_types_in_the_verdict_equal_the_types_in_spark(spark: Any) -> None:
    names = {"int": "integer", "bigint": "long", "double": "number", "void": "null"}
    wrong = []
    for sql in [*TPCH.values(), *GENERAL]:
        verdict = check_sql(split_statements(sql), OPEN)
        statements = split_statements(verdict.sql)
        for statement in statements[:-1]:
            spark.sql(statement)
        for field, column in zip(spark.sql(statements[-1]).schema.fields, verdict.output, strict=True):
            given = field.dataType.simpleString()
            kind = names.get(given, given.split("(")[0].split("<")[0])
            assert field.name == column.name
            if kind != column.type:
                wrong.append((column.name, column.type, given, sql))
    assert not wrong


def test_locked_settings_refuse_files_and_code_without_the_gate(spark: Any, tmp_path: Any) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (f"SELECT * FROM csv.`{tmp_path}/secret.csv`", f"SELECT * FROM text.`{tmp_path}/secret.csv`"):
        with pytest.raises(Exception, match=r"TABLE_OR_VIEW_NOT_FOUND|UNSUPPORTED"):
            spark.sql(sql).collect()
    for sql in (
        "SELECT reflect('java.util.UUID', 'randomUUID')",
        "SELECT java_method('java.lang.System', 'getenv', 'PATH')",
        "SELECT TRANSFORM (user_key) USING 'cat' AS (x) FROM users",
        "BEGIN SELECT 1; END",
    ):
        with pytest.raises(Exception, match=r"RESTRICT|restricted|NOT_ALLOWED|DISABLED|UNSUPPORTED|SCRIPTING"):
            spark.sql(sql).collect()
    assert spark.sql("SELECT '${spark.app.name}' AS s").collect()[0][0] == "${spark.app.name}"
    for name, value in locked_spark_conf().items():
        assert spark.conf.get(name, None) == value
