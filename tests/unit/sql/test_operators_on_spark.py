"""Expressions mean in Spark what their author wrote: generated expressions give the same values as written and as rewritten.

``CLEANROOM_EXPRESSIONS`` is the number of expressions; the default is 300, which takes about 20 seconds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from cleanroom.sql import Catalog, check_sql

pytestmark = pytest.mark.spark
pyspark = pytest.importorskip("pyspark")

CATALOG = Catalog.model_validate(
    {"views": {"t": {"a": "integer", "c": "integer", "x": "number", "b": "boolean", "d": "boolean", "s": "string"}}}
)
ROWS = [(3, 5, 1.5, True, False, "5"), (0, 7, -2.0, False, False, "a1"), (-4, 1, 0.5, None, True, None), (None, 2, 3.0, True, None, "17")]
BATCH = 150
_OPERATORS = [
    "+", "-", "*", "/", "%", "DIV", "||", "&", "|", "^", "=", "<>", "<", "<=", ">", ">=", "<=>", "AND", "OR", "LIKE", "IS DISTINCT FROM",
]  # fmt: skip


def expression(rnd: random.Random, depth: int) -> str:
    """An expression of the grammar, mostly without parentheses."""
    if depth == 0 or rnd.random() < 0.15:
        return rnd.choice(["a", "c", "x", "b", "d", "s", "1", "2", "0", "'5'", "TRUE", "NULL", "-1", "1.5"])
    one, two, three = (expression(rnd, depth - 1) for _ in range(3))
    kind = rnd.random()
    if kind < 0.62:
        return f"{one} {rnd.choice(_OPERATORS)} {two}"
    if kind < 0.72:
        return f"({one}) {rnd.choice(_OPERATORS)} {two}"
    if kind < 0.8:
        return f"{rnd.choice(['NOT ', '-', '~', '- '])}{one}"
    if kind < 0.86:
        return f"{one} IS {rnd.choice(['', 'NOT '])}{rnd.choice(['NULL', 'TRUE', 'FALSE'])}"
    if kind < 0.92:
        return f"{one} {rnd.choice(['', 'NOT '])}BETWEEN {two} AND {three}"
    if kind < 0.96:
        return f"{one} {rnd.choice(['', 'NOT '])}IN ({two}, {three})"
    return rnd.choice([f"{one}::string", f"CAST({one} AS STRING)", f"CASE WHEN {one} THEN {two} ELSE {three} END", f"{one}::int"])


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from sparkapp.session import open_session

    session = open_session("operators")
    for name, value in {
        "spark.sql.ansi.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.shuffle.partitions": "1",
    }.items():
        session.conf.set(name, value)
    schema = "a int, c int, x double, b boolean, d boolean, s string"
    session.createDataFrame(ROWS, schema).coalesce(1).createOrReplaceTempView("t")
    yield session
    session.stop()


def _analyses(session: Any, sql: str) -> bool:
    try:
        return bool(session.sql(sql).schema)
    except Exception:
        return False


def test_generated_expressions_mean_the_same_as_written_and_as_rewritten(spark: Any) -> None:
    rnd = random.Random(10)
    wanted = int(os.environ.get("CLEANROOM_EXPRESSIONS", "300"))
    written: list[str] = []
    rewritten: list[str] = []
    compared = 0
    tried = 0
    while compared < wanted:
        tried += 1
        text = expression(rnd, rnd.randint(1, 3))
        verdict = check_sql(f"SELECT {text} AS v FROM t", CATALOG)
        if not verdict.allowed:
            continue
        original, rendered = f"SELECT {text} AS v FROM t", verdict.sql
        if not _analyses(spark, original):
            assert not _analyses(spark, rendered), f"Spark refuses {text!r} and accepts {rendered}"
            continue
        written.append(text)
        rewritten.append(rendered.split("\n")[1].strip().removesuffix("AS `v`"))
        if len(written) == BATCH:
            _compare(spark, written, rewritten)
            compared += len(written)
            written, rewritten = [], []
    assert tried > compared


def _compare(session: Any, written: list[str], rewritten: list[str]) -> None:
    before = session.sql("SELECT " + ", ".join(f"{text} AS v{i}" for i, text in enumerate(written)) + " FROM t").collect()
    after = session.sql("SELECT " + ", ".join(f"{text} AS v{i}" for i, text in enumerate(rewritten)) + " FROM t").collect()
    for one, two in zip(before, after, strict=True):
        for index, (left, right) in enumerate(zip(one, two, strict=True)):
            assert repr(left) == repr(right), (written[index], rewritten[index], left, right)


@pytest.mark.parametrize(
    "text", ["1 | 2 & 0", "'5' || 9 + 1", "b = b < b", "1 BETWEEN 0 AND 2 = TRUE", "-1::string", "a + NOT b", "s IS NULL = b", "b = NOT d"]
)
def test_operators_that_the_parsers_read_differently_need_parentheses(text: str) -> None:
    (reason,) = check_sql(f"SELECT {text} AS v FROM t", CATALOG).reasons
    assert reason.code == "ParenthesesNeeded"
    assert reason.position is not None
