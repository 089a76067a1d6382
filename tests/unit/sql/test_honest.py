"""The gate allows honest queries, and the rewritten query returns the same rows."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from cleanroom.sql import check_sql, split_statements
from tests.unit.sql.honest import GENERAL, TPCH
from tests.unit.sql.world import OPEN, create, open_rows, run, run_verdict, same_rows

HONEST = [
    *(pytest.param(sql, id=f"tpch-{name}") for name, sql in TPCH.items()),
    *(pytest.param(sql, id=f"general-{i}") for i, sql in enumerate(GENERAL)),
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        create(connection, OPEN, open_rows(), visible=True)
        yield connection


@pytest.mark.parametrize("sql", HONEST)
def test_honest_query_is_allowed_and_keeps_its_result(sql: str, connection: duckdb.DuckDBPyConnection) -> None:
    verdict = check_sql(split_statements(sql), OPEN)
    assert verdict.allowed, [(reason.code, reason.message) for reason in verdict.reasons]
    expected = run(connection, sql)
    ordered = "order by" in sql.lower().rsplit(")", 1)[-1]
    assert same_rows(run_verdict(connection, verdict), expected, ordered=ordered)
    assert [column.name for column in verdict.output]


def test_honest_corpus_has_at_least_60_queries_and_most_return_rows(connection: duckdb.DuckDBPyConnection) -> None:
    assert len(HONEST) >= 60
    found = sum(bool(run(connection, sql)) for sql in [*TPCH.values(), *GENERAL])
    assert found >= 0.9 * len(HONEST)
