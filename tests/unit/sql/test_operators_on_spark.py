"""Texts mean in Spark what the gate has read: Spark's syntax tree of a text equals that of the gate's rendering.

Spark's parser executes nothing, so that thousands of texts are compared. A sample is also evaluated. ``CLEANROOM_EXPRESSIONS`` is the
number of pairs of operators and of generated expressions, and a part of it that of statements; ``CLEANROOM_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cleanroom.sql import Catalog, check_sql, split_statements
from cleanroom.sql.text.tokens import Tokens
from cleanroom.sql.vocabulary import EXTRACT_FIELDS, FUNCTIONS, TYPES
from tests.unit.sql.expressions import BrokenStatements, constructs, expression, pairs
from tests.unit.sql.honest import GENERAL, TPCH
from tests.unit.sql.spark_trees import SparkParser
from tests.unit.sql.statements import CATALOG as CATALOG_OF_STATEMENTS
from tests.unit.sql.statements import ROWS as ROWS_OF_STATEMENTS
from tests.unit.sql.statements import Statements
from tests.unit.sql.test_language import LANGUAGE
from tests.unit.sql.world import OPEN

pytestmark = pytest.mark.spark
pyspark = pytest.importorskip("pyspark")

CATALOG = Catalog.model_validate(
    {"views": {"t": {"a": "integer", "c": "integer", "x": "number", "b": "boolean", "d": "boolean", "s": "string"}}}
)
ROWS = [(3, 5, 1.5, True, False, "5"), (0, 7, -2.0, False, False, "a1"), (-4, 1, 0.5, None, True, None), (None, 2, 3.0, True, None, "17")]
NUMBER = int(os.environ.get("CLEANROOM_EXPRESSIONS", "1500"))
SEED = int(os.environ.get("CLEANROOM_SEED", "10"))
BATCH = 100
VALUES = 40
"""Expressions that are also evaluated: Spark needs most of the time for their analysis."""
_BEFORE, _AFTER = "SELECT\n  ", " AS `v`\nFROM `t` AS `t`"


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
    for name, (columns, rows) in ROWS_OF_STATEMENTS.items():
        session.createDataFrame(rows, columns).coalesce(1).createOrReplaceTempView(name)
    yield session
    session.stop()


@pytest.fixture(scope="module")
def parser(spark: Any) -> SparkParser:
    return SparkParser(spark)


def rewritten(text: str) -> str | None:
    """The gate's rendering of an expression; None if the gate refuses it."""
    verdict = check_sql(f"SELECT {text} AS v FROM t", CATALOG)
    if not verdict.allowed:
        return None
    rendering = verdict.sql.removeprefix(_BEFORE).removesuffix(_AFTER)
    assert len(rendering) == len(verdict.sql) - len(_BEFORE) - len(_AFTER), (text, verdict.sql)
    return rendering


def differences(texts: Sequence[str], parser: SparkParser) -> list[tuple[str, str]]:
    """Expressions that Spark does not read, or not as the gate does, with their rendering. The shortest is first."""
    accepted = [(text, rendering) for text in dict.fromkeys(texts) if (rendering := rewritten(text)) is not None]
    found = []
    for start in range(0, len(accepted), BATCH):
        batch = accepted[start : start + BATCH]
        before, after = (parser.trees([pair[side] for pair in batch]) for side in (0, 1))
        found += [pair for pair, one, two in zip(batch, before, after, strict=True) if one is None or one != two]
    return sorted(found, key=lambda pair: len(pair[0]))


def test_every_construct_of_the_language_has_the_same_tree_as_in_spark(parser: SparkParser) -> None:
    texts = constructs(1 if NUMBER >= 6000 else 2)
    accepted = [text for text in texts if rewritten(text) is not None]
    words = set(re.findall(r"[A-Z_0-9]+", " ".join(map(str, map(rewritten, accepted)))))
    assert FUNCTIONS.keys() - words == {"EXPLODE", "EXPLODE_OUTER", "POSEXPLODE", "POSEXPLODE_OUTER"}
    assert not {name for name, _ in TYPES.values()} - words
    assert not EXTRACT_FIELDS - words
    generator, known = Statements(random.Random(SEED)), [*TPCH.values(), *GENERAL]
    statements = [text for text in (generator.one() for _ in range(300)) if check_sql(text, CATALOG_OF_STATEMENTS).allowed]
    statements += [part for text in known for part in split_statements(text)] + [f"SELECT {text} AS v FROM t" for text in accepted]
    views = ["CREATE OR REPLACE TEMP VIEW v AS SELECT a FROM t", "SELECT a FROM t"]
    assert check_sql(views, CATALOG).allowed
    assert not LANGUAGE - {kind for text in [*statements, *views] for kind in Tokens(text).kinds}
    assert not differences(texts, parser)


