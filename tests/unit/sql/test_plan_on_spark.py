"""The check of Spark's plan: it accepts what the gate rewrites, and refuses rewritings with a mistake and texts that were not rewritten.

The leaks of the corpus run here on Spark as well.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from cleanroom.documents.specs import QuerySpec
from cleanroom.errors import PreconditionFailed, Refused
from cleanroom.publishing.query_check import check_draft
from cleanroom.publishing.rehearsal import rehearsal_job, rehearsal_rows
from cleanroom.runs.reader import UserReader
from cleanroom.spark.job import JobParameters
from cleanroom.sql import Catalog, check_sql, split_statements
from tests.governance_documents import CONTRACT, Governance
from tests.unit.spark_support import make_job
from tests.unit.sparkapp.recorded_plans import read, recorded, texts
from tests.unit.sql.honest import GENERAL, TPCH
from tests.unit.sql.honest_floors import COMPANIES, HONEST
from tests.unit.sql.leaks import LEAKS
from tests.unit.sql.plan_attacks import QUERIES, TEXTS
from tests.unit.sql.test_floors import ALLOWED_OVER_FLOORS, populate
from tests.unit.sql.test_leaks import CATALOGS, rows, shows_target
from tests.unit.sql.test_on_spark import QUICK, load
from tests.unit.sql.world import GUARDED, OPEN, run, same_rows

pytestmark = pytest.mark.spark
pyspark = pytest.importorskip("pyspark")

STEP = 1 if os.environ.get("CLEANROOM_ALL_ON_SPARK") else 4
"""The default suite checks every fourth everyday query, all of TPC-H, and all leaks but those of sums that differ for one person."""


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from sparkapp.session import open_session

    session = open_session("plans")
    for name, value in QUICK.items():
        session.conf.set(name, value)
    session.createDataFrame([], "user_key string, region string, amount double").createOrReplaceTempView("hidden")
    yield session
    session.stop()


def check_of(session: Any, catalog: Catalog, data: dict[str, Any]) -> Any:
    """The check of the plans over the views of ``catalog``, which are registered."""
    from sparkapp.plan_check import PlanCheck

    load(session, catalog, data)
    return PlanCheck(session, catalog)


def frame_of(session: Any, statements: list[str]) -> Any:
    for statement in statements:
        frame = session.sql(statement)
    return frame


def rewritten(sql: str, catalog: Catalog) -> list[str]:
    verdict = check_sql(split_statements(sql), catalog)
    assert verdict.allowed, (sql, verdict.reasons)
    return [segment.sql for segment in verdict.rewritten]


def code_of(check: Any, frame: Any) -> str:
    with pytest.raises(Refused) as caught:
        check.require_safe(frame)
    return caught.value.code


def floor_on_customer() -> Catalog:
    data = OPEN.model_dump(mode="json", by_alias=True)
    for view in data["views"]:
        if view["name"] == "customer":
            view["floors"] = [{"minGroupSize": 5, "identity": "c_custkey"}]
    return Catalog.model_validate(data)


@pytest.mark.parametrize(
    ("catalog", "queries"),
    [
        pytest.param(OPEN, GENERAL[::STEP], id="without floors"),
        pytest.param(floor_on_customer(), list(TPCH.values()), id="TPC-H with a floor"),
        pytest.param(GUARDED, [sql for sql, _ in ALLOWED_OVER_FLOORS.values()], id="over floors"),
        pytest.param(COMPANIES, HONEST[::STEP], id="everyday queries"),
    ],
)
def test_plan_of_every_allowed_query_is_safe(catalog: Catalog, queries: list[str], spark: Any) -> None:
    check = check_of(spark, catalog, {})
    allowed = [sql for sql in queries if check_sql(split_statements(sql), catalog).allowed]
    assert len(allowed) >= 0.85 * len(queries)
    refused = {}
    for sql in allowed:
        frame = frame_of(spark, rewritten(sql, catalog))
        try:
            check.require_safe(frame)
        except Refused as error:
            refused[sql] = error.message
    assert not refused


@pytest.fixture(scope="module")
def guarded(spark: Any) -> Any:
    """A check over views without rows. The tests below that use other views follow those that use this check."""
    return check_of(spark, GUARDED, {})


def test_recorded_plans_are_those_of_spark(guarded: Any, spark: Any) -> None:
    """``test_plan_walk.py`` checks all recorded plans, also of rewritten queries with a mistake."""
    plans = {text: plan for text, *_, plan in [*recorded()["accepted"]["guarded"], *recorded()["refused"]]}
    assert plans.keys() == set(texts()["guarded"][1])
    seeded = [text for text in plans if "RAND()" in text]
    assert not [text for text, plan in plans.items() if text not in seeded and read(spark.sql(text)) != plan]


@pytest.mark.parametrize("size", [0, 7_000, 70_000])
def test_text_of_a_plan_is_that_of_spark(size: int, guarded: Any, spark: Any) -> None:
    """Texts that fill one reply of the JVM and several."""
    from sparkapp.plan_check import plan_text

    unpacked = random.Random(size).randbytes(size).hex()
    literal = f"'\u00e4\U0001f512\\\\ \\\" {unpacked}'"
    frame = spark.sql(f"SELECT region, {literal} AS text, COUNT(*) AS n FROM orders GROUP BY region HAVING n > 1")
    text = plan_text(frame)
    assert text == frame._jdf.queryExecution().analyzed().toJSON()
    assert unpacked in text
    assert "\U0001f512" in text


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_was_not_rewritten_is_refused(text: str, guarded: Any, spark: Any) -> None:
    assert code_of(guarded, spark.sql(text)) == TEXTS[text]


def test_view_that_replaces_a_registered_one_is_refused(guarded: Any, spark: Any) -> None:
    spark.sql("CREATE OR REPLACE TEMPORARY VIEW regions AS SELECT region, user_key AS country FROM orders")
    try:
        assert code_of(guarded, spark.sql("SELECT * FROM regions")) == "PlanLeafUnknown"
    finally:
        load(spark, GUARDED, {})


def test_view_with_rows_without_an_identity_is_refused(guarded: Any, spark: Any) -> None:
    from sparkapp.plan_check import PlanCheck

    spark.createDataFrame([], spark.table("orders").schema).createOrReplaceTempView("orders")
    try:
        with pytest.raises(Refused) as caught:
            PlanCheck(spark, GUARDED)
        assert caught.value.code == "PlanLeafUnknown"
        assert "rows without an identity" in caught.value.message
    finally:
        load(spark, GUARDED, {})


def test_view_of_a_segment_may_contain_rows_of_persons_but_no_other_functions(guarded: Any, spark: Any) -> None:
    guarded.require_known(spark.sql("SELECT amount FROM orders"))
    with pytest.raises(Refused, match="Rand"):
        guarded.require_known(spark.sql("SELECT RAND() AS r FROM orders"))


@pytest.mark.parametrize("name", CATALOGS)
def test_no_leak_shows_in_spark_and_the_plan_of_its_text_is_refused(name: str, spark: Any) -> None:
    catalog = CATALOGS[name]
    check = check_of(spark, catalog, rows(name))
    executed, accepted = 0, []
    for kind, items in LEAKS.items():
        step = 2 * STEP if name in ("twins", "second", "open", "mixed") and STEP > 1 else 1
        for sql in [sql for key, sql in items if key == name][::step]:
            verdict = check_sql(split_statements(sql), catalog)
            if verdict.allowed:
                frame = frame_of(spark, [segment.sql for segment in verdict.rewritten])
                executed += 1
                assert not shows_target([tuple(row) for row in frame.collect()], kind), verdict.sql
            try:
                check.require_safe(frame_of(spark, split_statements(sql)))
                accepted.append(sql)
            except Refused:
                pass
    assert not accepted
    assert executed >= (10 if name == "g" else 0)


def test_declared_unique_columns_are_verified_in_all_rows_without_nulls(spark: Any) -> None:
    from sparkapp.views import require_unique

    dataset = make_job().datasets[0].model_copy(update={"unique_columns": ("a", "b")})
    rows = {"a": [1, 1, 2, 3, 3], "b": ["x", "y", "x", None, None]}
    require_unique(spark.createDataFrame(pa.table(rows)), dataset)
    require_unique(spark.createDataFrame(pa.table({"a": [1, 1]})), dataset)  # the query does not read b
    with pytest.raises(PreconditionFailed, match="a, b"):
        require_unique(spark.createDataFrame(pa.table({"a": [*rows["a"], 2], "b": [*rows["b"], "x"]})), dataset)


def test_lint_checks_the_plan_on_empty_views(spark: Any) -> None:
    from sparkapp.plan_check import check_on_empty_views

    statements = rewritten(QUERIES["sum"], GUARDED)
    check_on_empty_views(statements, GUARDED, spark)
    with pytest.raises(Refused):
        check_on_empty_views(["SELECT amount FROM orders"], GUARDED, spark)


# -- rows that are left out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "floor", "count"),
    [
        ("SELECT region, COUNT(*) AS n FROM orders GROUP BY region", 1, 2),
        ("SELECT region, COUNT(*) AS n FROM orders GROUP BY region HAVING COUNT(*) > 1000", 1, 2),
        ("SELECT region, STDDEV(amount) AS d FROM orders GROUP BY region", 1, 2),
        ("WITH t AS (SELECT * FROM orders) SELECT region, COUNT(*) AS n FROM t GROUP BY region", 1, 2),
        # Each person is in one group, so that the groups are not compared.
        (
            "WITH p AS (SELECT user_key, COUNT_IF(region = 'tiny') AS orders FROM orders GROUP BY user_key) "
            "SELECT orders, COUNT(*) AS n FROM p GROUP BY orders",
            1,
            2,
        ),
        ("SELECT region, COUNT(*) AS n FROM orders GROUP BY region", 8, None),
        ("SELECT region, COUNT(*) AS n FROM orders WHERE region = 'north' GROUP BY region", 1, None),
        ("SELECT COUNT(*) AS n FROM orders WHERE region = 'tiny'", 1, 1),
        ("SELECT COUNT(*) AS n FROM orders", 1, None),
    ],
)
def test_number_of_rows_left_out_is_told_only_if_enough_persons_are_in_them(sql: str, floor: int, count: int | None, spark: Any) -> None:
    from sparkapp.suppression import hold_persons

    data = populate(1)
    keep = {"tiny": 3, "west": 4}
    kept: dict[str, set[str]] = {}
    orders = []
    for row in data["orders"]:
        persons = kept.setdefault(row[2], set())
        if row[1] in persons or len(persons) < keep.get(row[2], 100):
            persons.add(row[1])
            orders.append(row)
    load(spark, GUARDED, {**data, "orders": orders})
    frame = frame_of(spark, rewritten(sql, GUARDED))
    held, suppression = hold_persons(spark, frame)
    assert same_rows([tuple(row) for row in held.collect()], [tuple(row) for row in frame.collect()], ordered=False)
    assert suppression is not None
    assert suppression.count(floor) == count
    load(spark, GUARDED, {})


def test_rows_without_a_floor_have_no_number_of_rows_left_out(spark: Any) -> None:
    from sparkapp.suppression import hold_persons

    load(spark, GUARDED, {})
    frame = spark.sql("SELECT region FROM regions")
    assert hold_persons(spark, frame) == (frame, None)


async def test_a_rehearsal_executes_the_query_of_the_pods_on_synthetic_rows(spark: Any) -> None:
    """The result equals that of the rewritten query in DuckDB; rows, floors and preconditions are those of a run."""
    from sparkapp.rehearsal import rehearse

    governance = Governance()
    floors = {"minGroupSize": 7, "identityColumn": "tailnum"}
    governance.publish(
        "contosso-flights", "u-contosso", "read", {"origin": "string", "tailnum": "string", "delay": "number"}, privacy=floors
    )
    governance.publish("litware-planes", "u-litware", "read", {"tailnum": "string", "maker": "string"}, uniqueColumns=["tailnum"])
    governance.publish("litware-delays", "u-litware", "write", {"maker": "string", "flights": "long", "delay": "number"})
    sql = (
        "SELECT p.maker AS maker, COUNT(*) AS flights, AVG(f.delay) AS delay FROM f JOIN p ON f.tailnum = p.tailnum "
        "WHERE f.delay > 100 GROUP BY p.maker"
    )
    spec = QuerySpec.model_validate(
        {
            "name": "delays", "inputs": {"f": "contosso-flights", "p": "litware-planes"}, "output": "litware-delays", "sql": sql,
            "preConditions": [{"viewName": "f", "minRowCount": 400}],
        }
    )  # fmt: skip
    reader: Any = UserReader(governance, CONTRACT)  # type: ignore[arg-type]
    checked = await check_draft(reader, spec, collaboration=CONTRACT, proposer_id="u-fabrikam")
    job = rehearsal_job(checked, checked.require_allowed()[0], JobParameters())
    tables = rehearsal_rows(job, rows=400, seed=1)
    steps = list[str]()
    found = rehearse(job, tables, spark=spark, on_step=steps.append)
    assert found.columns == {"maker": "string", "flights": "long", "delay": "number"}
    assert found.columns_read == {"f": ("tailnum", "delay"), "p": ("tailnum", "maker")}
    connection = duckdb.connect()
    for view, table in tables.items():
        connection.register(view, table)
    assert found.rows == len(run(connection, job.segments[-1].sql)) > 0
    assert found.groups is not None
    assert found.groups - found.rows == found.suppressed
    assert found.suppressed, "some group is below the floor"
    assert steps[-1] == "compute the result"
    with pytest.raises(PreconditionFailed):
        rehearse(job, {view: table.slice(0, 10) for view, table in tables.items()}, spark=spark)