def test_operators_next_to_each_other_have_the_same_tree_as_in_spark(parser: SparkParser) -> None:
    texts = list(pairs())
    assert not differences(texts if len(texts) < NUMBER else random.Random(SEED).sample(texts, NUMBER), parser)


@seed(SEED)
@settings(
    max_examples=max(1, NUMBER // BATCH), deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.integers(0, 2**32))
def test_generated_expressions_have_the_same_tree_as_in_spark(parser: SparkParser, number: int) -> None:
    rnd = random.Random(number)
    assert not differences([expression(rnd, rnd.randint(1, 4)) for _ in range(BATCH)], parser)


def test_broken_statement_that_the_gate_accepts_is_a_statement_of_spark(parser: SparkParser) -> None:
    broken = BrokenStatements([text for text in [*TPCH.values(), *GENERAL] if len(split_statements(text)) == 1 and len(text) < 400])
    rnd = random.Random(SEED)
    for _ in range(NUMBER // 10):
        text = broken.one(rnd)
        if check_sql(text, OPEN).allowed:
            assert not parser.statement_problem(text), text


def test_generated_expressions_have_the_same_values_as_written_and_as_rewritten(spark: Any) -> None:
    rnd = random.Random(SEED)
    texts: dict[str, str] = {}
    while len(texts) < VALUES:
        text = expression(rnd, rnd.randint(1, 3))
        rendering = rewritten(text)
        if rendering is not None and not re.search("SELECT|NOW|CURRENT", text) and _analyses(spark, text):
            texts[text] = rendering
    for (text, rendering), before, after in zip(texts.items(), _values(spark, [*texts]), _values(spark, [*texts.values()]), strict=True):
        assert before == after, (text, rendering)


def test_generated_statements_return_the_same_rows_as_written_and_as_rewritten(spark: Any) -> None:
    generator, compared = Statements(random.Random(SEED)), 0
    while compared < NUMBER // 300:
        text = generator.one()
        verdict = check_sql(text, CATALOG_OF_STATEMENTS)
        written = _frame(spark, text) if verdict.allowed else None
        if isinstance(written, str):  # Spark has no answer: of another type, or for columns that USING hides
            assert "MISSING_ATTRIBUTES" in written or isinstance(_frame(spark, verdict.sql), str), (text, verdict.sql)
        elif written is not None:
            ours = spark.sql(verdict.sql)
            plans = [frame._jdf.queryExecution().optimizedPlan() for frame in (written, ours)]
            assert plans[0].sameResult(plans[1]) or _rows(written) == _rows(ours), (text, verdict.sql)
            compared += 1


def _frame(session: Any, text: str) -> Any:
    """The rows of a statement, or why Spark refuses it."""
    try:
        return session.sql(text)
    except Exception as error:
        return str(error)


def _rows(frame: Any) -> list[str]:
    return sorted(repr(tuple(row)) for row in frame.collect())


def _values(session: Any, texts: list[str]) -> list[str]:
    """Values of expressions in all rows, or that Spark fails. All are evaluated together if possible."""
    columns = ", ".join(f"{text}\n AS v{number}" for number, text in enumerate(texts))
    try:
        rows = session.sql(f"SELECT {columns} FROM t").collect()
    except Exception:
        middle = len(texts) // 2
        return [*_values(session, texts[:middle]), *_values(session, texts[middle:])] if middle else ["failed"]
    return [repr([row[number] for row in rows]) for number in range(len(texts))]


def _analyses(session: Any, text: str) -> bool:
    try:
        schema = session.sql(f"SELECT {text}\n AS v FROM t").schema
    except Exception:
        return False
    return "interval" not in schema[0].dataType.simpleString()  # PySpark cannot read all of them
